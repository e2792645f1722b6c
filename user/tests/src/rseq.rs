//! rseq(2): what the kernel writes into the area.

use crate::prelude::*;

tests!("rseq": area_of_the_first_layout_is_written_at_each_return, ids_agree, errors);

const UNREGISTER: u32 = 1;
const SIGNATURE: u32 = 0x5305_3053;
/// Offsets of the area's fields.
const CPU_ID_START: usize = 0;
const CPU_ID: usize = 4;
const NODE_ID: usize = 20;
const MM_CID: usize = 24;

/// Takes back what the C library registered for the caller. A child has the same, and tells its tracer.
fn forget_library_area() {
    const GET_RSEQ_CONFIGURATION: u32 = 0x420f;
    let c = child(|| {
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
    });
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    // Address, length and signature, flags.
    let mut found = [0u64; 3];
    assert_eq!(sys!(SYS_ptrace, GET_RSEQ_CONFIGURATION, c.0, 24, &mut found), Ok(24));
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    let (len, signature) = (found[1] as u32, (found[1] >> 32) as u32);
    if found[0] != 0 {
        sys!(SYS_rseq, found[0], len, UNREGISTER, signature).unwrap();
    }
}

/// Registers an area of `len` bytes for the caller.
fn area(len: u32) -> usize {
    forget_library_area();
    let at = anon(PAGE);
    sys!(SYS_rseq, at, len, 0, SIGNATURE).unwrap();
    at
}

fn word(at: usize) -> u32 {
    u32::from_le_bytes([peek(at), peek(at + 1), peek(at + 2), peek(at + 3)])
}

fn area_of_the_first_layout_is_written_at_each_return() {
    let at = area(32);
    sys::poke32(at + CPU_ID_START, !0);
    nap(20);
    assert_ne!(word(at + CPU_ID_START), !0, "after sleeping");
    on_signal(SIGUSR1, 0, crate::kit::count);
    sys::poke32(at + CPU_ID_START, !0);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_ne!(word(at + CPU_ID_START), !0, "after a signal");
}

fn ids_agree() {
    let at = area(64);
    for _ in 0..20 {
        let cpu = word(at + CPU_ID);
        assert_eq!(word(at + CPU_ID_START), cpu);
        assert!(cpu < 4096 && word(at + MM_CID) < 4096, "{cpu}");
        assert_eq!(word(at + NODE_ID), 0);
        nap(1);
    }
    sys!(SYS_rseq, at, 64, UNREGISTER, SIGNATURE).unwrap();
    assert_eq!((word(at + CPU_ID_START), word(at + CPU_ID), word(at + MM_CID)), (0, !0, 0));
}

fn errors() {
    let at = area(32);
    assert_eq!(sys!(SYS_rseq, at, 32, 0, SIGNATURE), Err(EBUSY));
    assert_eq!(sys!(SYS_rseq, at, 32, 0, 1), Err(EPERM));
    assert_eq!(sys!(SYS_rseq, at + 32, 32, 0, SIGNATURE), Err(EINVAL));
    assert_eq!(sys!(SYS_rseq, at, 32, 4, SIGNATURE), Err(EINVAL));
    assert_eq!(sys!(SYS_rseq, at, 32, UNREGISTER, 1), Err(EPERM));
    sys!(SYS_rseq, at, 32, UNREGISTER, SIGNATURE).unwrap();
    assert_eq!(sys!(SYS_rseq, at, 31, 0, SIGNATURE), Err(EINVAL));
    assert_eq!(sys!(SYS_rseq, at + 8, 32, 0, SIGNATURE), Err(EINVAL));
}
