//! Reclaim against a plain model: whatever goes and comes, every view of a file shows its bytes.

use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::frame::Frame;
use hal::uio::{Dest, Src};

use super::{PAGE, alone, fixed, rw};
use crate::mapping::Reading;
use crate::vma::Backing;
use crate::{Mappable, Mapping, Mm, PageSource, Rights};

const PAGES: u64 = 96;

/// A disk in the host's memory: one byte stands for a page, which is full of it.
struct Disk(Mutex<Vec<u8>>);

impl PageSource for Disk {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        frame.write(0, &[self.0.lock().unwrap()[idx as usize]; PAGE as usize]);
        Ok(())
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        let mut bytes = [0; PAGE as usize];
        frame.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a page is written whole");
        self.0.lock().unwrap()[idx as usize] = bytes[0];
        Ok(())
    }
}

struct File(Arc<Mapping>);

impl Mappable for File {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.0)
    }
    fn name(&self) -> Vec<u8> {
        b"/disk".to_vec()
    }
}

/// A disk that begins to read, and is never done.
struct Slow(Vec<Frame>);

impl Reading for Slow {
    fn wait(self: Box<Self>) -> Result<()> {
        drop(self.0);
        Err(Errno::EIO)
    }
}

/// A disk of zeroes that reads ahead.
struct Zeroes;

impl PageSource for Zeroes {
    fn read_page(&self, _: u64, frame: &Frame) -> Result<()> {
        frame.zero(0..PAGE as usize);
        Ok(())
    }

    fn can_begin(&self) -> bool {
        true
    }

    fn begin_read(&self, _: u64, frames: &[Frame]) -> Result<Option<Box<dyn Reading>>> {
        Ok(Some(Box::new(Slow(frames.to_vec()))))
    }

    fn write_page(&self, _: u64, _: &Frame) -> Result<()> {
        Ok(())
    }
}

fn new_file() -> (Arc<Disk>, Arc<File>) {
    let disk = Arc::new(Disk(Mutex::new(vec![0; PAGES as usize])));
    let mapping = Arc::new(Mapping::new_source(disk.clone(), PAGES * PAGE));
    (disk, Arc::new(File(mapping)))
}

fn shared(file: &Arc<File>) -> Arc<Mm> {
    let mm = Mm::new().unwrap();
    let request = fixed(0x200, PAGES, rw(), MapFlags::SHARED, Backing::file(file.clone()), 0);
    mm.map(request).unwrap();
    mm
}

/// Drops what can be dropped, as the thread does in its rounds.
fn reclaim_all(mapping: &Mapping) {
    for _ in 0..4 {
        crate::walk::age_all();
        mapping.shrink(usize::MAX);
    }
}

#[test]
fn what_is_used_again_stays_longer() {
    let _alone = alone();
    let (_disk, file) = new_file();
    let mut bytes = vec![0; 8 * PAGE as usize];
    file.0.read(0, &mut Dest::kernel(&mut bytes)).unwrap();
    assert_eq!(file.0.nr_pages(), 8);
    for _ in 0..2 {
        file.0.read(2 * PAGE, &mut Dest::kernel(&mut bytes[..PAGE as usize])).unwrap();
    }
    assert_eq!(file.0.shrink(usize::MAX), 7);
    assert!(file.0.get(2).is_some());
    assert_eq!(file.0.shrink(usize::MAX), 1);
}

#[test]
fn what_is_read_ahead_for_nobody_goes() {
    let _alone = alone();
    let mapping = Mapping::new_source(Arc::new(Zeroes), PAGES * PAGE);
    let free = || hal::frame::stats().free;
    let read = |pages: u64| {
        let mut bytes = vec![0; PAGE as usize];
        for i in 0..pages {
            mapping.read(i * PAGE, &mut Dest::kernel(&mut bytes)).unwrap();
        }
    };
    let before = free();
    // Pages 0 to 23 come, and those up to 55 are on their way.
    read(9);
    assert_eq!((mapping.nr_pages(), before - free()), (24, 56));
    assert_eq!(mapping.drop_clean(0..24 * PAGE), 24, "it is not of these");
    assert_eq!(before - free(), 32);
    assert_eq!((mapping.shrink(usize::MAX), before - free()), (0, 32), "somebody may come for it");
    assert_eq!((mapping.shrink(usize::MAX), before - free()), (32, 0));
    read(9);
    assert_eq!(mapping.drop_clean(0..u64::MAX), 24);
    assert_eq!(before - free(), 0);
}

#[test]
fn a_scan_takes_what_is_wanted_and_goes_on_behind() {
    let _alone = alone();
    let (_disk, file) = new_file();
    file.0.read_ahead(0..32 * PAGE).unwrap();
    assert_eq!(file.0.shrink(5), 5);
    assert_eq!(file.0.next_page(0), Some(5));
    assert_eq!(file.0.shrink(100), 27);
}

#[test]
fn mapped_pages_go_when_they_are_not_used() {
    let _alone = alone();
    let (_disk, file) = new_file();
    let mm = shared(&file);
    let mut bytes = vec![0; 16 * PAGE as usize];
    assert_eq!(mm.read_remote(0x200 * PAGE, &mut bytes, Rights::Obey), bytes.len());
    assert!(mm.counters().rss_file >= 16);
    file.0.shrink(usize::MAX);
    assert_eq!(file.0.nr_pages(), mm.counters().rss_file, "pages that are mapped stay");
    reclaim_all(&file.0);
    assert_eq!((mm.counters().rss_file, file.0.nr_pages()), (0, 0));
    mm.check_invariants();
}

#[test]
fn locked_and_dirty_pages_stay() {
    let _alone = alone();
    let (disk, file) = new_file();
    let mm = shared(&file);
    mm.write_remote(0x210 * PAGE, &[7; PAGE as usize], Rights::Obey);
    mm.lock(0x200 * PAGE, 4 * PAGE, crate::OnFault::No).unwrap();
    reclaim_all(&file.0);
    let left = file.0.nr_pages();
    assert_eq!((left, mm.counters().rss_file), (5, 4), "four locked, one dirty");
    file.0.write_back(0..u64::MAX).unwrap();
    reclaim_all(&file.0);
    assert_eq!((file.0.nr_pages(), disk.0.lock().unwrap()[16]), (4, 7));
}

#[test]
fn dropping_for_a_direct_write_leaves_what_was_stored() {
    let _alone = alone();
    let (disk, file) = new_file();
    let mm = shared(&file);
    file.0.read_ahead(0..8 * PAGE).unwrap();
    assert_eq!(mm.read_remote(0x200 * PAGE, &mut [0; 4 * PAGE as usize], Rights::Obey), 4 * PAGE as usize);
    mm.write_remote(0x202 * PAGE, &[7; PAGE as usize], Rights::Obey);
    assert!(!file.0.freeze().drop_unless_dirty(0..4 * PAGE));
    assert_eq!((file.0.get(1).is_some(), file.0.get(2).is_some(), file.0.nr_pages()), (false, true, 5));
    assert_eq!(file.0.nr_dirty(), 1);
    file.0.write_back(0..u64::MAX).unwrap();
    assert!(file.0.freeze().drop_unless_dirty(0..4 * PAGE));
    let left = (file.0.nr_pages(), mm.counters().rss_file);
    assert_eq!((left, disk.0.lock().unwrap()[2]), ((4, 4), 7), "those behind are mapped still");
    mm.check_invariants();
}

#[test]
fn random_use_under_reclaim_agrees_with_a_byte_per_page() {
    for seed in 1..20u64 {
        let _alone = alone();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % n
        };
        let (disk, file) = new_file();
        let private = fixed(0x400, PAGES, rw(), MapFlags::PRIVATE, Backing::file(file.clone()), 0);
        let mms = [shared(&file), shared(&file), Mm::new().unwrap()];
        mms[2].map(private).unwrap();
        let mut model = [0u8; PAGES as usize];
        let mut own: Vec<Option<u8>> = vec![None; PAGES as usize];
        for step in 0..600u64 {
            let (idx, value) = (below(PAGES), step as u8);
            let mm = &mms[below(2) as usize];
            let mut got = [0];
            match below(9) {
                0 => {
                    file.0.write(idx * PAGE, &mut Src::kernel(&[value; PAGE as usize])).unwrap();
                    model[idx as usize] = value;
                }
                1 => {
                    mm.write_remote((0x200 + idx) * PAGE, &[value; PAGE as usize], Rights::Obey);
                    model[idx as usize] = value;
                }
                2 => {
                    mms[2].write_remote((0x400 + idx) * PAGE, &[value; PAGE as usize], Rights::Obey);
                    own[idx as usize] = Some(value);
                }
                3 => assert_eq!(crate::walk::age_all(), 0),
                4 => {
                    file.0.shrink(1 + below(20) as usize);
                }
                5 => file.0.write_back(0..u64::MAX).unwrap(),
                6 => {
                    file.0.read(idx * PAGE, &mut Dest::kernel(&mut got)).unwrap();
                    assert_eq!(got, [model[idx as usize]]);
                }
                7 => {
                    mm.read_remote((0x200 + idx) * PAGE + 5, &mut got, Rights::Obey);
                    assert_eq!(got, [model[idx as usize]]);
                }
                _ => {
                    mms[2].read_remote((0x400 + idx) * PAGE + 9, &mut got, Rights::Obey);
                    assert_eq!(got, [own[idx as usize].unwrap_or(model[idx as usize])]);
                }
            }
        }
        mms.iter().for_each(|mm| mm.check_invariants());
        file.0.write_back(0..u64::MAX).unwrap();
        reclaim_all(&file.0);
        assert_eq!(file.0.nr_pages(), 0, "all is clean and nobody uses it");
        assert_eq!(*disk.0.lock().unwrap(), model);
        assert_eq!(mms[0].protect(0x200 * PAGE, PAGE, Prot::READ, None), Ok(()));
    }
}
