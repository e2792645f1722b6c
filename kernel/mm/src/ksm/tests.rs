//! Merging on the hosted machine: rounds are made by hand.

use abi::mman::{MapFlags, Prot};
use abi::raw::general::{MADV_DONTNEED, MADV_MERGEABLE, MADV_UNMERGEABLE};
use hal::uio::Src;

use super::{Chains, Run, chains, scan, set_run, stats, zero_frame, zero_pages};
use crate::tests::{Alone, PAGE, TestFile, alone, fixed, rw};
use crate::vma::Backing;
use crate::{MapRequest, Mm, Rights};

/// The machine for one test, with the page of zeroes made and merging on.
fn merging() -> Alone {
    zero_frame();
    let alone = alone();
    set_run(Run::Merge).unwrap();
    alone
}

/// Ends a test: nothing may be left.
fn finish(mms: impl IntoIterator<Item = std::sync::Arc<Mm>>) {
    mms.into_iter().for_each(|mm| mm.check_invariants());
    set_run(Run::Unmerge).unwrap();
    let left = stats();
    assert_eq!((left.pages_shared, left.pages_sharing, zero_pages()), (0, 0, 0));
}

/// `nr` pages, page `i` full of `byte(i)`.
fn filled(mm: &Mm, nr: u64, byte: impl Fn(u64) -> u8) -> u64 {
    let at = mm.map(MapRequest::anonymous(nr * PAGE, rw())).unwrap();
    for i in 0..nr {
        let page = std::vec![byte(i); PAGE as usize];
        assert_eq!(mm.write_remote(at + i * PAGE, &page, Rights::Obey), page.len());
    }
    mm.advise(at, nr * PAGE, MADV_MERGEABLE).unwrap();
    at
}

fn byte_at(mm: &Mm, at: u64) -> u8 {
    let mut byte = [0];
    assert_eq!(mm.read_remote(at, &mut byte, Rights::Obey), 1);
    byte[0]
}

fn shared() -> (u64, u64) {
    let stats = stats();
    (stats.pages_shared, stats.pages_sharing)
}

#[test]
fn equal_pages_become_one_until_somebody_writes() {
    let _alone = merging();
    let mm = Mm::new().unwrap();
    let free = hal::frame::stats().free;
    let at = filled(&mm, 20, |i| (i % 2) as u8 + 1);
    scan::scan_rounds(1);
    assert_eq!(shared(), (0, 0), "pages are looked at twice first");
    scan::scan_rounds(1);
    assert_eq!(shared(), (2, 18));
    assert!(hal::frame::stats().free > free - 20);
    let known = mm.ksm_stats();
    assert_eq!((known.merging_pages, known.rmap_items, known.merges_some), (20, 20, true));
    assert_eq!(mm.write_remote(at + 4 * PAGE, &[9], Rights::Obey), 1);
    assert_eq!((shared(), byte_at(&mm, at), byte_at(&mm, at + 4 * PAGE)), ((2, 17), 1, 9));
    mm.check_invariants();
    mm.advise(at, 10 * PAGE, MADV_DONTNEED).unwrap();
    assert_eq!((shared(), byte_at(&mm, at)), ((2, 8), 0));
    mm.advise(at, 20 * PAGE, MADV_UNMERGEABLE).unwrap();
    assert_eq!(shared(), (0, 0));
    assert!((10..20).all(|i| byte_at(&mm, at + i * PAGE) == (i % 2) as u8 + 1));
    finish([mm]);
}

#[test]
fn address_spaces_share_and_forks_part() {
    let _alone = merging();
    let (a, b) = (Mm::new().unwrap(), Mm::new().unwrap());
    let (in_a, in_b) = (filled(&a, 4, |_| 7), filled(&b, 4, |_| 7));
    scan::scan_rounds(3);
    assert_eq!(shared(), (1, 7));
    let child = a.fork().unwrap();
    assert_eq!(shared(), (1, 11));
    assert_eq!(child.write_remote(in_a, &[8], Rights::Obey), 1);
    b.map(MapRequest {
        addr: in_b,
        flags: MapFlags::FIXED | MapFlags::PRIVATE | MapFlags::ANONYMOUS,
        ..MapRequest::anonymous(4 * PAGE, rw())
    })
    .unwrap();
    assert_eq!((byte_at(&a, in_a), byte_at(&child, in_a), byte_at(&b, in_b)), (7, 8, 0));
    assert_eq!(shared(), (1, 6));
    drop(a);
    assert_eq!(shared(), (1, 2));
    finish([b, child]);
}

#[test]
fn zeroes_are_merged_with_a_page_that_costs_nothing() {
    let _alone = merging();
    super::settings::USE_ZERO_PAGES.store(true, core::sync::atomic::Ordering::Relaxed);
    let mm = Mm::new().unwrap();
    let at = filled(&mm, 8, |_| 0);
    scan::scan_rounds(2);
    assert_eq!((mm.ksm_stats().zero_pages, zero_pages(), shared()), (8, 8, (0, 0)));
    mm.advise(at, 4 * PAGE, MADV_UNMERGEABLE).unwrap();
    assert_eq!(mm.write_remote(at + 4 * PAGE, &[1], Rights::Obey), 1);
    assert_eq!((mm.ksm_stats().zero_pages, byte_at(&mm, at + 5 * PAGE)), (3, 0));
    super::settings::USE_ZERO_PAGES.store(false, core::sync::atomic::Ordering::Relaxed);
    finish([mm]);
}

#[test]
fn zeroes_in_a_mapping_of_a_file_stay_apart_from_the_file() {
    let _alone = merging();
    super::settings::USE_ZERO_PAGES.store(true, core::sync::atomic::Ordering::Relaxed);
    let file = TestFile::new(4 * PAGE);
    file.0.write(0, &mut Src::kernel(&[7; 4 * PAGE as usize])).unwrap();
    let (mm, at) = (Mm::new().unwrap(), 0x200 * PAGE);
    mm.map(fixed(0x200, 4, rw(), MapFlags::PRIVATE, Backing::file(file.clone()), 0)).unwrap();
    assert_eq!(mm.write_remote(at, &[0; 4 * PAGE as usize], Rights::Obey), 4 * PAGE as usize);
    mm.advise(at, 4 * PAGE, MADV_MERGEABLE).unwrap();
    scan::scan_rounds(2);
    assert_eq!((zero_pages(), shared()), (0, (1, 3)), "merged like other pages");
    let child = mm.fork().unwrap();
    assert!((0..4).all(|i| byte_at(&child, at + i * PAGE) == 0 && byte_at(&mm, at + i * PAGE) == 0));
    super::settings::USE_ZERO_PAGES.store(false, core::sync::atomic::Ordering::Relaxed);
    finish([mm, child]);
}

#[test]
fn all_of_a_process_and_its_children_can_take_part() {
    let _alone = merging();
    let mm = Mm::new().unwrap();
    let before = mm.map(MapRequest::anonymous(2 * PAGE, rw())).unwrap();
    mm.merge_all().unwrap();
    let child = mm.fork().unwrap();
    let after = child.map(MapRequest::anonymous(2 * PAGE, rw())).unwrap();
    assert!(child.merges_all() && child.ksm_stats().merges_some);
    for at in [before, before + PAGE, after, after + PAGE] {
        assert_eq!(child.write_remote(at, &[5], Rights::Obey), 1);
    }
    scan::scan_rounds(2);
    assert_eq!(shared(), (1, 3));
    child.merge_none().unwrap();
    assert_eq!((shared(), child.merges_all(), mm.merges_all()), ((0, 0), false, true));
    assert_eq!(byte_at(&child, after), 5);
    finish([mm, child]);
}

#[test]
fn a_debugger_writes_to_a_copy_of_a_merged_page() {
    let _alone = merging();
    super::settings::USE_ZERO_PAGES.store(true, core::sync::atomic::Ordering::Relaxed);
    let mm = Mm::new().unwrap();
    let (sames, zeroes) = (filled(&mm, 4, |_| 3), filled(&mm, 4, |_| 0));
    scan::scan_rounds(3);
    assert_eq!((shared(), zero_pages()), ((1, 3), 4));
    for (at, byte) in [(sames, 3), (zeroes, 0)] {
        mm.protect(at, 4 * PAGE, Prot::READ, None).unwrap();
        assert_eq!(mm.write_remote(at, &[9], Rights::Obey), 0);
        assert_eq!(mm.write_remote(at, &[9], Rights::Force), 1);
        assert_eq!((byte_at(&mm, at), byte_at(&mm, at + PAGE)), (9, byte));
    }
    assert_eq!((shared(), zero_pages()), ((1, 2), 3));
    super::settings::USE_ZERO_PAGES.store(false, core::sync::atomic::Ordering::Relaxed);
    finish([mm]);
}

#[test]
fn a_page_in_use_is_left_alone() {
    let _alone = merging();
    let mm = Mm::new().unwrap();
    let at = filled(&mm, 2, |_| 3);
    let page = hal::PageRange::page_of(hal::UserAddr(at)).unwrap();
    let held = match mm.page_table().cursor(page).query(at) {
        hal::paging::Entry::Present { frame, .. } => frame,
        _ => panic!("the page is there"),
    };
    scan::scan_rounds(3);
    assert_eq!(shared(), (0, 0));
    drop(held);
    scan::scan_rounds(2);
    assert_eq!(shared(), (1, 1));
    finish([mm]);
}

#[test]
fn a_stable_page_has_so_many_readers_at_most() {
    let _alone = merging();
    super::set_max_page_sharing(3).unwrap();
    let mm = Mm::new().unwrap();
    let at = filled(&mm, 8, |_| 3);
    scan::scan_rounds(3);
    // 3, 3 and 2.
    assert_eq!(shared(), (3, 5));
    assert_eq!(chains(), Chains { chains: 1, dups: 3 });
    assert_eq!(super::set_max_page_sharing(4), Err(abi::Errno::EBUSY));
    mm.unmap(at, 8 * PAGE).unwrap();
    super::set_max_page_sharing(256).unwrap();
    finish([mm]);
}
