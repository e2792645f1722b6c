//! Huge pages of shared memory. The hosted machine has small entries only: what the page cache does is tested here.

use std::sync::Arc;
use std::vec;

use abi::Errno;
use abi::mman::MapFlags;
use abi::raw::general::{MADV_COLLAPSE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_HUGEPAGE};

use super::probe::Silent;
use super::{PAGE, TestFile, alone, fixed, rw};
use crate::mapping::whole::NR_WHOLE;
use crate::thp::settings;
use crate::vma::Backing;
use crate::watch::{WatchModes, Watcher};
use crate::{Huge, Mapping, Mm, Rights, Shmem};

/// Page of the address space at which a file is mapped: the first of a huge one.
const AT: u64 = 512;

fn mapped(file: &Arc<TestFile>, nr: u64) -> Arc<Mm> {
    let mm = Mm::new().unwrap();
    mm.map(fixed(AT, nr, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0)).unwrap();
    mm
}

/// Writes a byte of its own to each of the pages.
fn fill(mm: &Mm, pages: core::ops::Range<u64>) {
    pages.for_each(|i| assert_eq!(mm.write_remote((AT + i) * PAGE, &[i as u8 | 1], Rights::Obey), 1));
}

fn check(mm: &Mm, pages: core::ops::Range<u64>, empty: core::ops::Range<u64>) {
    for i in pages {
        let mut byte = [0xee];
        assert_eq!(mm.read_remote((AT + i) * PAGE, &mut byte, Rights::Obey), 1);
        assert_eq!(byte[0], if empty.contains(&i) { 0 } else { i as u8 | 1 }, "page {i}");
    }
    mm.check_invariants();
}

#[test]
fn a_fault_brings_a_huge_page_where_the_file_is_to_have_such() {
    let _alone = alone();
    let object = Arc::new(crate::ShmemObject::new(1024 * PAGE));
    let mm = Mm::new().unwrap();
    mm.map(fixed(AT, 1024, rw(), MapFlags::SHARED, Backing::file(object.clone()), 0)).unwrap();
    let mapping = crate::Mappable::mapping(&*object).unwrap().clone();
    settings::shmem().set("advise").unwrap();
    fill(&mm, 0..1);
    assert_eq!((mapping.nr_pages(), NR_WHOLE.get()), (1, 0), "nobody has asked");
    mm.advise(AT * PAGE, 1024 * PAGE, MADV_HUGEPAGE).unwrap();
    fill(&mm, 600..601);
    assert_eq!((mapping.nr_pages(), NR_WHOLE.get()), (513, 1));
    assert!(mapping.whole(512).is_some() && mapping.whole(0).is_none());
    fill(&mm, 0..1024);
    check(&mm, 0..1024, 0..0);
    settings::shmem().set("never").unwrap();
    drop((mm, object));
    assert_eq!(NR_WHOLE.get(), 1, "this test has a reference still");
    drop(mapping);
    assert_eq!(NR_WHOLE.get(), 0);
}

#[test]
fn what_takes_a_part_out_leaves_small_pages() {
    for what in 0..4 {
        let _alone = alone();
        let file = TestFile::new(512 * PAGE);
        let mm = mapped(&file, 512);
        let huge = hal::frame::HugeFrame::alloc_user_zeroed(crate::mapping::page_flags::SHMEM).unwrap();
        file.0.insert_whole(0, huge).unwrap();
        fill(&mm, 0..512);
        assert_eq!(NR_WHOLE.get(), 1);
        match what {
            0 => {
                file.0.punch(100 * PAGE..103 * PAGE);
                assert_eq!((file.0.nr_pages(), NR_WHOLE.get()), (509, 0));
                check(&mm, 0..512, 100..103);
            }
            1 => {
                file.0.truncate(511 * PAGE);
                assert_eq!((file.0.nr_pages(), NR_WHOLE.get()), (511, 0));
                check(&mm, 0..511, 0..0);
            }
            2 => {
                let old = file.0.get(7).unwrap();
                let mapping = crate::Mappable::mapping(&*file).unwrap().clone();
                crate::migrate::move_cached(&mapping, 7, &old).unwrap();
                assert_eq!((old.ref_count(), file.0.nr_pages(), NR_WHOLE.get()), (1, 512, 0));
                check(&mm, 0..512, 0..0);
            }
            _ => {
                let huge = hal::frame::HugeFrame::alloc_user_zeroed(0).unwrap();
                assert_eq!(file.0.insert_whole(0, huge), Err(Errno::EEXIST));
                assert_eq!(NR_WHOLE.get(), 1);
                check(&mm, 0..512, 0..0);
            }
        }
    }
}

#[test]
fn collapse_leaves_guard_pages() {
    let _alone = alone();
    let file = TestFile::new(512 * PAGE);
    let mm = mapped(&file, 512);
    fill(&mm, 0..512);
    mm.advise((AT + 9) * PAGE, PAGE, MADV_GUARD_INSTALL).unwrap();
    assert_eq!(mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE), Err(Errno::EAGAIN));
    assert_eq!(mm.read_remote((AT + 9) * PAGE, &mut [0], Rights::Obey), 0, "it guards still");
    mm.advise((AT + 9) * PAGE, PAGE, MADV_GUARD_REMOVE).unwrap();
    mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE).unwrap();
    check(&mm, 0..512, 0..0);
}

#[test]
fn collapse_fills_no_holes_that_another_one_watches() {
    let _alone = alone();
    let file = TestFile::new(512 * PAGE);
    let (mm, other) = (mapped(&file, 512), mapped(&file, 512));
    fill(&mm, 0..100);
    let watcher: Arc<dyn Watcher> = Arc::new(Silent);
    other.watch((AT + 200) * PAGE..(AT + 210) * PAGE, &watcher, WatchModes::MISSING).unwrap();
    assert_eq!(mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE), Err(Errno::EINVAL));
    assert_eq!(file.0.nr_pages(), 100);
    fill(&mm, 100..512);
    mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE).unwrap();
    check(&mm, 0..512, 0..0);
}

#[test]
fn the_background_leaves_alone_what_it_cannot_join() {
    let _alone = alone();
    let account = Arc::new(Shmem::new(512));
    let mapping = Mapping::with_shmem(account.clone());
    mapping.set_size(512 * PAGE);
    mapping.get_or_fill(7).unwrap();
    assert!(mapping.has_room(511) && !mapping.has_room(512));
    account.set_max(500).unwrap();
    assert!(!mapping.has_room(511));
}

#[test]
fn collapse_joins_small_pages_and_holes_for_all_who_map_them() {
    let _alone = alone();
    let file = TestFile::new(1100 * PAGE);
    let (mm, other) = (mapped(&file, 1100), mapped(&file, 1100));
    assert_eq!(mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE), Err(Errno::EINVAL), "nothing is there");
    fill(&mm, 0..100);
    fill(&other, 300..512);
    let kept = file.0.get(7).unwrap();
    assert_eq!(mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE), Err(Errno::EAGAIN), "a page is in use");
    check(&other, 0..512, 100..300);
    drop(kept);
    mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE).unwrap();
    assert_eq!((file.0.nr_pages(), NR_WHOLE.get()), (512, 1));
    check(&mm, 0..512, 100..300);
    check(&other, 0..512, 100..300);
    assert_eq!(mm.counters().rss_shmem, 512);
    mm.advise(AT * PAGE, 512 * PAGE, MADV_COLLAPSE).unwrap();
    fill(&mm, 1024..1100);
    assert_eq!(mm.advise((AT + 1024) * PAGE, 76 * PAGE, MADV_COLLAPSE), Ok(()), "no room, nothing to do");
    let mut bytes = vec![0; (512 * PAGE) as usize];
    file.0.read(0, &mut hal::uio::Dest::kernel(&mut bytes)).unwrap();
    assert_eq!((bytes[99 * PAGE as usize], bytes[100 * PAGE as usize]), (99, 0));
    assert!(file.0.get(5).unwrap().is_in_huge());
    drop((mm, other, file));
    assert_eq!(NR_WHOLE.get(), 0);
}

#[test]
fn writes_bring_huge_pages_where_the_mount_wants_them() {
    const HUGE: u64 = 512 * PAGE;
    let _alone = alone();
    let account = Arc::new(Shmem::new(2000).with_huge(Huge::Always));
    let file = Mapping::with_shmem(account.clone());
    let write = |pos: u64, bytes: &[u8]| file.write(pos, &mut hal::uio::Src::kernel(bytes));
    let content: vec::Vec<u8> = (0..2 * HUGE + 5).map(|i| (i / 7) as u8).collect();
    assert_eq!(write(0, &content), Ok(content.len()));
    assert_eq!((file.nr_pages(), NR_WHOLE.get(), account.used()), (1025, 2, 1025));
    let mut bytes = vec![0; content.len() + 1];
    assert_eq!(file.read(0, &mut hal::uio::Dest::kernel(&mut bytes)), Ok(content.len()));
    assert!(bytes[..content.len()] == content);
    // The second one has no room; small pages take what is left.
    assert_eq!(write(3 * HUGE, &content[..2 * HUGE as usize]), Ok((2000 - 1025) * PAGE as usize));
    assert_eq!((NR_WHOLE.get(), account.used()), (3, 2000));
    // What is there is written to, and stays what it is; in pieces it comes in small pages.
    assert_eq!(write(PAGE, b"new"), Ok(3));
    file.truncate(HUGE);
    assert_eq!((file.nr_pages(), NR_WHOLE.get()), (512, 1));
    for half in 0..2 {
        assert_eq!(write(HUGE + half * HUGE / 2, &content[..HUGE as usize / 2]), Ok(HUGE as usize / 2));
    }
    assert_eq!((file.nr_pages(), NR_WHOLE.get()), (1024, 1));
    // A byte in a hole within the file.
    file.truncate(0);
    file.set_size(2 * HUGE);
    assert_eq!(write(HUGE + 9 * PAGE, b"x"), Ok(1));
    assert_eq!((file.nr_pages(), file.whole(512).is_some()), (512, true));
    account.set_huge(Huge::Advise);
    assert_eq!(write(0, &content[..HUGE as usize]), Ok(HUGE as usize));
    assert_eq!((file.nr_pages(), NR_WHOLE.get()), (1024, 1));
    drop(file);
    assert_eq!((NR_WHOLE.get(), account.used()), (0, 0));
}
