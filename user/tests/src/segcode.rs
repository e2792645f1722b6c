//! Code and stack segments other than the usual: what IRET goes back to, and what it refuses. A tracer sets them.

use std::sync::atomic::AtomicUsize;
use std::thread;

use crate::kit::decode;
use crate::prelude::*;
use crate::sys::peek64;

tests!(
    "segcode":
    code_of_32_bits_runs, own_segments_run, code_of_64_bits_keeps_its_own_stack_segment,
    segments_that_cannot_be_are_faults, a_handler_sees_why,
    calls_of_32_bit_code_do_no_harm, code_that_goes_away_under_a_thread, code_slots_are_described,
    frames_without_the_strict_flag_heal,
);

/// 64-bit and 32-bit code, and data.
const CODE64: u64 = 0x33;
const CODE32: u64 = 0x23;
const DATA: u64 = 0x2b;
/// Selectors of the process's own slots.
const OWN_CODE: u64 = 7;
const OWN_DATA: u64 = 15;
const OWN_ABSENT_CODE: u64 = 23;
const OWN_ABSENT_DATA: u64 = 31;
const NOWHERE: u64 = 0x207;

/// Words of `struct user_regs_struct`.
const RAX: usize = 10;
const RCX: usize = 11;
const RIP: usize = 16;
const CS: usize = 17;
const RSP: usize = 19;
const SS: usize = 20;

/// Words of `gregs` in a signal frame, which begin here.
const GREGS: usize = 40;
const FRAME_SEGMENTS: usize = GREGS + 18 * 8;
const FRAME_ERR: usize = GREGS + 19 * 8;
const FRAME_TRAPNO: usize = GREGS + 20 * 8;

const SI_KERNEL: i32 = 128;

fn raise(sig: i32) {
    sys!(SYS_tgkill, getpid(), gettid(), sig).unwrap();
}

/// `code` at an address below 4 GiB.
fn low_code(code: &[u8]) -> u64 {
    let prot = PROT_READ | PROT_WRITE | PROT_EXEC;
    let at = sys!(SYS_mmap, 0, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0).unwrap();
    for (idx, byte) in code.iter().enumerate() {
        poke(at + idx, *byte);
    }
    at as u64
}

/// Sets a slot of the caller's own: contents 0 data, 2 code.
fn set_slot(slot: u32, base: u64, limit: u32, bits: u32) {
    let mut desc = [slot, base as u32, limit, bits];
    assert_eq!(sys!(SYS_modify_ldt, 0x11, desc.as_mut_ptr() as usize, 16), Ok(0));
}

const CODE_BITS: u32 = 2 << 1;
const IS_32BIT: u32 = 1;
const ABSENT: u32 = 1 << 5;

/// The slots that the selectors above name.
fn own_slots(code: u64) {
    set_slot(0, code, 0xfff, CODE_BITS | IS_32BIT);
    set_slot(1, code, 0xffff, IS_32BIT);
    set_slot(2, code, 0xfff, CODE_BITS | IS_32BIT | ABSENT);
    set_slot(3, code, 0xffff, IS_32BIT | ABSENT);
}

/// A child of the caller that is traced and stopped.
struct Tracee(Option<Child>, i32);

impl Tracee {
    fn new(code: u64) -> Tracee {
        let c = child(|| {
            own_slots(code);
            sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
            sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        });
        let pid = c.0;
        assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
        Tracee(Some(c), pid)
    }

    fn get(&self, word: usize) -> u64 {
        let mut value = 0u64;
        sys!(SYS_ptrace, PTRACE_PEEKUSER, self.1, word * 8, &mut value).unwrap();
        value
    }

    fn set(&self, words: &[(usize, u64)]) {
        for &(word, value) in words {
            sys!(SYS_ptrace, PTRACE_POKEUSER, self.1, word * 8, value as usize).unwrap();
        }
    }

    /// Lets it go on until the next stop; its signal.
    fn run(&self, sig: i32) -> i32 {
        sys!(SYS_ptrace, PTRACE_CONT, self.1, 0, sig).unwrap();
        let mut status = 0;
        sys!(SYS_wait4, self.1, &mut status, 0, 0).unwrap();
        match decode(status) {
            Status::Stopped(sig) => sig,
            other => panic!("{other:?} and no stop"),
        }
    }

    fn si_code(&self) -> i32 {
        let mut info = [0i32; 32];
        sys!(SYS_ptrace, PTRACE_GETSIGINFO, self.1, 0, info.as_mut_ptr() as usize).unwrap();
        info[2]
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if let Some(c) = self.0.take() {
            c.kill(SIGKILL);
            ignore(c.wait());
        }
    }
}

/// inc eax; mov ecx, esp; int3 in 32-bit code.
const INC_AND_STOP: [u8; 4] = [0x40, 0x89, 0xe1, 0xcc];
const SP: u64 = 0x1234_5678_5aad_c0de;

fn code_of_32_bits_runs() {
    let code = low_code(&INC_AND_STOP);
    let t = Tracee::new(code);
    assert_eq!((t.get(CS), t.get(SS)), (CODE64, DATA));
    t.set(&[(CS, CODE32), (RIP, code), (RAX, 41), (RSP, SP)]);
    assert_eq!((t.get(CS), t.run(0)), (CODE32, SIGTRAP));
    assert_eq!((t.get(RAX), t.get(RCX), t.get(RIP)), (42, SP & 0xffff_ffff, code + 4));
    assert_eq!((t.get(CS), t.get(SS)), (CODE32, DATA));
    // The same bytes are other instructions in 64-bit code: a prefix, and the stack pointer's lower half.
    t.set(&[(CS, CODE64), (RIP, code), (RSP, SP)]);
    assert_eq!(t.run(0), SIGTRAP);
    assert_eq!((t.get(RAX), t.get(RSP), t.get(CS)), (42, SP, CODE64));
}

fn own_segments_run() {
    let code = low_code(&INC_AND_STOP);
    let t = Tracee::new(code);
    for ss in [DATA, OWN_DATA] {
        t.set(&[(CS, OWN_CODE), (SS, ss), (RIP, 0), (RAX, 0xffff_ffff), (RSP, SP)]);
        assert_eq!(t.run(0), SIGTRAP);
        assert_eq!((t.get(RAX), t.get(RCX), t.get(RIP)), (0, SP & 0xffff_ffff, 4));
        assert_eq!((t.get(CS), t.get(SS), t.get(RSP)), (OWN_CODE, ss, SP & 0xffff_ffff));
    }
}

fn code_of_64_bits_keeps_its_own_stack_segment() {
    // inc rax; int3
    let code = low_code(&[0x48, 0xff, 0xc0, 0xcc]);
    let t = Tracee::new(code);
    t.set(&[(SS, OWN_DATA), (RIP, code), (RAX, 1), (RSP, 0x8bad_f00d_5aad_c0de)]);
    assert_eq!(t.run(0), SIGTRAP);
    assert_eq!((t.get(RAX), t.get(SS), t.get(RSP)), (2, OWN_DATA, 0x8bad_f00d_5aad_c0de));
}

fn segments_that_cannot_be_are_faults() {
    let code = low_code(&INC_AND_STOP);
    let cases = [
        (CODE64, CODE64, SIGSEGV),
        (CODE32, CODE64, SIGSEGV),
        (CODE64, 0x1b, SIGSEGV),
        (CODE64, 0x7b, SIGSEGV),
        (CODE64, NOWHERE, SIGSEGV),
        (CODE32, NOWHERE, SIGSEGV),
        (CODE32, OWN_ABSENT_DATA, SIGBUS),
        (OWN_ABSENT_CODE, DATA, SIGBUS),
        (OWN_ABSENT_CODE, NOWHERE, SIGBUS),
        (OWN_DATA, DATA, SIGSEGV),
        (NOWHERE, DATA, SIGSEGV),
        (0x13, DATA, SIGSEGV),
        (0x43, DATA, SIGSEGV),
        (0x53, DATA, SIGSEGV),
        (0xffff, 0xffff, SIGSEGV),
        (3, DATA, SIGSEGV),
    ];
    for (cs, ss, sig) in cases {
        let t = Tracee::new(code);
        t.set(&[(CS, cs), (SS, ss), (RIP, code)]);
        assert_eq!((t.run(0), t.si_code()), (sig, SI_KERNEL), "{cs:#x} {ss:#x}");
        assert_eq!((t.get(CS), t.get(SS), t.get(RIP)), (cs, ss, code));
        // It does not go away by itself.
        assert_eq!(t.run(0), sig);
        t.set(&[(CS, CODE32), (SS, DATA)]);
        assert_eq!(t.run(0), SIGTRAP, "and is made good");
    }
    for value in [0, 0x30, 0x11] {
        let t = Tracee::new(code);
        assert_eq!(sys!(SYS_ptrace, PTRACE_POKEUSER, t.1, CS * 8, value), Err(EIO));
        assert_eq!(sys!(SYS_ptrace, PTRACE_POKEUSER, t.1, SS * 8, value), Err(EIO));
    }
}

/// Flags, code and stack segment, error code and vector of the frame that a handler gets, and the stack segment it runs with.
fn what_a_handler_sees(cs: u64, ss: u64, sig: i32) -> [u64; 6] {
    static SEEN_AT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn look(_: i32, _: &SigInfo, context: usize) {
        let at = SEEN_AT.load(SeqCst);
        let segments = peek64(context + FRAME_SEGMENTS);
        let seen =
            [peek64(context), segments & 0xffff, segments >> 48, peek64(context + FRAME_ERR), peek64(context + FRAME_TRAPNO)];
        for (idx, byte) in seen.into_iter().flat_map(u64::to_le_bytes).enumerate() {
            poke(at + idx, byte);
        }
        poke(at + 40, sys::ss() as u8);
        exit(0);
    }
    let at = shared(PAGE);
    let code = low_code(&INC_AND_STOP);
    let c = child(|| {
        own_slots(code);
        SEEN_AT.store(at, SeqCst);
        let stack = anon(16 * PAGE);
        let alt = stack_t { ss_sp: stack as *mut c_void, ss_flags: 0, ss_size: 16 * PAGE };
        sys!(SYS_sigaltstack, &alt, 0).unwrap();
        on_signal(sig, SA_ONSTACK, look);
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
    });
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    let t = Tracee(None, c.0);
    t.set(&[(CS, cs), (SS, ss), (RIP, code), (RSP, SP)]);
    assert_eq!(t.run(0), sig);
    sys!(SYS_ptrace, PTRACE_CONT, t.1, 0, sig).unwrap();
    assert_eq!(c.wait(), Status::Exit(0));
    [0, 8, 16, 24, 32, 40].map(|offset| peek64(at + offset))
}

fn a_handler_sees_why() {
    const GENERAL: u64 = 13;
    const NOT_PRESENT: u64 = 11;
    // All frames have the vector registers and the stack segment; those of 64-bit code are strict about it.
    const CODE64_FRAME: u64 = 1 | 2 | 4;
    const OTHER_FRAME: u64 = 1 | 2;
    let cases = [
        (CODE64, CODE64, SIGSEGV, [CODE64_FRAME, CODE64, CODE64, 0x30, GENERAL, DATA]),
        (CODE32, 0x1b, SIGSEGV, [OTHER_FRAME, CODE32, 0x1b, 0x18, GENERAL, DATA]),
        (CODE64, NOWHERE, SIGSEGV, [CODE64_FRAME, CODE64, NOWHERE, NOWHERE & !3, GENERAL, DATA]),
        (OWN_ABSENT_CODE, DATA, SIGBUS, [OTHER_FRAME, OWN_ABSENT_CODE, DATA, 0x14, NOT_PRESENT, DATA]),
        (NOWHERE, OWN_DATA, SIGSEGV, [OTHER_FRAME, NOWHERE, OWN_DATA, NOWHERE & !3, GENERAL, OWN_DATA]),
    ];
    for (cs, ss, sig, seen) in cases {
        assert_eq!(what_a_handler_sees(cs, ss, sig), seen, "{cs:#x} {ss:#x}");
    }
}

/// Whether the kernel has calls for 32-bit programs or not, `code` ends in one of its stops.
fn calls_of_32_bit_code_do_no_harm() {
    const GETPID: u8 = 20;
    let int80 = [0xb8, GETPID, 0, 0, 0, 0xcd, 0x80, 0xcc];
    let syscall = [0xb8, GETPID, 0, 0, 0, 0x0f, 0x05, 0xcc];
    let sysenter = [0xb8, GETPID, 0, 0, 0, 0x0f, 0x34, 0xcc];
    for bytes in [int80, syscall, sysenter] {
        let code = low_code(&bytes);
        let t = Tracee::new(code);
        t.set(&[(CS, CODE32), (RIP, code), (RSP, code + 0x800), (RAX, 0)]);
        let sig = t.run(0);
        assert!([SIGTRAP, SIGSEGV, SIGILL].contains(&sig), "{sig}");
    }
    // 64-bit code that is no program of 32 bits.
    let code = low_code(&[0x0f, 0x34, 0xcc]);
    let t = Tracee::new(code);
    t.set(&[(RIP, code), (RSP, code + 0x800)]);
    assert!([SIGSEGV, SIGILL].contains(&t.run(0)), "sysenter");
}

fn code_that_goes_away_under_a_thread() {
    let code = low_code(&[0xeb, 0xfe]); // jmp $
    let flag = shared(PAGE);
    let c = child(|| {
        own_slots(code);
        let _clearing = thread::spawn(move || {
            while peek(flag) == 0 {
                nap(1);
            }
            // Base and limit 0, read-only and not present: the slot is cleared.
            set_slot(0, 0, 0, 1 << 3 | ABSENT);
        });
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_tgkill, getpid(), gettid(), SIGSTOP).unwrap();
    });
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    let t = Tracee(None, c.0);
    t.set(&[(CS, OWN_CODE), (RIP, 0)]);
    poke(flag, 1);
    assert_eq!((t.run(0), t.get(CS), t.get(RIP)), (SIGSEGV, OWN_CODE, 0));
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn code_slots_are_described() {
    set_slot(0, 0x1000, 0xf_ffff, CODE_BITS | 1 | 1 << 4);
    set_slot(1, 0x1000, 0xfff, CODE_BITS | 1 | 1 << 3);
    set_slot(2, 0, 0, 3 << 1 | 1 | ABSENT);
    for bits in [0, CODE_BITS, ABSENT, CODE_BITS | ABSENT] {
        let mut of_16_bits = [3, 0x1000, 0xfff, bits];
        let refused = sys!(SYS_modify_ldt, 0x11, of_16_bits.as_mut_ptr() as usize, 16).unwrap();
        assert_eq!(refused as i32, -(EINVAL as i32));
    }
    let mut table = [!0u64; 3];
    assert_eq!(sys!(SYS_modify_ldt, 0, table.as_mut_ptr() as usize, 24), Ok(24));
    assert_eq!(table, [0x00cf_fb00_1000_ffff, 0x0040_f900_1000_0fff, 0x0040_7f00_0000_0000]);
    // Code that may be read is data for GS.
    sys::set_gs(7);
    sys::set_gs(0);
    assert_eq!(fate(|| sys::set_gs(15)), Status::Signal(SIGSEGV));
}

fn frames_without_the_strict_flag_heal() {
    extern "C" fn spoil(_: i32, _: &SigInfo, context: usize) {
        let flags = peek64(context);
        assert_eq!(flags & 6, 6);
        poke(context, (flags & !4) as u8);
        poke(context + FRAME_SEGMENTS + 6, 0);
        SEEN.fetch_add(1, SeqCst);
    }
    extern "C" fn spoil_strictly(_: i32, _: &SigInfo, context: usize) {
        poke(context + FRAME_SEGMENTS + 6, 0);
    }
    on_signal(SIGUSR1, 0, spoil);
    raise(SIGUSR1);
    assert_eq!((seen(), u64::from(sys::ss())), (1, DATA));
    let strict = || {
        on_signal(SIGUSR1, 0, spoil_strictly);
        raise(SIGUSR1);
    };
    assert_eq!(fate(strict), Status::Signal(SIGSEGV));
}
