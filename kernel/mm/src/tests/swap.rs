//! Swap to a device in the host's memory.

use std::boxed::Box;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use abi::raw::general::{MADV_FREE, MADV_PAGEOUT};
use abi::{Errno, Result};
use hal::frame::Frame;

use super::{PAGE, alone, rw};
use crate::swap::{self, SwapDevice};
use crate::{MapRequest, Mm, Rights};

const SLOTS: u64 = 400;

/// A device that can be made to fail.
#[derive(Default)]
struct Memory {
    pages: Mutex<HashMap<u64, Vec<u8>>>,
    is_broken: AtomicBool,
    /// No memory for more than one page at once.
    is_short: AtomicBool,
}

impl SwapDevice for Memory {
    fn nr_pages(&self) -> u64 {
        SLOTS
    }

    fn read(&self, slot: u64, frame: &Frame) -> Result<()> {
        frame.write(0, self.pages.lock().unwrap().get(&slot).ok_or(Errno::EIO)?);
        Ok(())
    }

    fn write(&self, pages: &[(u64, Frame)]) -> Result<()> {
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

    fn is_partition(&self) -> bool {
        true
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
