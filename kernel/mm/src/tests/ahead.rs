//! Reading ahead: how much of it, and what ends it.

use std::sync::Arc;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::uio::Dest;

use super::{PAGE, alone};
use crate::{Mapping, PageSource};

const PAGES: u64 = 4096;

/// A disk with one page that cannot be read, and what it was asked for: first pages and numbers of pages.
struct Damaged {
    bad: u64,
    asked: Mutex<Vec<(u64, u64)>>,
}

impl PageSource for Damaged {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, core::slice::from_ref(frame))
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let nr = frames.len() as u64;
        self.asked.lock().unwrap().push((first, nr));
        frames.iter().for_each(|frame| frame.zero(0..PAGE as usize));
        if (first..first + nr).contains(&self.bad) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn max_ahead(&self) -> usize {
        256
    }

    fn write_page(&self, _: u64, _: &Frame) -> Result<()> {
        Ok(())
    }
}

/// Reads a file in order, as far as that goes: the page that could not be read, and what the disk was asked for.
fn read_all(bad: u64) -> (u64, Vec<(u64, u64)>) {
    let disk = Arc::new(Damaged { bad, asked: Mutex::new(Vec::new()) });
    let mapping = Mapping::new_source(disk.clone(), PAGES * PAGE);
    let mut page = vec![0; PAGE as usize];
    let is_bad = |idx: &u64| mapping.read(idx * PAGE, &mut Dest::kernel(&mut page)).is_err();
    let end = (0..PAGES).find(is_bad).unwrap_or(PAGES);
    drop(mapping);
    let asked = core::mem::take(&mut *disk.asked.lock().unwrap());
    (end, asked)
}

#[test]
fn windows_grow_up_to_what_the_source_takes() {
    let _alone = alone();
    let (end, asked) = read_all(PAGES);
    assert_eq!(end, PAGES);
    assert_eq!(&asked[..6], [(0, 8), (8, 16), (24, 32), (56, 64), (120, 128), (248, 256)]);
    assert!(asked[5..].iter().all(|(_, nr)| *nr <= 256) && asked.len() < 24, "{asked:?}");
}

#[test]
fn a_page_that_cannot_be_read_costs_no_more_than_a_few_windows() {
    let _alone = alone();
    for bad in [7, 300, 1000, 1001, 3000] {
        let (end, asked) = read_all(bad);
        assert_eq!(end, bad);
        let pages: u64 = asked.iter().map(|(_, nr)| nr).sum();
        assert!(pages < bad + 4 * 256 + 16 && asked.len() < 64, "{bad}: {pages} in {asked:?}");
    }
}
