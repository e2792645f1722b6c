//! Pages that move to another frame keep what is in them, wherever they are shown.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use abi::Errno;
use abi::mman::MapFlags;
use abi::raw::general::{MADV_DONTNEED, MADV_NOHUGEPAGE};
use hal::frame::Frame;
use hal::paging::Entry;
use hal::{PageRange, UserAddr};

use super::{PAGE, TestFile, alone, fixed, rw};
use crate::vma::Backing;
use crate::{Mm, Rights, compact, migrate};

const START: u64 = 0x800;

fn anonymous(pages: u64) -> Arc<Mm> {
    let mm = Mm::new().unwrap();
    mm.map(fixed(START, pages, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
    mm.advise(START * PAGE, pages * PAGE, MADV_NOHUGEPAGE).unwrap();
    mm
}

fn put(mm: &Mm, page: u64, byte: u8) {
    assert_eq!(mm.write_remote((START + page) * PAGE, &[byte; 3], Rights::Obey), 3);
}

fn get(mm: &Mm, page: u64) -> u8 {
    let mut bytes = [0; 3];
    assert_eq!(mm.read_remote((START + page) * PAGE, &mut bytes, Rights::Obey), 3);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

fn frame_at(mm: &Mm, page: u64) -> Frame {
    let range = PageRange::page_of(UserAddr((START + page) * PAGE)).unwrap();
    match mm.page_table().cursor(range).query(range.start()) {
        Entry::Present { frame, .. } => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_private_page_moves_in_all_that_share_it() {
    let _alone = alone();
    let mm = anonymous(2);
    put(&mm, 0, 7);
    put(&mm, 1, 8);
    let child = mm.fork().unwrap();
    let old = frame_at(&mm, 0);
    migrate::move_private(&old).unwrap();
    assert_eq!(old.ref_count(), 1, "nobody else has it");
    let new = frame_at(&child, 0);
    assert!(new.pfn() != old.pfn() && new.pfn() == frame_at(&mm, 0).pfn());
    drop((old, new));
    assert_eq!((get(&mm, 0), get(&child, 0), get(&mm, 1)), (7, 7, 8));
    put(&child, 0, 9);
    assert_eq!((get(&mm, 0), get(&child, 0)), (7, 9));
    drop(child);
    put(&mm, 0, 10);
    assert_eq!(get(&mm, 0), 10);
    mm.check_invariants();
}

#[test]
fn a_page_that_somebody_holds_stays() {
    let _alone = alone();
    let mm = anonymous(1);
    put(&mm, 0, 7);
    let old = frame_at(&mm, 0);
    let holder = old.clone();
    assert_eq!(migrate::move_private(&old), Err(Errno::EBUSY));
    let pfn = old.pfn();
    drop(old);
    put(&mm, 0, 8);
    let old = frame_at(&mm, 0);
    assert_eq!(old.pfn(), pfn, "it is not copied either");
    drop(holder);
    migrate::move_private(&old).unwrap();
    assert_eq!(get(&mm, 0), 8);
}

#[test]
fn a_page_of_a_file_moves_for_all_who_show_it() {
    let _alone = alone();
    let file = TestFile::new(4 * PAGE);
    let mm = Mm::new().unwrap();
    mm.map(fixed(START, 4, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0)).unwrap();
    put(&mm, 2, 5);
    let old = frame_at(&mm, 2);
    let mapping = crate::Mappable::mapping(&*file).unwrap().clone();
    let holder = old.clone();
    assert_eq!(migrate::move_cached(&mapping, 2, &old), Err(Errno::EBUSY));
    drop(holder);
    migrate::move_cached(&mapping, 2, &old).unwrap();
    assert_eq!(old.ref_count(), 1);
    assert!(mapping.get(2).unwrap().pfn() != old.pfn());
    assert_eq!(get(&mm, 2), 5);
    put(&mm, 2, 6);
    let mut bytes = vec![0; 1];
    mapping.get(2).unwrap().read(0, &mut bytes);
    assert_eq!(bytes, [6], "the view is the file's");
    mm.check_invariants();
}

#[test]
fn compaction_makes_blocks_and_keeps_contents() {
    const PAGES: u64 = 4096;
    let _alone = alone();
    let mm = anonymous(PAGES);
    let byte = |page: u64| (page % 251) as u8;
    (0..PAGES).for_each(|page| put(&mm, page, byte(page)));
    let kept: Vec<u64> = (0..PAGES).filter(|page| page % 16 == 3).collect();
    for page in (0..PAGES).filter(|page| page % 16 != 3) {
        mm.advise((START + page) * PAGE, PAGE, MADV_DONTNEED).unwrap();
    }
    let moved = compact::MOVED.get();
    compact::compact_all().unwrap();
    assert!(compact::MOVED.get() > moved, "the pages of a block were moved together");
    assert!(kept.iter().all(|page| get(&mm, *page) == byte(*page)));
    kept.iter().for_each(|page| put(&mm, *page, 1));
    assert!(kept.iter().all(|page| get(&mm, *page) == 1));
    mm.check_invariants();
}
