//! Each allocation of a frame fails in turn: the call fails with `ENOMEM` or does without, and nothing is lost.

use super::{PAGE, TestFile, alone, fixed, rw};
use crate::vma::Backing;
use crate::{MapRequest, Mm, RemapRequest, Rights};
use abi::mman::{MapFlags, MremapFlags, Prot};
use abi::raw::general as raw;
use abi::{Errno, Result};
use hal::UserAddr;
use hal::frame::inject;
use hal::trap::Access;
use std::cell::Cell;
use std::sync::Arc;

std::thread_local! {
    /// Allocations of this thread up to the one that fails; 0: none does.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

fn fails() -> bool {
    LEFT.with(|left| match left.get() {
        0 => false,
        n => {
            left.set(n - 1);
            n == 1
        }
    })
}

/// Most allocations of one scenario.
const MOST: u32 = 5000;

/// Runs `scenario` until none of its allocations fails: at the `n`th time the `n`th after it calls what it is given does.
/// What it does before that call succeeds.
fn each_fails(scenario: impl Fn(&dyn Fn()) -> Result<()>) {
    inject::register(fails);
    inject::turn_on();
    for n in 1..MOST {
        let alone = alone();
        let result = scenario(&|| LEFT.set(n));
        let has_failed = LEFT.replace(0) == 0;
        drop(alone);
        match result {
            Ok(()) if !has_failed => return,
            Ok(()) | Err(Errno::ENOMEM) => {}
            Err(other) => panic!("allocation {n}: {other:?}"),
        }
        assert!(has_failed, "allocation {n} was not there, and yet there was no memory");
    }
    panic!("no end");
}

fn touch(mm: &Mm, at: u64, write: bool) -> Result<()> {
    let access = Access { write, exec: false, user_mode: true, by_key: false };
    mm.handle_fault(UserAddr(at), access).map(drop).map_err(Errno::from)
}

/// An address space with some memory of every kind: where the private and where the shared memory begins.
fn some() -> Result<(Arc<Mm>, u64, u64)> {
    let mm = Mm::new()?;
    let private = mm.map(MapRequest::anonymous(16 * PAGE, rw()))?;
    let file = Backing::file(TestFile::new(16 * PAGE));
    let shared = mm.map(fixed(0x9000, 16, rw(), MapFlags::SHARED, file, 0))?;
    for page in 0..8 {
        touch(&mm, private + page * PAGE, page % 3 != 0)?;
        touch(&mm, shared + page * PAGE, page % 2 == 0)?;
    }
    Ok((mm, private, shared))
}

#[test]
fn a_new_address_space_and_faults() {
    each_fails(|arm| {
        arm();
        let (mm, ..) = some()?;
        mm.check_invariants();
        Ok(())
    });
}

#[test]
fn faults_on_copies_of_files() {
    each_fails(|arm| {
        let mm = Mm::new()?;
        let file = TestFile::new(4 * PAGE);
        let at = mm.map(fixed(0x200, 4, rw(), MapFlags::PRIVATE, Backing::file(file), 0))?;
        touch(&mm, at, false)?;
        arm();
        let result = touch(&mm, at, true).and_then(|()| touch(&mm, at + PAGE, true));
        mm.check_invariants();
        result
    });
}

#[test]
fn forks_and_the_writes_after_them() {
    each_fails(|arm| {
        let (mm, private, shared) = some()?;
        arm();
        let result = mm.fork().and_then(|child| {
            let result = touch(&child, private + PAGE, true).and_then(|()| touch(&child, shared, true));
            child.check_invariants();
            result
        });
        let result = result.and_then(|()| touch(&mm, private + PAGE, true));
        mm.check_invariants();
        result
    });
}

#[test]
fn moves() {
    each_fails(|arm| {
        let (mm, private, shared) = some()?;
        let before = mm.counters();
        arm();
        let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED;
        let far = 1 << 40;
        let request =
            |addr, old_len, new_len, new_addr| RemapRequest { addr, old_len, new_len, flags, new_addr };
        let result = mm
            .remap(request(private + 3 * PAGE, 6 * PAGE, 6 * PAGE, far))
            .and_then(|_| mm.remap(request(shared, 16 * PAGE, 20 * PAGE, far + (1 << 32))));
        mm.check_invariants();
        assert_eq!(mm.counters().rss(), before.rss(), "moving loses no page");
        result.map(drop)
    });
}

#[test]
fn rights_and_advice_of_parts() {
    each_fails(|arm| {
        let (mm, private, shared) = some()?;
        arm();
        let result = mm
            .protect(private + 2 * PAGE, 3 * PAGE, Prot::READ, None)
            .and_then(|()| mm.advise(private + 6 * PAGE, 4 * PAGE, raw::MADV_GUARD_INSTALL))
            .and_then(|()| mm.advise(private + 12 * PAGE, 2 * PAGE, raw::MADV_POPULATE_WRITE))
            .and_then(|()| mm.advise(shared, 16 * PAGE, raw::MADV_POPULATE_READ))
            .and_then(|()| mm.advise(private, 4 * PAGE, raw::MADV_DONTNEED));
        mm.check_invariants();
        result
    });
}

#[test]
fn joining_small_pages() {
    const HUGE: u64 = hal::frame::HUGE_SIZE as u64;
    each_fails(|arm| {
        let mm = Mm::new()?;
        let at = mm.map(fixed(HUGE / PAGE, 512, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0))?;
        mm.advise(at, HUGE, raw::MADV_NOHUGEPAGE)?;
        for page in [0, 5, 511] {
            touch(&mm, at + page * PAGE, true)?;
        }
        mm.write_remote(at + 5 * PAGE, &[7], Rights::Obey);
        mm.advise(at, HUGE, raw::MADV_HUGEPAGE)?;
        arm();
        let result = mm.advise(at, HUGE, raw::MADV_COLLAPSE);
        let mut byte = [0];
        mm.read_remote(at + 5 * PAGE, &mut byte, Rights::Obey);
        assert_eq!(byte, [7]);
        mm.check_invariants();
        result
    });
}
