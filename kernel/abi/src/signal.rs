//! Signals: numbers, sets, actions, `siginfo_t`, and the frame of a handler (signal(7), sigaction(2)).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Highest signal number.
pub const NSIG: u32 = 64;
/// Lowest real-time signal of the kernel (signal(7)).
pub const SIGRTMIN: u32 = 32;

macro_rules! signals {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[doc = concat!("Signal ", stringify!($value), " (signal(7)).")] pub const $name: u32 = $value;)*
    };
}

signals! {
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8,
    SIGKILL = 9, SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15,
    SIGSTKFLT = 16, SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22,
    SIGURG = 23, SIGXCPU = 24, SIGXFSZ = 25, SIGVTALRM = 26, SIGPROF = 27, SIGWINCH = 28, SIGIO = 29,
    SIGPWR = 30, SIGSYS = 31,
}

/// A set of signals: bit `n - 1` stands for signal `n`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// The set with no signal.
    pub const EMPTY: Self = Self(0);
    /// `SIGKILL` and `SIGSTOP`, which cannot be caught, blocked or ignored.
    pub const UNBLOCKABLE: Self = Self::of(SIGKILL).union(Self::of(SIGSTOP));

    /// The set that holds just signal `sig`; empty when `sig` is not between 1 and 64.
    #[inline]
    pub const fn of(sig: u32) -> Self {
        if sig >= 1 && sig <= NSIG { Self(1 << (sig - 1)) } else { Self(0) }
    }

    /// Whether `sig` is in the set.
    #[inline]
    pub const fn has(self, sig: u32) -> bool {
        self.0 & Self::of(sig).0 != 0
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All signals of either set.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The signals in this set and not in `other`.
    #[inline]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The signals in both sets.
    #[inline]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The lowest signal in the set.
    #[inline]
    pub const fn first(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() + 1) }
    }
}

bitflags! {
    /// `SA_*` flags of sigaction(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct SaFlags: u64 {
        const NOCLDSTOP = 1;
        const NOCLDWAIT = 2;
        const SIGINFO = 4;
        const UNSUPPORTED = 0x400;
        const EXPOSE_TAGBITS = 0x800;
        const RESTORER = 0x0400_0000;
        const ONSTACK = 0x0800_0000;
        const RESTART = 0x1000_0000;
        const NODEFER = 0x4000_0000;
        const RESETHAND = 0x8000_0000;
    }
}

/// The handler value that means the default action.
pub const SIG_DFL: u64 = 0;
/// The handler value that means to ignore the signal.
pub const SIG_IGN: u64 = 1;

/// The kernel's `struct sigaction` of rt_sigaction(2), 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: SigSet,
}

/// `stack_t` of sigaltstack(2), 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackT {
    pub ss_sp: u64,
    pub ss_flags: u32,
    pub pad0: u32,
    pub ss_size: u64,
}

/// `ss_flags`: the thread runs on its alternate stack.
pub const SS_ONSTACK: u32 = 1;
/// `ss_flags`: no alternate stack.
pub const SS_DISABLE: u32 = 2;
/// `ss_flags`: forget the stack when a handler starts on it.
pub const SS_AUTODISARM: u32 = 1 << 31;

/// `siginfo_t`, 128 bytes: three numbers and a union, kept as raw words here.
///
/// ```text
/// byte  0 signo  4 errno  8 code  12 padding
///      16 kill:  pid uid                 timer: tid overrun value
///         rt:    pid uid value           child: pid uid status utime stime
///         fault: addr (addr_lsb, key)    poll:  band fd
///         sys:   call_addr nr arch
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// Error number, mostly zero.
    pub errno: i32,
    /// Cause, a `SI_*` or signal-specific code.
    pub code: i32,
    /// Always zero.
    pub pad0: i32,
    /// The union, by cause.
    pub fields: [u64; 14],
}

impl SigInfo {
    /// A siginfo with number and cause, and nothing in the union.
    #[inline]
    pub const fn new(signo: u32, code: i32) -> Self {
        Self { signo: signo as i32, errno: 0, code, pad0: 0, fields: [0; 14] }
    }

    /// Sent by a process (`SI_USER`, `SI_TKILL`): sender's pid and real uid.
    #[inline]
    pub const fn user(signo: u32, code: i32, pid: i32, uid: u32) -> Self {
        let mut info = Self::new(signo, code);
        info.fields[0] = pid as u32 as u64 | (uid as u64) << 32;
        info
    }

    /// Sent by the kernel itself (`SI_KERNEL`).
    #[inline]
    pub const fn kernel(signo: u32) -> Self {
        Self::new(signo, SI_KERNEL)
    }

    /// A fault at address `addr` (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`, `SIGTRAP`).
    #[inline]
    pub const fn fault(signo: u32, code: i32, addr: u64) -> Self {
        let mut info = Self::new(signo, code);
        info.fields[0] = addr;
        info
    }

    /// An access to `addr` that the rights over protection key `key` refuse (`SIGSEGV`).
    pub const fn key_fault(addr: u64, key: u8) -> Self {
        let mut info = Self::fault(SIGSEGV, SEGV_PKUERR, addr);
        // `_addr_pkey._pkey` lies behind a pointer's place (siginfo.h).
        info.fields[2] = key as u64;
        info
    }

    /// An access to the page at `addr`, whose contents are lost (`SIGBUS`).
    pub const fn poison(addr: u64) -> Self {
        let mut info = Self::fault(SIGBUS, BUS_MCEERR_AR, addr);
        // `si_addr_lsb`: the page is what is lost.
        info.fields[1] = 12;
        info
    }

    /// A state change of child `pid` (`SIGCHLD`). Times in clock ticks.
    #[inline]
    pub const fn child(code: i32, pid: i32, uid: u32, status: i32, utime: u64, stime: u64) -> Self {
        let mut info = Self::user(SIGCHLD, code, pid, uid);
        info.fields[1] = status as u32 as u64;
        info.fields[2] = utime;
        info.fields[3] = stime;
        info
    }

    /// The sender's pid, where the cause has one.
    #[inline]
    pub const fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// The sender's real uid, where the cause has one.
    #[inline]
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }
}

/// Cause codes of `si_code` (sigaction(2)).
mod codes {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_ASYNCIO: i32 = -4;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPC: i32 = 1;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_INTOVF: i32 = 2;
    pub const FPE_FLTDIV: i32 = 3;
    pub const FPE_FLTOVF: i32 = 4;
    pub const FPE_FLTUND: i32 = 5;
    pub const FPE_FLTRES: i32 = 6;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const SEGV_BNDERR: i32 = 3;
    pub const SEGV_PKUERR: i32 = 4;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const BUS_OBJERR: i32 = 3;
    pub const BUS_MCEERR_AR: i32 = 4;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const TRAP_HWBKPT: i32 = 4;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const POLL_IN: i32 = 1;
    pub const POLL_OUT: i32 = 2;
    pub const POLL_HUP: i32 = 6;
}
pub use codes::*;

/// `struct sigcontext` for x86-64: the registers in a signal frame, 256 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `struct ucontext` for x86-64, 304 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ucontext {
    pub uc_flags: u64,
    pub uc_link: u64,
    pub uc_stack: StackT,
    pub uc_mcontext: SigContext,
    pub uc_sigmask: SigSet,
}

const _: () =
    assert!(size_of::<SigInfo>() == 128 && size_of::<SigContext>() == 256 && size_of::<Ucontext>() == 304);
