//! Swap to a device in the host's memory.

use std::boxed::Box;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use abi::mman::MapFlags;
use abi::raw::general::{MADV_DONTNEED, MADV_FREE, MADV_PAGEOUT};
use abi::{Errno, Result};
use hal::frame::Frame;

use super::{PAGE, TestFile, alone, fixed, rw};
use crate::swap::{self, SwapDevice};
use crate::vma::Backing;
use crate::{MapRequest, Mm, Rights};

const SLOTS: u64 = 400;

/// A device that can be made to fail.
#[derive(Default)]
struct Memory {
    pages: Mutex<HashMap<u64, Vec<u8>>>,
    is_broken: AtomicBool,
    /// No memory for more than one page at once.
    is_short: AtomicBool,
    /// Requests to read.
    nr_reads: AtomicU64,
}

impl SwapDevice for Memory {
    fn nr_pages(&self) -> u64 {
        SLOTS
    }

    fn read(&self, slot: u64, frame: &Frame) -> Result<()> {
        self.read_many(&[(slot, frame.clone())])
    }

    fn read_many(&self, pages: &[(u64, Frame)]) -> Result<()> {
        self.nr_reads.fetch_add(1, Ordering::Relaxed);
        assert!(pages.is_sorted_by_key(|(slot, _)| *slot));
        pages.iter().try_for_each(|(slot, frame)| self.read_page(*slot, frame))
    }

    fn write(&self, pages: &[(u64, Frame)]) -> Result<()> {
        self.write_pages(pages)
    }

    fn is_partition(&self) -> bool {
        true
    }
}

impl Memory {
    fn read_page(&self, slot: u64, frame: &Frame) -> Result<()> {
        frame.write(0, self.pages.lock().unwrap().get(&slot).ok_or(Errno::EIO)?);
        Ok(())
    }

    fn write_pages(&self, pages: &[(u64, Frame)]) -> Result<()> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        if self.is_short.load(Ordering::Relaxed) && pages.len() > 1 {
            return Err(Errno::ENOMEM);
        }
        for (slot, frame) in pages {
            assert!(*slot > 0 && *slot < SLOTS, "the header's page, or none of the device");
            let mut bytes = vec![0; PAGE as usize];
            frame.read(0, &mut bytes);
            self.pages.lock().unwrap().insert(*slot, bytes);
        }
        Ok(())
    }
}

fn swap_on() -> Arc<Memory> {
    let device = Arc::new(Memory::default());
    let mut header = vec![0; PAGE as usize];
    header[1024] = 1;
    header[1028..1032].copy_from_slice(&(SLOTS as u32 - 1).to_le_bytes());
    header[PAGE as usize - 10..].copy_from_slice(b"SWAPSPACE2");
    device.pages.lock().unwrap().insert(0, header);
    swap::swap_on(device.clone(), b"/memory".to_vec(), None, Box::new(())).unwrap();
    device
}

fn swap_off() {
    assert_eq!(swap::USED.get(), 0, "nobody is left who could use swap");
    swap::swap_off(b"/memory").unwrap();
    assert_eq!(swap::TOTAL.get(), 0);
}

fn filled(mm: &Mm) -> u64 {
    let at = mm.map(MapRequest::anonymous(40 * PAGE, rw())).unwrap();
    (0..40).for_each(|i| assert_eq!(mm.write_remote(at + i * PAGE, &[i as u8 + 1], Rights::Obey), 1));
    at
}

fn check(mm: &Mm, at: u64) {
    let mut byte = [0];
    for i in 0..40 {
        mm.read_remote(at + i * PAGE, &mut byte, Rights::Obey);
        assert_eq!(byte, [i as u8 + 1]);
    }
    mm.check_invariants();
}

#[test]
fn random_operations_with_swap_agree_with_a_byte_per_page() {
    for seed in 1..30 {
        let _alone = alone();
        swap_on();
        crate::selftest::random_operations(seed * 0x1234_5678_9abd, 1500);
        swap_off();
    }
}

#[test]
fn pages_go_come_back_and_are_counted() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    let free = hal::frame::stats().free;
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!((mm.counters().swap, mm.counters().rss_anon, swap::USED.get()), (40, 0, 40));
    assert!(hal::frame::stats().free >= free + 40);
    check(&mm, at);
    assert_eq!((mm.counters().swap, mm.counters().rss_anon, swap::USED.get()), (0, 40, 0));
    drop(mm);
    swap_off();
}

#[test]
fn a_fork_counts_and_the_last_user_frees() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    let child = mm.fork().unwrap();
    assert_eq!((child.counters().swap, swap::USED.get()), (40, 40));
    check(&mm, at);
    assert_eq!(swap::USED.get(), 40, "the child names them still");
    check(&child, at);
    assert_eq!(swap::USED.get(), 0);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    drop(mm.fork().unwrap());
    check(&mm, at);
    drop((mm, child));
    swap_off();
}

#[test]
fn a_device_that_fails_loses_nothing() {
    let _alone = alone();
    let device = swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    device.is_broken.store(true, Ordering::Relaxed);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    check(&mm, at);
    drop(mm);
    swap_off();
}

#[test]
fn a_device_without_memory_for_many_pages_stays_in_use() {
    let _alone = alone();
    let device = swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    device.is_short.store(true, Ordering::Relaxed);
    let free = hal::frame::stats().free;
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!(
        (mm.counters().swap, device.pages.lock().unwrap().len()),
        (40, 41),
        "one by one, and the header"
    );
    assert!(hal::frame::stats().free >= free + 40);
    check(&mm, at);
    device.is_short.store(false, Ordering::Relaxed);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!(mm.counters().swap, 40, "it is not closed");
    drop(mm);
    swap_off();
}

#[test]
fn swapoff_reads_everything_back() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!(swap::swap_off(b"/elsewhere"), Err(Errno::EINVAL));
    swap::swap_off(b"/memory").unwrap();
    assert_eq!((mm.counters().swap, mm.counters().rss_anon), (0, 40));
    check(&mm, at);
}

#[test]
fn freed_pages_go_unless_they_are_written() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    mm.advise(at, 40 * PAGE, MADV_FREE).unwrap();
    assert_eq!(mm.counters().rss_anon, 40, "they stay while there is memory");
    mm.write_remote(at + 3 * PAGE, &[9], Rights::Obey);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!(mm.counters().rss_anon, 1);
    let mut byte = [7];
    mm.read_remote(at + 3 * PAGE, &mut byte, Rights::Obey);
    assert_eq!(byte, [9]);
    mm.read_remote(at, &mut byte, Rights::Obey);
    assert_eq!(byte, [0]);
    mm.check_invariants();
}

/// Page of the address space at which a file is mapped.
const AT: u64 = 0x1000;

/// A file of 40 pages that `mm` has filled through a mapping of the kind.
fn filled_file(mm: &Mm, kind: MapFlags) -> Arc<TestFile> {
    let file = TestFile::new(40 * PAGE);
    mm.map(fixed(AT, 40, rw(), kind, Backing::file(file.clone()), 0)).unwrap();
    let mut bytes = vec![0; (40 * PAGE) as usize];
    (0..40).for_each(|i| bytes[i * PAGE as usize] = i as u8 + 1);
    file.0.write(0, &mut hal::uio::Src::kernel(&bytes)).unwrap();
    check(mm, AT * PAGE);
    file
}

fn page_out(mm: &Mm) {
    mm.advise(AT * PAGE, 40 * PAGE, MADV_PAGEOUT).unwrap();
}

/// Pages of `file` in memory, in swap, and slots in use.
fn places(file: &TestFile) -> (u64, u64, u64) {
    (file.0.nr_pages(), file.0.nr_swapped(), swap::USED.get())
}

#[test]
fn shared_pages_go_come_back_and_are_counted() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    assert_eq!(mm.counters().rss_shmem, 40);
    let (free, cached) = (hal::frame::stats().free, crate::counters::SHMEM.get());
    page_out(&mm);
    assert_eq!((places(&file), mm.counters().rss_shmem, mm.counters().swap), ((0, 40, 40), 0, 0));
    assert_eq!(crate::counters::SHMEM.get(), cached - 40);
    assert!(hal::frame::stats().free >= free + 30, "less what the index takes");
    let stats = mm.collect_page_stats(AT * PAGE..(AT + 40) * PAGE);
    assert_eq!((stats.swap, stats.swap_pss_bytes, stats.rss), (40, 0, 0));
    assert_eq!(file.0.count_pages(0..u64::MAX).evicted, 40);
    assert_eq!((file.0.next_page(7), file.0.holds(39), file.0.holds(40)), (Some(7), true, false));
    let mut in_core = 0;
    mm.mincore(AT * PAGE, 40 * PAGE, |here| in_core += u32::from(here)).unwrap();
    assert_eq!(in_core, 0);
    check(&mm, AT * PAGE);
    assert_eq!(places(&file), (40, 0, 0));
    page_out(&mm);
    let mut bytes = vec![0; (40 * PAGE) as usize];
    assert_eq!(file.0.read(0, &mut hal::uio::Dest::kernel(&mut bytes)), Ok(bytes.len()));
    assert!((0..40).all(|i| bytes[i * PAGE as usize] == i as u8 + 1));
    drop(mm);
    swap_off();
}

#[test]
fn shared_pages_that_others_show_stay() {
    let _alone = alone();
    swap_on();
    let (mm, other) = (Mm::new().unwrap(), Mm::new().unwrap());
    let file = filled_file(&mm, MapFlags::SHARED);
    other.map(fixed(AT, 10, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0)).unwrap();
    for i in 0..10 {
        assert_eq!(other.read_remote((AT + i) * PAGE, &mut [0], Rights::Obey), 1);
    }
    page_out(&mm);
    assert_eq!(places(&file), (10, 30, 30));
    drop(other);
    let kept = file.0.get(3);
    page_out(&mm);
    assert_eq!(places(&file), (1, 39, 39), "one is in use");
    drop(kept);
    file.0.set_locked(true);
    check(&mm, AT * PAGE);
    page_out(&mm);
    assert_eq!(places(&file), (40, 0, 0), "locked");
    drop((mm, file));
    swap_off();
}

#[test]
fn what_leaves_a_file_leaves_swap() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    page_out(&mm);
    file.0.truncate(30 * PAGE - 100);
    assert_eq!(places(&file), (1, 29, 30 - 1), "the last page came to be cut");
    file.0.punch(5 * PAGE..8 * PAGE + 1);
    assert_eq!(places(&file), (2, 25, 25));
    let mut byte = [7];
    assert_eq!(mm.read_remote((AT + 6) * PAGE, &mut byte, Rights::Obey), 1);
    assert_eq!((byte, file.0.nr_pages()), ([0], 3));
    assert_eq!(mm.read_remote((AT + 8) * PAGE, &mut byte, Rights::Obey), 1);
    assert_eq!(byte, [0], "a byte of it was punched");
    assert_eq!(mm.read_remote((AT + 31) * PAGE, &mut byte, Rights::Obey), 0);
    file.0.write(9 * PAGE + 5, &mut hal::uio::Src::kernel(&[0xaa])).unwrap();
    let mut bytes = [0; 6];
    assert_eq!(file.0.read(9 * PAGE, &mut hal::uio::Dest::kernel(&mut bytes)), Ok(6));
    assert_eq!(bytes, [10, 0, 0, 0, 0, 0xaa], "the rest of the page came from swap");
    drop(mm);
    assert_eq!(places(&file).1, 24);
    drop(file);
    assert_eq!(swap::USED.get(), 0, "the file took its entries along");
    swap_off();
}

#[test]
fn swapoff_reads_shared_pages_back() {
    let _alone = alone();
    let device = swap_on();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    page_out(&mm);
    swap::swap_off(b"/memory").unwrap();
    assert_eq!(places(&file), (40, 0, 0));
    check(&mm, AT * PAGE);
    drop((device, mm));
    let device = swap_on();
    device.is_broken.store(true, Ordering::Relaxed);
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    page_out(&mm);
    check(&mm, AT * PAGE);
    drop((mm, file));
    swap_off();
}

#[test]
fn private_copies_are_made_of_pages_in_swap() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::PRIVATE);
    assert_eq!(mm.write_remote(AT * PAGE, &[99], Rights::Obey), 1);
    page_out(&mm);
    assert_eq!((places(&file), mm.counters().swap), ((1, 39, 40), 1), "nobody has shown the first since");
    let stats = mm.collect_page_stats(AT * PAGE..(AT + 40) * PAGE);
    assert_eq!((stats.swap, stats.swap_pss_bytes), (40, PAGE), "the copy, and what has no entry");
    assert_eq!(mm.write_remote((AT + 1) * PAGE + 1, &[98], Rights::Obey), 1);
    let mut bytes = [0; 2];
    assert_eq!(mm.read_remote((AT + 1) * PAGE, &mut bytes, Rights::Obey), 2);
    assert_eq!(bytes, [2, 98]);
    mm.advise(AT * PAGE, 40 * PAGE, MADV_DONTNEED).unwrap();
    check(&mm, AT * PAGE);
    drop((mm, file));
    swap_off();
}

#[test]
fn idle_pages_of_files_go_when_memory_is_short() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    assert_eq!(crate::mapping::swapped::shrink(100), 0, "they are mapped");
    drop(mm);
    assert_eq!(crate::mapping::swapped::shrink(8), 32, "a batch");
    assert_eq!(crate::mapping::swapped::shrink(100), 8);
    assert_eq!(places(&file), (0, 40, 40));
    assert_eq!(crate::mapping::swapped::shrink(100), 0);
    drop(file);
    swap_off();
}

#[test]
fn huge_pages_of_shared_memory_go_to_swap_in_parts() {
    let _alone = alone();
    swap_on();
    let file = TestFile::new(512 * PAGE);
    let mm = Mm::new().unwrap();
    mm.map(fixed(AT, 512, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0)).unwrap();
    let huge = hal::frame::HugeFrame::alloc_user_zeroed(crate::mapping::page_flags::SHMEM).unwrap();
    file.0.insert_whole(0, huge).unwrap();
    (0..40).for_each(|i| assert_eq!(mm.write_remote((AT + i) * PAGE, &[i as u8 + 1], Rights::Obey), 1));
    assert_eq!(crate::mapping::whole::NR_WHOLE.get(), 1);
    page_out(&mm);
    assert_eq!((places(&file), crate::mapping::whole::NR_WHOLE.get()), ((472, 40, 40), 0));
    check(&mm, AT * PAGE);
    // Joined again, those in swap are read first.
    page_out(&mm);
    mm.advise(AT * PAGE, 512 * PAGE, abi::raw::general::MADV_COLLAPSE).unwrap();
    assert_eq!((places(&file), crate::mapping::whole::NR_WHOLE.get()), ((512, 0, 0), 1));
    check(&mm, AT * PAGE);
    drop((mm, file));
    swap_off();
}

#[test]
fn shared_pages_leave_the_page_table_without_swap() {
    let _alone = alone();
    let mm = Mm::new().unwrap();
    let file = filled_file(&mm, MapFlags::SHARED);
    page_out(&mm);
    assert_eq!((places(&file), mm.counters().rss_shmem), ((40, 0, 0), 0));
    check(&mm, AT * PAGE);
    file.0.set_locked(true);
    page_out(&mm);
    assert_eq!((places(&file), mm.counters().rss_shmem), ((40, 0, 0), 40));
    drop(mm);
}

/// How many requests it takes to read 40 pages from first to last.
fn reads_in_a_row(device: &Memory) -> u64 {
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    assert_eq!(mm.swap_pages(), 40);
    let before = device.nr_reads.load(Ordering::Relaxed);
    check(&mm, at);
    assert_eq!((swap::USED.get(), swap::nr_cached()), (0, 0), "all was wanted");
    device.nr_reads.load(Ordering::Relaxed) - before
}

#[test]
fn neighbours_are_read_together() {
    let _alone = alone();
    let device = swap_on();
    for by_address in [true, false] {
        swap::BY_ADDRESS.store(by_address, Ordering::Relaxed);
        swap::PAGE_CLUSTER.store(3, Ordering::Relaxed);
        let (hits, reads) = (swap::HITS.get(), reads_in_a_row(&device));
        assert!(reads <= 10, "{reads} requests for 40 pages");
        assert_eq!(swap::HITS.get() - hits, 40 - reads);
        swap::PAGE_CLUSTER.store(0, Ordering::Relaxed);
        assert_eq!(reads_in_a_row(&device), 40);
        swap::PAGE_CLUSTER.store(31, Ordering::Relaxed);
        assert!(reads_in_a_row(&device) <= 7);
    }
    swap::BY_ADDRESS.store(true, Ordering::Relaxed);
    swap::PAGE_CLUSTER.store(3, Ordering::Relaxed);
    swap_off();
}

#[test]
fn what_was_read_ahead_goes_with_its_slot_and_when_memory_is_short() {
    let _alone = alone();
    swap_on();
    let mm = Mm::new().unwrap();
    let at = filled(&mm);
    mm.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    let read = |mm: &Mm, page: u64| {
        let mut byte = [0];
        assert_eq!(mm.read_remote(at + page * PAGE, &mut byte, Rights::Obey), 1);
        assert_eq!(byte, [page as u8 + 1]);
    };
    // The second read is beside the first.
    read(&mm, 8);
    read(&mm, 9);
    read(&mm, 16);
    read(&mm, 17);
    let cached = swap::nr_cached();
    assert!(cached > 0);
    assert_eq!((swap::shrink_cache(), swap::nr_cached()), (cached, 0));
    (20..24).for_each(|page| read(&mm, page));
    let child = mm.fork().unwrap();
    mm.unmap(at, 40 * PAGE).unwrap();
    (0..40).for_each(|page| read(&child, page));
    (0..8).for_each(|page| {
        assert_eq!(child.write_remote(at + page * PAGE, &[page as u8 + 1], Rights::Obey), 1)
    });
    child.advise(at, 40 * PAGE, MADV_PAGEOUT).unwrap();
    read(&child, 0);
    read(&child, 1);
    child.unmap(at, 40 * PAGE).unwrap();
    assert_eq!((swap::USED.get(), swap::nr_cached()), (0, 0), "no slot, no page");
    swap_off();
}
