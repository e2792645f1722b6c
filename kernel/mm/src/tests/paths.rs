//! One test for each path that the random ones do not reach or cannot name.

use super::{PAGE, TestFile, alone, fixed, rw};
use crate::vma::Backing;
use crate::{FaultError, Lend, MapRequest, Mm, RemapRequest, Rights, VmFlags};
use abi::Errno;
use abi::mman::{MapFlags, MremapFlags, Prot};
use abi::raw::general::{MADV_DOFORK, MADV_DONTFORK, MADV_DONTNEED};
use hal::UserAddr;
use hal::trap::Access;
use hal::uio::{Dest, Src, UserBuf};
use std::sync::atomic::Ordering;
use std::vec::Vec;

const READ: Access = Access { write: false, exec: false, user_mode: true, by_key: false };
const WRITE: Access = Access { write: true, exec: false, user_mode: true, by_key: false };

#[test]
fn a_fault_outside_or_against_the_rights_is_refused() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = mm.map(MapRequest::anonymous(2 * PAGE, Prot::READ)).unwrap();
    assert_eq!(mm.handle_fault(UserAddr(at - 1), READ), Err(FaultError::SegvMaperr));
    assert_eq!(mm.handle_fault(UserAddr(at), WRITE), Err(FaultError::SegvAccerr));
    assert!(mm.handle_fault(UserAddr(at), READ).is_ok());
    assert_eq!(mm.counters().rss(), 0, "the page of zeroes is not counted");
}

#[test]
fn forked_pages_are_copied_once_and_reused_by_the_last_holder() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = mm.map(MapRequest::anonymous(4 * PAGE, rw())).unwrap();
    assert_eq!(mm.write_remote(at, &[7; 4 * PAGE as usize], Rights::Obey), 4 * PAGE as usize);
    let before = hal::frame::stats().free;
    let child = mm.fork().unwrap();
    assert_eq!(hal::frame::stats().free, before, "fork copies no page");
    child.write_remote(at, &[8], Rights::Obey);
    assert_eq!(hal::frame::stats().free, before - 1);
    mm.write_remote(at, &[9], Rights::Obey);
    assert_eq!(hal::frame::stats().free, before - 1, "the parent is the last holder");
    assert_eq!(child.counters().rss_anon, 4);
    child.check_invariants();
    mm.check_invariants();
}

#[test]
fn stacks_grow_to_their_limit_and_keep_their_distance() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let mut stack = fixed(0x10000, 4, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0);
    stack.flags |= MapFlags::GROWSDOWN;
    mm.map(stack).unwrap();
    mm.set_limits(crate::Limits { stack: 100 * PAGE, ..Default::default() });
    assert!(mm.handle_fault(UserAddr((0x10000 - 50) * PAGE), WRITE).is_ok());
    assert_eq!(mm.counters().total_vm, 54);
    let beyond = UserAddr((0x10000 - 97) * PAGE);
    assert_eq!(mm.handle_fault(beyond, WRITE), Err(FaultError::SegvMaperr));
    // A mapping 200 pages below the present start is nearer than the guard gap.
    mm.set_limits(crate::Limits { stack: 10000 * PAGE, ..Default::default() });
    mm.map(fixed(0x10000 - 400, 1, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    let near = UserAddr((0x10000 - 300) * PAGE);
    assert_eq!(mm.handle_fault(near, WRITE), Err(FaultError::SegvMaperr));
    assert!(mm.handle_fault(UserAddr((0x10000 - 100) * PAGE), WRITE).is_ok());
}

#[test]
fn brk_moves_both_ways_and_stops_at_a_neighbour() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let start = 0x5000 * PAGE;
    mm.update_layout(|l| (l.start_brk, l.brk) = (start, start));
    assert_eq!(mm.brk(0), start);
    assert_eq!(mm.brk(start + 10_000), start + 10_000);
    assert_eq!(mm.counters().total_vm, 3);
    mm.write_remote(start, &[1; 10_000], Rights::Obey);
    assert_eq!(mm.brk(start + 100), start + 100);
    assert_eq!(mm.counters().rss_anon, 1);
    mm.map(fixed(0x5010, 1, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    assert_eq!(mm.brk(start + 0x20 * PAGE), start + 100);
}

#[test]
fn files_read_write_grow_and_shrink() {
    let _alone = alone();
    let file = TestFile::new(0);
    let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(file.0.write(3000, &mut Src::kernel(&data)), Ok(20_000));
    assert_eq!(file.0.size(), 23_000);
    assert_eq!(file.0.nr_pages(), 6);
    let mut back = std::vec![0xee; 30_000];
    assert_eq!(file.0.read(0, &mut Dest::kernel(&mut back)), Ok(23_000));
    assert!(back[..3000].iter().all(|&b| b == 0) && back[3000..23_000] == data[..]);
    file.0.truncate(5000);
    assert_eq!(file.0.nr_pages(), 2);
    file.0.truncate(10_000);
    assert_eq!(file.0.read(4000, &mut Dest::kernel(&mut back)), Ok(6000));
    assert!(back[..1000] == data[1000..2000] && back[1000..6000].iter().all(|&b| b == 0));
    file.0.punch(100..4200);
    assert_eq!(file.0.nr_pages(), 2);
    assert_eq!(file.0.read(1 << 40, &mut Dest::kernel(&mut back)), Ok(0));
}

#[test]
fn a_write_beyond_the_limit_of_a_source_is_enospc_and_a_fault_is_a_bus_error() {
    let _alone = alone();
    let shmem = std::sync::Arc::new(crate::Shmem::new(2));
    let mapping = std::sync::Arc::new(crate::Mapping::new_shmem(shmem.clone()));
    assert_eq!(mapping.write(0, &mut Src::kernel(&[1; 10_000])), Ok(8192));
    assert_eq!(mapping.write(8192, &mut Src::kernel(&[1; 10])), Err(Errno::ENOSPC));
    mapping.set_size(3 * PAGE);
    let file = std::sync::Arc::new(super::TestFile(mapping.clone()));
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, 4, rw(), MapFlags::SHARED, Backing::file(file), 0)).unwrap();
    assert!(mm.handle_fault(UserAddr(0x200 * PAGE), WRITE).is_ok());
    assert_eq!(mm.handle_fault(UserAddr(0x202 * PAGE), WRITE), Err(FaultError::Bus));
    assert_eq!(mm.handle_fault(UserAddr(0x203 * PAGE), READ), Err(FaultError::Bus));
    drop(mm);
    drop(mapping);
    assert_eq!(shmem.used(), 0);
}

#[test]
fn faults_on_files_map_what_is_cached_around() {
    let _alone = alone();
    let file = TestFile::new(0);
    file.0.write(0, &mut Src::kernel(&std::vec![5; 40 * PAGE as usize])).unwrap();
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, 40, Prot::READ, MapFlags::PRIVATE, Backing::file(file), 0)).unwrap();
    mm.handle_fault(UserAddr(0x205 * PAGE), READ).unwrap();
    assert_eq!(mm.counters().rss_shmem, 16);
    let child = mm.fork().unwrap();
    assert_eq!(child.counters().rss(), 0, "file pages are found again");
}

#[test]
fn mremap_grows_in_place_moves_and_keeps_contents() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, 4, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    mm.write_remote(0x200 * PAGE, &[3; 4 * PAGE as usize], Rights::Obey);
    let ask = |old: u64, new: u64, flags| RemapRequest {
        addr: 0x200 * PAGE,
        old_len: old * PAGE,
        new_len: new * PAGE,
        flags,
        new_addr: 0,
    };
    assert_eq!(mm.remap(ask(4, 8, MremapFlags::empty())), Ok(0x200 * PAGE));
    mm.map(fixed(0x208, 1, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    assert_eq!(mm.remap(ask(8, 16, MremapFlags::empty())), Err(Errno::ENOMEM));
    let moved = mm.remap(ask(8, 16, MremapFlags::MAYMOVE)).unwrap();
    let mut byte = [0; 1];
    assert_eq!(mm.read_remote(moved + 4 * PAGE - 1, &mut byte, Rights::Obey), 1);
    assert_eq!(byte, [3]);
    assert_eq!(mm.read_remote(0x200 * PAGE, &mut byte, Rights::Obey), 0);
    assert_eq!(mm.counters().rss_anon, 4);
    mm.check_invariants();
}

#[test]
fn mremap_moves_to_any_alignment_and_back() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let (home, len) = (0x400 * PAGE, 0x500 * PAGE);
    mm.map(fixed(0x400, 0x500, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    let pages = [0u8, 1, 0x7f, 0xff].map(|page| (u64::from(page) * 5 * PAGE, page));
    for (offset, value) in pages {
        mm.write_remote(home + offset, &[value], Rights::Obey);
    }
    let mut from = home;
    for to in [0x20_0000 * PAGE, 0x40_0003 * PAGE, 0x50_0200 * PAGE, home] {
        let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED;
        let request = RemapRequest { addr: from, old_len: len, new_len: len, flags, new_addr: to };
        assert_eq!(mm.remap(request), Ok(to));
        for (offset, value) in pages {
            let mut byte = [0xee];
            mm.read_remote(to + offset, &mut byte, Rights::Obey);
            assert_eq!(byte, [value]);
        }
        assert_eq!(mm.counters().rss_anon, 4);
        from = to;
    }
    mm.check_invariants();
}

#[test]
fn the_count_limit_is_obeyed() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, 9, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    let limit = |n| crate::sysctl::MAX_MAP_COUNT.store(n, std::sync::atomic::Ordering::Relaxed);
    limit(2);
    assert_eq!(mm.protect(0x203 * PAGE, PAGE, Prot::READ, None), Err(Errno::ENOMEM));
    assert_eq!(mm.advise(0x203 * PAGE, PAGE, abi::raw::general::MADV_DONTFORK), Err(Errno::EAGAIN));
    assert_eq!(mm.counters().map_count, 2, "the first of the two splits is kept, as on Linux");
    assert_eq!(mm.unmap(0x205 * PAGE, PAGE), Err(Errno::ENOMEM));
    assert!(mm.map(fixed(0x300, 1, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).is_ok());
    assert_eq!(mm.map(MapRequest::anonymous(PAGE, rw())), Err(Errno::ENOMEM));
    limit(65530);
}

#[test]
fn locking_counts_against_the_limit_and_populates() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    mm.set_limits(crate::Limits { memlock: 4 * PAGE, ..Default::default() });
    let at = mm.map(MapRequest::anonymous(8 * PAGE, rw())).unwrap();
    assert_eq!(mm.lock(at, 8 * PAGE, crate::OnFault::No), Err(Errno::ENOMEM));
    assert_eq!(mm.lock(at + 1, 4 * PAGE - 1, crate::OnFault::No), Ok(()));
    assert_eq!((mm.counters().locked, mm.counters().rss_anon), (4, 4));
    assert_eq!(mm.unlock(at, 8 * PAGE), Ok(()));
    assert_eq!((mm.counters().locked, mm.counters().map_count), (0, 1));
}

#[test]
fn a_debugger_writes_into_code_without_touching_the_file() {
    let _alone = alone();
    let file = TestFile::new(PAGE);
    file.0.write(0, &mut Src::kernel(&[1; 64])).unwrap();
    let mm = Mm::new().unwrap();
    let code = Prot::READ | Prot::EXEC;
    mm.map(fixed(0x200, 1, code, MapFlags::PRIVATE, Backing::file(file.clone()), 0)).unwrap();
    assert_eq!(mm.write_remote(0x200 * PAGE, &[0xcc], Rights::Obey), 0);
    assert_eq!(mm.write_remote(0x200 * PAGE, &[0xcc], Rights::Force), 1);
    let mut byte = [0; 1];
    file.0.read(0, &mut Dest::kernel(&mut byte)).unwrap();
    assert_eq!(byte, [1]);
    let child = mm.fork().unwrap();
    child.read_remote(0x200 * PAGE, &mut byte, Rights::Obey);
    assert_eq!(byte, [0xcc], "the copy survives a fork");
}

#[test]
fn writes_of_a_debugger_never_reach_what_others_see() {
    const ROUNDS: usize = 3000;
    let _alone = alone();
    let file = TestFile::new(PAGE);
    file.0.write(0, &mut Src::kernel(&[1; PAGE as usize])).unwrap();
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, 1, Prot::READ, MapFlags::PRIVATE, Backing::file(file.clone()), 0)).unwrap();
    let zeroes = mm.map(MapRequest::anonymous(PAGE, Prot::READ)).unwrap();
    // From here on `space` is only read: threads of the host must not wait for each other's sleeping locks.
    assert_eq!(mm.write_remote(0x200 * PAGE, &[2], Rights::Force), 1);
    assert_eq!(mm.write_remote(zeroes, &[2], Rights::Force), 1);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for at in [0x200 * PAGE, zeroes] {
                    mm.advise(at, PAGE, MADV_DONTNEED).unwrap();
                    assert_eq!(mm.read_remote(at, &mut [0], Rights::Obey), 1);
                }
            }
        });
        for _ in 0..ROUNDS {
            assert_eq!(mm.write_remote(0x200 * PAGE, &[2], Rights::Force), 1);
            assert_eq!(mm.write_remote(zeroes, &[2], Rights::Force), 1);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    mm.advise(0x200 * PAGE, PAGE, MADV_DONTNEED).unwrap();
    mm.advise(zeroes, PAGE, MADV_DONTNEED).unwrap();
    for (at, expected) in [(0x200 * PAGE, 1), (zeroes, 0)] {
        let mut byte = [9];
        assert_eq!((mm.read_remote(at, &mut byte, Rights::Obey), byte), (1, [expected]));
    }
    mm.check_invariants();
}

#[test]
fn guards_fault_until_they_are_removed() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = mm.map(MapRequest::anonymous(4 * PAGE, rw())).unwrap();
    mm.write_remote(at, &[1; 4 * PAGE as usize], Rights::Obey);
    mm.advise(at + PAGE, PAGE, abi::raw::general::MADV_GUARD_INSTALL).unwrap();
    mm.advise(at, 4 * PAGE, abi::raw::general::MADV_DONTNEED).unwrap();
    assert_eq!(mm.handle_fault(UserAddr(at + PAGE), READ), Err(FaultError::SegvMaperr));
    mm.advise(at, 4 * PAGE, abi::raw::general::MADV_GUARD_REMOVE).unwrap();
    assert!(mm.handle_fault(UserAddr(at + PAGE), READ).is_ok());
    mm.check_invariants();
}

#[test]
fn denied_writable_mappings_stay_denied() {
    let _alone = alone();
    let file = TestFile::new(PAGE);
    let mm = Mm::new().unwrap();
    let ask = || fixed(0x200, 2, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0);
    mm.map(ask()).unwrap();
    mm.protect(0x200 * PAGE, PAGE, Prot::READ, None).unwrap();
    assert_eq!(file.0.deny_writable(), Err(Errno::EBUSY));
    mm.unmap(0x200 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(file.0.nr_vmas(), 0);
    assert_eq!(file.0.deny_writable(), Ok(()));
    assert_eq!(mm.map(ask()), Err(Errno::EPERM));
    let mut private = ask();
    private.flags = MapFlags::PRIVATE | MapFlags::FIXED;
    assert!(mm.map(private).is_ok());
    assert!(mm.counters().data > 0 && VmFlags::WRITE.is_data());
}

#[test]
fn joined_pages_keep_contents_and_counts() {
    const HUGE: u64 = hal::frame::HUGE_SIZE as u64;
    const COLLAPSE: u32 = 25;
    let _alone = alone();
    let mm = Mm::new().unwrap();
    mm.map(fixed(HUGE / PAGE, HUGE / PAGE, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    assert_eq!(mm.advise(HUGE, HUGE, abi::raw::general::MADV_NOHUGEPAGE as _), Ok(()));
    for i in 0..40 {
        assert_eq!(mm.write_remote(HUGE + i * 7 * PAGE, &[i as u8 + 1], Rights::Obey), 1);
    }
    assert_eq!(mm.advise(HUGE, HUGE, COLLAPSE as _), Err(Errno::EINVAL), "it wants none");
    assert_eq!(mm.advise(HUGE, HUGE, abi::raw::general::MADV_HUGEPAGE as _), Ok(()));
    let child = mm.fork().unwrap();
    assert_eq!(mm.advise(HUGE, HUGE, COLLAPSE as _), Ok(()));
    assert_eq!((mm.counters().rss_anon, child.counters().rss_anon), (512, 40));
    for i in 0..40 {
        let mut byte = [0];
        mm.read_remote(HUGE + i * 7 * PAGE, &mut byte, Rights::Obey);
        assert_eq!(byte[0], i as u8 + 1);
    }
    mm.check_invariants();
    child.check_invariants();
}

#[test]
fn forks_look_for_pins_while_there_are_some() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = mm.map(MapRequest::anonymous(4 * PAGE, rw())).unwrap();
    mm.write_remote(at, &[7; 4 * PAGE as usize], Rights::Obey);
    let looks = || mm.has_pinned.load(Ordering::SeqCst);
    let bufs = [UserBuf { addr: UserAddr(at + 100), len: PAGE as usize }];
    drop(mm.lend(&bufs, Lend::ToRead).unwrap());
    assert!(!looks());
    let memory = mm.lend(&bufs, Lend::ToFill).unwrap().unwrap();
    let child = mm.fork().unwrap();
    memory.parts()[0].frame.write(200, &[9]);
    let byte = |mm: &Mm| {
        let mut byte = [0];
        assert_eq!(mm.read_remote(at + 200, &mut byte, Rights::Obey), 1);
        byte[0]
    };
    assert_eq!((byte(&mm), byte(&child)), (9, 7));
    assert!(looks());
    // What a fork leaves out may be pinned.
    drop(memory);
    mm.advise(at, PAGE, MADV_DONTFORK).unwrap();
    drop(mm.fork().unwrap());
    assert!(looks());
    mm.advise(at, PAGE, MADV_DOFORK).unwrap();
    drop(mm.fork().unwrap());
    assert!(!looks());
    drop(mm.lend(&bufs, Lend::ToFill).unwrap().unwrap());
    assert!(looks());
}

#[test]
fn what_is_no_memory_is_not_lent() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = mm.map(MapRequest::anonymous(PAGE, rw())).unwrap();
    mm.write_remote(at, &[7; PAGE as usize], Rights::Obey);
    let bufs = [UserBuf { addr: UserAddr(at), len: 512 }];
    assert!(mm.lend(&bufs, Lend::ToRead).unwrap().is_some());
    mm.space.write().set.for_each_mut(|_, attr| attr.flags |= VmFlags::IO);
    for lend in [Lend::ToRead, Lend::ToFill] {
        assert_eq!(mm.lend(&bufs, lend).err(), Some(Errno::EFAULT));
    }
}
