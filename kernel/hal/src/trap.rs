//! What the machine calls when something happens: system calls, faults, interrupts.
//!
//! The floors above register one [`Upcalls`] object at boot; hal knows nothing else about them.

use alloc::sync::Arc;

use crate::addr::UserAddr;
use crate::sync::Once;
use crate::thread::Thread;

/// User registers at entry to the kernel, in the order of Linux's `struct pt_regs` (ptrace and signal
/// frames show them so). Returning to user mode sanitises `rflags`, and segments or an `rip` that the machine would refuse
/// become the exception that the program would have met. Whoever gives the current thread other segments than it came
/// with calls [`crate::thread::Current::note_segments`].
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The system-call number at entry, or all ones when the entry was no system call.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The kind of access that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// A write (else a read or an instruction fetch).
    pub write: bool,
    /// An instruction fetch.
    pub exec: bool,
    /// Done by user code (else by the kernel on its behalf, in a user copy).
    pub user_mode: bool,
    /// The page is there, and the rights of the thread over its protection key refuse the access.
    pub by_key: bool,
}

/// A CPU exception raised by user code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector number (Intel SDM vol. 3, table 6-1).
    pub vector: u8,
    /// The CPU's error code; the bits of DR6 for a debug exception; 0 where there is neither.
    pub error_code: u64,
    /// The faulting address of a page fault, else 0.
    pub cr2: u64,
}

/// A kernel bug that was caught; see [`Upcalls::oops`].
#[derive(Clone, Copy, Debug)]
pub struct Oops<'a> {
    /// The message of the panic or exception.
    pub message: &'a str,
    /// Was it in a thread's own context, so that only this thread dies?
    pub in_thread: bool,
}

/// What hal needs from the floors above. All run on the kernel stack of the current thread.
///
/// Interrupts are on in `syscall`, `page_fault`, `user_exception`, `exit_to_user` and `thread_started`,
/// and off in `timer_interrupt` and `reschedule_ipi`.
pub trait Upcalls: Sync {
    /// A system call: number in `orig_rax`, arguments in rdi, rsi, rdx, r10, r8, r9; the result goes to `rax`.
    fn syscall(&self, regs: &mut UserRegs);

    /// A page fault on a user address; may sleep.
    ///
    /// `regs` is `None` when a user copy in the kernel faulted: there `Err` makes the copy fail with
    /// [`crate::Fault`]. For user mode the callee sends the signal itself, and `Err` changes nothing.
    #[expect(clippy::result_unit_err, reason = "a copy that cannot go on has one outcome")]
    fn page_fault(&self, addr: UserAddr, access: Access, regs: Option<&mut UserRegs>) -> Result<(), ()>;

    /// Another exception raised by user code.
    fn user_exception(&self, exception: Exception, regs: &mut UserRegs);

    /// The slow way out: called before return to user mode while the thread's work flags are not 0.
    fn exit_to_user(&self, regs: &mut UserRegs);

    /// The one-shot timer of this CPU fired; interrupts are off.
    fn timer_interrupt(&self);

    /// Another CPU kicked this one (after setting a work flag); interrupts are off.
    fn reschedule_ipi(&self);

    /// First call in a new thread, before its entry function; `prev` is the thread that switched here.
    /// Interrupts are off and the preemption count is 1; hal puts both back to normal afterwards.
    fn thread_started(&self, prev: Arc<Thread>);

    /// The last call of a thread whose entry returned or panicked. Must not return: it switches away.
    fn thread_exit(&self) -> !;

    /// A kernel bug was caught. Called before the thread dies, or before the machine stops.
    fn oops(&self, oops: &Oops<'_>);
}

static UPCALLS: Once<&'static dyn Upcalls> = Once::new();

/// Registers the floors above; only the first call counts.
pub fn register(upcalls: &'static dyn Upcalls) {
    UPCALLS.call_once(|| upcalls);
}

/// The registered upcalls, or `None` early at boot.
pub fn upcalls() -> Option<&'static dyn Upcalls> {
    UPCALLS.get().copied()
}

/// Did the interrupt that is being handled on this CPU come in user mode? Only meaningful in a handler.
pub fn interrupted_user_mode() -> bool {
    crate::arch::irq::interrupted_user_mode()
}
