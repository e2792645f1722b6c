//! ioperm(2) and iopl(2): I/O ports in user mode.

use crate::helper;
use crate::prelude::*;

tests!(
    "ports":
    ports_fault_at_first, ioperm_allows_single_ports, wide_accesses_need_all_their_ports, arguments,
    children_and_threads_have_their_own, a_new_program_keeps_them, level_three_allows_all, privileges,
    tracer_reads_the_map, many_processes_with_and_without,
);

/// Where firmware tells how far it is; nobody listens.
const DELAY: u16 = 0x80;
/// Another one that nobody has.
const OTHER: u16 = 0xed;
const NT_386_IOPERM: usize = 0x201;
const MAP_BYTES: usize = 8192;

fn ioperm(from: u64, count: u64, allow: i32) -> Result<usize, Errno> {
    sys!(SYS_ioperm, from, count, allow)
}

fn iopl(level: u32) -> Result<usize, Errno> {
    sys!(SYS_iopl, level)
}

fn can_use(port: u16) -> bool {
    match fate(|| sys::out_byte(port, 0)) {
        Status::Exit(0) => true,
        Status::Signal(SIGSEGV) => false,
        other => panic!("{other:?}"),
    }
}

fn ports_fault_at_first() {
    assert!(!can_use(DELAY) && !can_use(OTHER) && !can_use(0xffff));
    assert_eq!(fate(sys::clear_interrupts), Status::Signal(SIGSEGV));
}

fn ioperm_allows_single_ports() {
    assert_eq!(ioperm(DELAY.into(), 1, 1), Ok(0));
    sys::out_byte(DELAY, 1);
    assert!(can_use(DELAY) && !can_use(OTHER) && !can_use(DELAY + 1) && !can_use(DELAY - 1));
    assert_eq!(ioperm(OTHER.into(), 1, -1), Ok(0));
    sys::out_byte(OTHER, 1);
    sys::out_byte(DELAY, 1);
    assert_eq!(ioperm(DELAY.into(), 1, 0), Ok(0));
    assert!(!can_use(DELAY) && can_use(OTHER));
    // The flag that says whether any is left goes and comes.
    assert_eq!(ioperm(0, 65_536, 0), Ok(0));
    assert!(!can_use(OTHER));
    assert_eq!(ioperm(DELAY.into(), 1, 1), Ok(0));
    nap(1);
    sys::out_byte(DELAY, 1);
}

fn wide_accesses_need_all_their_ports() {
    let out_word = |port| fate(move || sys::out_word(port, 0));
    ioperm(0xf0f0, 3, 1).unwrap();
    assert_eq!(out_word(0xf0f0), Status::Exit(0));
    assert_eq!(out_word(0xf0f1), Status::Exit(0));
    assert_eq!(out_word(0xf0f2), Status::Signal(SIGSEGV));
    ioperm(0xffff, 1, 1).unwrap();
    assert!(can_use(0xffff));
    assert_eq!(out_word(0xffff), Status::Signal(SIGSEGV), "beyond the last port");
}

fn arguments() {
    assert_eq!(ioperm(0, 0, 1), Err(EINVAL));
    assert_eq!(ioperm(65_536, 1, 1), Err(EINVAL));
    assert_eq!(ioperm(65_535, 2, 0), Err(EINVAL));
    assert_eq!(ioperm(u64::MAX, 1, 1), Err(EINVAL));
    assert_eq!(ioperm(1, u64::MAX, 1), Err(EINVAL));
    assert_eq!(ioperm(65_535, 1, 0), Ok(0));
    assert_eq!(iopl(4), Err(EINVAL));
    assert_eq!(iopl(u32::MAX), Err(EINVAL));
    assert_eq!(iopl(0), Ok(0));
}

fn children_and_threads_have_their_own() {
    ioperm(DELAY.into(), 1, 1).unwrap();
    aside(|| {
        sys::out_byte(DELAY, 1);
        ioperm(u64::from(DELAY) + 1, 1, 1).unwrap();
        sys::out_byte(DELAY + 1, 1);
        ioperm(DELAY.into(), 1, 0).unwrap();
        assert!(!can_use(DELAY));
    });
    assert!(can_use(DELAY) && !can_use(DELAY + 1));
    std::thread::spawn(|| {
        sys::out_byte(DELAY, 1);
        ioperm(OTHER.into(), 1, 1).unwrap();
        sys::out_byte(OTHER, 1);
    })
    .join()
    .unwrap();
    assert!(!can_use(OTHER), "the thread's alone");
}

fn a_new_program_keeps_them() {
    let run = |port: u16| {
        let kid = child(|| {
            let args = [helper::me(), cstr(helper::MARK), cstr("port"), cstr(port.to_string())];
            let argv: Vec<_> = args.iter().map(|a| a.as_ptr() as usize).chain([0]).collect();
            sys!(SYS_execve, &args[0], argv.as_ptr() as usize, 0).unwrap();
        });
        kid.wait()
    };
    ioperm(DELAY.into(), 1, 1).unwrap();
    assert_eq!(run(DELAY), Status::Exit(0));
    assert_eq!(run(OTHER), Status::Signal(SIGSEGV));
    iopl(3).unwrap();
    assert_eq!(run(OTHER), Status::Exit(0));
}

fn level_three_allows_all() {
    for level in [1, 2] {
        assert_eq!(iopl(level), Ok(0));
        assert!(!can_use(DELAY));
    }
    assert_eq!(iopl(3), Ok(0));
    sys::out_byte(DELAY, 1);
    sys::out_byte(OTHER, 1);
    sys::out_word(0xffff - 1, 0);
    // They do nothing, and say nothing.
    let flags = sys::clear_interrupts_and_read_flags();
    assert_ne!(flags & 1 << 9, 0, "interrupts are on");
    assert_eq!(fate(sys::privileged_instruction), Status::Signal(SIGSEGV), "others are as before");
    assert!(can_use(OTHER));
    aside(|| {
        assert_eq!(iopl(0), Ok(0));
        assert!(!can_use(OTHER));
    });
    ioperm(DELAY.into(), 1, 1).unwrap();
    iopl(0).unwrap();
    assert!(can_use(DELAY) && !can_use(OTHER), "the map was there all the time");
    assert_eq!(fate(sys::clear_interrupts), Status::Signal(SIGSEGV));
}

fn privileges() {
    ioperm(DELAY.into(), 1, 1).unwrap();
    iopl(2).unwrap();
    aside(|| {
        drop_root();
        sys::out_byte(DELAY, 1);
        assert_eq!(ioperm(OTHER.into(), 1, 1), Err(EPERM));
        assert_eq!(ioperm(DELAY.into(), 1, 1), Err(EPERM), "also what it has");
        assert_eq!(ioperm(65_536, 1, 1), Err(EINVAL), "before EPERM");
        assert_eq!(iopl(3), Err(EPERM));
        assert_eq!(iopl(4), Err(EINVAL));
        assert_eq!(iopl(2), Ok(0));
        assert_eq!(iopl(1), Ok(0));
        assert_eq!(iopl(2), Err(EPERM));
        assert_eq!(ioperm(DELAY.into(), 1, 0), Ok(0));
        assert!(!can_use(DELAY));
    });
    aside(|| {
        // A privilege of the machine's owner, not of a namespace's.
        if sys!(SYS_unshare, CLONE_NEWUSER).is_ok() {
            assert_eq!(ioperm(OTHER.into(), 1, 1), Err(EPERM));
            assert_eq!(iopl(3), Err(EPERM));
        }
    });
}

fn tracer_reads_the_map() {
    let kid = child(|| {
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        ioperm(DELAY.into(), 2, 1).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
    });
    let mut map = vec![0u8; MAP_BYTES + 64];
    let mut iov = iovec { iov_base: map.as_mut_ptr().cast(), iov_len: map.len() };
    assert_eq!(kid.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, kid.0, NT_386_IOPERM, &mut iov), Err(ENXIO));
    sys!(SYS_ptrace, PTRACE_CONT, kid.0, 0, 0).unwrap();
    assert_eq!(kid.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    iov.iov_len = map.len();
    sys!(SYS_ptrace, PTRACE_GETREGSET, kid.0, NT_386_IOPERM, &mut iov).unwrap();
    assert_eq!(iov.iov_len, MAP_BYTES);
    let allowed: Vec<_> = (0..MAP_BYTES * 8).filter(|port| map[port / 8] >> (port % 8) & 1 == 0).collect();
    assert_eq!(allowed, [0x80, 0x81]);
    iov.iov_len = 9;
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, kid.0, NT_386_IOPERM, &mut iov), Err(EINVAL));
    iov.iov_len = MAP_BYTES;
    assert_eq!(sys!(SYS_ptrace, PTRACE_SETREGSET, kid.0, NT_386_IOPERM, &mut iov), Err(EOPNOTSUPP));
    sys!(SYS_ptrace, PTRACE_CONT, kid.0, 0, 0).unwrap();
    kid.ok();
}

fn many_processes_with_and_without() {
    let kids: Vec<_> = (0..4u16)
        .map(|n| {
            child(move || {
                if n % 2 == 0 {
                    ioperm(u64::from(DELAY) + u64::from(n), 1, 1).unwrap();
                }
                for _ in 0..100 {
                    if n % 2 == 0 {
                        sys::out_byte(DELAY + n, 0);
                    }
                    sys!(SYS_sched_yield).unwrap();
                }
                // Whoever ran here before, this one has its own ports only.
                assert_eq!(can_use(DELAY + n), n % 2 == 0);
                assert!(!can_use(DELAY + (n ^ 2)));
            })
        })
        .collect();
    kids.into_iter().for_each(Child::ok);
}
