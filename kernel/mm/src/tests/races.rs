//! What happens to a file between two steps of a read or a fault: a disk that does it when it is asked for something.

use std::boxed::Box;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::vec;
use std::vec::Vec;

use abi::Result;
use abi::mman::MapFlags;
use hal::UserAddr;
use hal::frame::Frame;
use hal::trap::Access;
use hal::uio::{Dest, Src};

use super::{PAGE, TestFile, alone, fixed, rw};
use crate::mapping::Reading;
use crate::vma::Backing;
use crate::{FaultError, Mapping, Mm, PageSource, Rights, counters};

const PAGES: u64 = 256;

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// While pages are read that somebody waits for.
    Reading,
    /// While pages are read ahead.
    ReadingAhead,
    /// Before a page becomes dirty.
    Writing,
}

/// A disk that a byte stands for each page of, and what happens once.
struct Disk {
    bytes: Mutex<Vec<u8>>,
    mapping: OnceLock<Weak<Mapping>>,
    when: When,
    event: fn(&Mapping),
    has_happened: AtomicBool,
    /// Writes that were prepared, less those that came to nothing.
    nr_prepared: AtomicI32,
}

impl Disk {
    fn new(when: When, event: fn(&Mapping)) -> (Arc<Disk>, Arc<Mapping>) {
        let bytes = Mutex::new(vec![1; PAGES as usize]);
        let has_happened = AtomicBool::new(false);
        let (mapping, nr_prepared) = (OnceLock::new(), AtomicI32::new(0));
        let disk = Arc::new(Disk { bytes, mapping, when, event, has_happened, nr_prepared });
        let mapping = Arc::new(Mapping::new_source(disk.clone(), PAGES * PAGE));
        disk.mapping.set(Arc::downgrade(&mapping)).unwrap();
        (disk, mapping)
    }

    fn happens(&self, when: When) {
        if when == self.when && !self.has_happened.swap(true, SeqCst) {
            let (mapping, event) = (self.mapping.get().unwrap().upgrade().unwrap(), self.event);
            // Another thread: this one may hold locks.
            std::thread::spawn(move || event(&mapping)).join().unwrap();
        }
    }

    fn fill(&self, first: u64, frames: &[Frame]) {
        for (idx, frame) in (first as usize..).zip(frames) {
            frame.write(0, &[self.bytes.lock().unwrap()[idx]; PAGE as usize]);
        }
    }
}

/// Pages that have been read already.
struct Read;

impl Reading for Read {
    fn wait(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl PageSource for Disk {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, std::slice::from_ref(frame))
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        self.fill(first, frames);
        self.happens(When::Reading);
        Ok(())
    }

    fn can_begin(&self) -> bool {
        true
    }

    fn begin_read(&self, first: u64, frames: &[Frame]) -> Result<Option<Box<dyn Reading>>> {
        self.fill(first, frames);
        self.happens(When::ReadingAhead);
        Ok(Some(Box::new(Read)))
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        let mut byte = [0];
        frame.read(0, &mut byte);
        self.bytes.lock().unwrap()[idx as usize] = byte[0];
        Ok(())
    }

    fn prepare_write(&self, _: u64) -> Result<()> {
        self.nr_prepared.fetch_add(1, SeqCst);
        self.happens(When::Writing);
        Ok(())
    }

    fn forget_write(&self, _: u64) {
        self.nr_prepared.fetch_sub(1, SeqCst);
    }
}

/// The first byte of each of the first `pages` pages, read in order.
fn first_bytes(mapping: &Mapping, pages: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    let read = |idx| {
        mapping.read(idx * PAGE, &mut Dest::kernel(&mut bytes)).unwrap();
        bytes[0]
    };
    (0..pages).map(read).collect()
}

/// Page `idx` is written whole, comes to the disk, and leaves the cache.
fn change(mapping: &Mapping, idx: u64) {
    assert_eq!(mapping.write(idx * PAGE, &mut Src::kernel(&[7; PAGE as usize])), Ok(PAGE as usize));
    mapping.write_back(0..u64::MAX).unwrap();
    assert_eq!(mapping.drop_clean(idx * PAGE..(idx + 1) * PAGE), 1);
}

#[test]
fn a_page_that_changed_while_it_was_read_is_read_again() {
    let _alone = alone();
    for (idx, event) in [(0, (|file| change(file, 0)) as fn(&Mapping)), (5, |file| change(file, 5))] {
        let (_disk, mapping) = Disk::new(When::Reading, event);
        let mut wanted = [1; 8];
        wanted[idx] = 7;
        assert_eq!(first_bytes(&mapping, 8), wanted);
    }
}

#[test]
fn a_page_that_changed_while_it_was_read_ahead_is_read_again() {
    let _alone = alone();
    let (disk, mapping) = Disk::new(When::ReadingAhead, |file| change(file, 30));
    let mut wanted = vec![1; PAGES as usize];
    wanted[30] = 7;
    assert_eq!(first_bytes(&mapping, PAGES), wanted);
    assert!(disk.has_happened.load(SeqCst));
}

#[test]
fn other_pages_that_are_written_do_not_matter_to_a_read() {
    let _alone = alone();
    let (disk, mapping) = Disk::new(When::ReadingAhead, |file| change(file, 200));
    assert_eq!(first_bytes(&mapping, 9), [1; 9]);
    // Pages 24 to 55 are on their way; nothing has made them useless.
    disk.bytes.lock().unwrap().fill(2);
    assert_eq!(first_bytes(&mapping, 56), [1; 56]);
}

#[test]
fn a_page_that_is_cut_off_while_it_becomes_dirty_does_not_count() {
    let _alone = alone();
    let (disk, mapping) = Disk::new(When::Writing, |file| file.truncate(0));
    let file = Arc::new(TestFile(mapping.clone()));
    let mm = Mm::new().unwrap();
    mm.map(fixed(0x200, PAGES, rw(), MapFlags::SHARED, Backing::file(file), 0)).unwrap();
    let before = counters::DIRTY.get();
    assert_eq!(mm.read_remote(0x203 * PAGE, &mut [0], Rights::Obey), 1);
    let access = Access { write: true, exec: false, user_mode: true, by_key: false };
    assert_eq!(mm.handle_fault(UserAddr(0x203 * PAGE), access).err(), Some(FaultError::Bus));
    assert_eq!((mapping.nr_dirty(), counters::DIRTY.get()), (0, before));
    assert_eq!(disk.nr_prepared.load(SeqCst), 0);
}

#[test]
fn a_page_that_comes_before_one_that_is_written_whole_is_prepared_for_once() {
    let _alone = alone();
    let (disk, mapping) = Disk::new(When::Writing, |file| drop(first_bytes(file, 1)));
    assert_eq!(mapping.write(0, &mut Src::kernel(&[7; PAGE as usize])), Ok(PAGE as usize));
    assert_eq!((mapping.nr_dirty(), disk.nr_prepared.load(SeqCst)), (1, 1));
    mapping.truncate(0);
}
