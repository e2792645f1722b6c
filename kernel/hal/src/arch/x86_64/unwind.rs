//! When the kernel itself is wrong: panics that cost one thread, oopses, backtraces, the end of the machine.
//!
//! ```text
//! panic in a thread's own context    report, unwind its stack (guards release their locks), upcall oops, thread_exit
//! exception in kernel code           report, upcall oops, thread_exit; its stack is not unwound: the instruction has
//!                                    no landing pad. With preemption off: fatal
//! panic or exception in a handler, in the unwinder, before the first thread: fatal
//! fatal                              report, then what `panic=` on the command line says: wait, reboot, halt
//! ```
//!
//! The unwinder stops at the frame where the thread came from user mode: [`entry_personality`] claims it. Kernel
//! threads run inside [`catch`].
//!
//! Sources: Itanium C++ ABI: Exception Handling, level I; Documentation/admin-guide/kernel-parameters.txt (`panic=`,
//! `oops=panic`).

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unwinding::abi::{
    _Unwind_Backtrace, _Unwind_GetCFA, _Unwind_GetIP, _Unwind_GetRegionStart, _Unwind_SetGR, _Unwind_SetIP,
    UnwindAction, UnwindContext, UnwindException, UnwindReasonCode,
};
use unwinding::panicking::{self, Exception};

use super::console::Console;
use super::exception::vector;
use super::{cpulocal, instr, symbols};
use crate::addr::USER_END;
use crate::power;
use crate::preempt::NO_RESCHED;
use crate::trap::{self, Oops, UserRegs};

const MESSAGE_BYTES: usize = 232;
const RECORDS: usize = 8;
const MAX_FRAMES: usize = 48;
/// DWARF number of RAX, in which a landing pad gets the exception.
const DWARF_RAX: i32 = 0;

/// A panic on its way down a stack. They lie in a fixed pool: a panicking allocator must not be asked for memory.
#[repr(C)]
struct Record {
    exception: UnsafeCell<MaybeUninit<UnwindException>>,
    used: AtomicBool,
    message: UnsafeCell<Message>,
}

// SAFETY: whoever sets `used` owns the other fields until it clears it.
unsafe impl Sync for Record {}

static POOL: [Record; RECORDS] = [const {
    Record {
        exception: UnsafeCell::new(MaybeUninit::uninit()),
        used: AtomicBool::new(false),
        message: UnsafeCell::new(Message { bytes: [0; MESSAGE_BYTES], len: 0 }),
    }
}; RECORDS];

/// Text of a fixed size; what does not fit is cut.
#[derive(Clone, Copy)]
struct Message {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl Message {
    fn new(args: fmt::Arguments<'_>) -> Message {
        let mut message = Message { bytes: [0; MESSAGE_BYTES], len: 0 };
        let _cut = message.write_fmt(args);
        message
    }

    fn as_str(&self) -> &str {
        match core::str::from_utf8(&self.bytes[..self.len]) {
            Ok(text) => text,
            Err(cut) => core::str::from_utf8(&self.bytes[..cut.valid_up_to()]).unwrap_or(""),
        }
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let take = text.len().min(MESSAGE_BYTES - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// A claimed record of the pool.
struct KernelPanic(&'static Record);

impl KernelPanic {
    fn new(message: Message) -> Option<KernelPanic> {
        let free = |record: &&Record| !record.used.swap(true, Ordering::Acquire);
        let record = POOL.iter().find(free)?;
        // SAFETY: the swap made the record ours.
        unsafe { *record.message.get() = message };
        Some(KernelPanic(record))
    }

    /// Gives the record back and takes its message.
    fn finish(self) -> Message {
        // SAFETY: the record is ours until the next line.
        let message = unsafe { *self.0.message.get() };
        self.0.used.store(false, Ordering::Release);
        message
    }
}

// SAFETY: `wrap` gives a pointer to an `UnwindException` that lives on; it is the first field of a `repr(C)` record,
// so `unwrap` gets the record back from it.
unsafe impl Exception for KernelPanic {
    const CLASS: [u8; 8] = *b"KEELRUST";

    fn wrap(this: Self) -> *mut UnwindException {
        this.0.exception.get().cast()
    }

    unsafe fn unwrap(exception: *mut UnwindException) -> Self {
        // SAFETY: the caller passes what `wrap` gave, which points into the static pool.
        KernelPanic(unsafe { &*exception.cast::<Record>() })
    }
}

/// Calls `f`; `Err` if it panicked, after the report and the upcall.
pub(super) fn catch(f: impl FnOnce()) -> Result<(), ()> {
    panicking::catch_unwind::<KernelPanic, _, _>(f).map_err(|panic| {
        if let Some(panic) = panic {
            after_unwinding(panic);
        }
    })
}

/// The thread's stack is unwound: tell the floors above.
fn after_unwinding(panic: KernelPanic) {
    let message = panic.finish();
    panicking().store(false, Ordering::Relaxed);
    if !crate::irq::enabled() {
        crate::irq::enable();
    }
    if let Some(upcalls) = trap::upcalls() {
        upcalls.oops(&Oops { message: message.as_str(), in_thread: true });
    }
}

/// The landing pad of entry code: a panic came out of a system call or an exception from user mode.
pub(super) extern "C-unwind" fn unwound(exception: *mut UnwindException) -> ! {
    // SAFETY: the only exceptions in this kernel are `KernelPanic`s.
    after_unwinding(unsafe { KernelPanic::unwrap(exception) });
    crate::thread::exit()
}

unsafe extern "C" {
    fn keel_trap_entry();
    fn keel_unwound();
}

/// The personality routine of entry code: stops unwinding where the thread left user mode.
pub(super) unsafe extern "C" fn entry_personality(
    _version: i32,
    actions: UnwindAction,
    _class: u64,
    exception: *mut UnwindException,
    context: &mut UnwindContext<'_>,
) -> UnwindReasonCode {
    if _Unwind_GetRegionStart(context) == keel_trap_entry as *const () as usize {
        // The frame of a trap: was the kernel interrupted? Then go on below it. RSP was 8 below the registers.
        let regs = (_Unwind_GetCFA(context) + 8) as *const UserRegs;
        // SAFETY: the unwinder found this frame, which entry code lays out so.
        if unsafe { (*regs).cs } & 3 == 0 {
            return UnwindReasonCode::CONTINUE_UNWIND;
        }
    }
    if actions.contains(UnwindAction::SEARCH_PHASE) {
        return UnwindReasonCode::HANDLER_FOUND;
    }
    _Unwind_SetGR(context, DWARF_RAX, exception as usize);
    _Unwind_SetIP(context, keel_unwound as *const () as usize);
    UnwindReasonCode::INSTALL_CONTEXT
}

/// As `ArchThread::panicking`, for code that is no thread yet.
static PANICKING_EARLY: AtomicBool = AtomicBool::new(false);
/// The CPU that stops the machine, plus one; the others keep quiet.
static FATAL_ON: AtomicU32 = AtomicU32::new(0);

/// Whether the running thread is between a panic and the end of its unwinding: the next panic is one too many.
fn panicking() -> &'static AtomicBool {
    // SAFETY: the current thread is alive, and callers use the flag only while they are that thread.
    match unsafe { cpulocal::current_thread().as_ref() } {
        Some(thread) => &thread.arch.panicking,
        None => &PANICKING_EARLY,
    }
}

/// Writes a line of a report: to the log where that is safe, straight to the serial port otherwise.
fn report(fatal: bool, args: fmt::Arguments<'_>) {
    if fatal {
        let _ = Console.write_fmt(args);
        let _ = Console.write_str("\n");
    } else {
        crate::klog::print(crate::klog::Level::Emergency, args);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let double = panicking().swap(true, Ordering::Relaxed);
    let alone = cpulocal::current_thread().is_null() || cpulocal::in_interrupt();
    let fatal = double || alone || power::oops_stops();
    let message = match info.location() {
        Some(place) => Message::new(format_args!("{} at {}:{}", info.message(), place.file(), place.line())),
        None => Message::new(format_args!("{}", info.message())),
    };
    power::count_oops();
    report(fatal, format_args!("kernel panic on CPU {}: {}", cpulocal::current_id(), message.as_str()));
    if !double {
        backtrace(fatal);
        if !fatal && let Some(panic) = KernelPanic::new(message) {
            // Comes back only when nobody catches.
            let _code = panicking::begin_panic(panic);
            report(true, format_args!("the panic could not be unwound"));
        }
    }
    stop_machine(message.as_str())
}

/// An exception in kernel code that nothing expected.
pub(super) fn die(vector: u8, error_code: u64, cr2: u64, regs: &UserRegs) -> ! {
    let nested = panicking().swap(true, Ordering::Relaxed);
    let no_thread = cpulocal::current_thread().is_null() || trap::upcalls().is_none();
    let atomic = cpulocal::preempt_load() & !NO_RESCHED != 0;
    let fatal = nested || no_thread || atomic || power::oops_stops();
    let message = Message::new(format_args!(
        "{} (error {error_code:#x}, cr2 {cr2:#x}) at {:#x}",
        name(vector),
        regs.rip
    ));
    power::count_oops();
    report(fatal, format_args!("kernel oops on CPU {}: {}", cpulocal::current_id(), message.as_str()));
    report_regs(fatal, regs);
    if !nested {
        backtrace(fatal);
    }
    if fatal {
        stop_machine(message.as_str())
    }
    panicking().store(false, Ordering::Relaxed);
    if regs.rflags & 1 << 9 == 0 {
        report(false, format_args!("interrupts were off"));
    }
    crate::irq::enable();
    if let Some(upcalls) = trap::upcalls() {
        upcalls.oops(&Oops { message: message.as_str(), in_thread: true });
    }
    crate::thread::exit()
}

fn name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        vector::NMI => "NMI",
        3 => "breakpoint",
        6 => "invalid opcode",
        vector::DOUBLE_FAULT => "double fault (kernel stack overflow?)",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        vector::GENERAL_PROTECTION => "general protection fault",
        vector::PAGE_FAULT => "page fault",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD exception",
        21 => "control protection",
        _ => "exception",
    }
}

fn report_regs(fatal: bool, r: &UserRegs) {
    report(
        fatal,
        format_args!(" rip {:016x} rsp {:016x} rflags {:08x} cs {:x}", r.rip, r.rsp, r.rflags, r.cs),
    );
    report(
        fatal,
        format_args!(" rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx),
    );
    report(
        fatal,
        format_args!(" rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8),
    );
    report(
        fatal,
        format_args!(" r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12),
    );
    report(
        fatal,
        format_args!(" r13 {:016x} r14 {:016x} r15 {:016x} cr3 {:x}", r.r13, r.r14, r.r15, instr::read_cr3()),
    );
}

/// Prints the call stack, innermost first.
fn backtrace(fatal: bool) {
    struct Walk {
        fatal: bool,
        left: usize,
    }
    extern "C" fn frame(context: &UnwindContext<'_>, walk: *mut c_void) -> UnwindReasonCode {
        // SAFETY: `backtrace` passes its `Walk`, which outlives the walk.
        let walk = unsafe { &mut *walk.cast::<Walk>() };
        let ip = _Unwind_GetIP(context);
        if walk.left == 0 || ip == 0 {
            return UnwindReasonCode::NORMAL_STOP;
        }
        walk.left -= 1;
        if ip < USER_END as usize {
            report(walk.fatal, format_args!("  {ip:#018x} user"));
            return UnwindReasonCode::NORMAL_STOP;
        }
        match symbols::lookup(ip) {
            Some((name, offset)) => report(walk.fatal, format_args!("  {ip:#018x} {name}+{offset:#x}")),
            None => report(walk.fatal, format_args!("  {ip:#018x} (image+{:#x})", symbols::image_offset(ip))),
        }
        UnwindReasonCode::NO_REASON
    }
    let mut walk = Walk { fatal, left: MAX_FRAMES };
    report(fatal, format_args!("call trace:"));
    // Reads the stack as the unwind tables describe it; `frame` gets the pointer it expects.
    let _code = _Unwind_Backtrace(frame, (&raw mut walk).cast());
}

/// Stops the machine for good.
pub(crate) fn stop_machine(message: &str) -> ! {
    instr::cli();
    let me = cpulocal::current_id() + 1;
    let first = FATAL_ON.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed);
    if first.is_err_and(|other| other != me) {
        super::power::halt_forever()
    }
    if first.is_ok() {
        super::irq::stop_others();
        if let Some(upcalls) = trap::upcalls() {
            upcalls.oops(&Oops { message, in_thread: false });
        }
        report(true, format_args!("Kernel panic - not syncing: {message}"));
    }
    let seconds = power::panic_seconds();
    if seconds == 0 {
        super::power::halt_forever()
    }
    let until = crate::time::now_ns().saturating_add(seconds.max(0) as u64 * 1_000_000_000);
    while crate::time::now_ns() < until {
        instr::pause();
    }
    power::reboot()
}
