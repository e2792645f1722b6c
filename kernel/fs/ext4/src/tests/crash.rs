//! Power failures: every write is recorded; at many points the disk is rebuilt as a cache that was lost would leave
//! it: all that was flushed, and any part of the rest. e2fsck must be content and what was synced must be there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use abi::fs::OpenFlags;
use block::{MemDisk, Op};
use hal::uio::Src;

use vfs::superblock::SbFlags;

use super::env::{Env, Random, alone, fsck, fsck_after_crash, fsync, image, pattern};

const SECTOR: usize = 512;
/// What reaches the disk whole. Linux counts on it for the superblock, too.
const UNIT: usize = 1024;

enum Event {
    Write {
        sector: usize,
        bytes: Vec<u8>,
    },
    Flush,
    /// The test says: from here on these files have these contents, or do not exist.
    Promise(BTreeMap<String, Option<Vec<u8>>>),
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    /// A write whose bytes are not on the disk yet.
    pending: Option<(usize, usize)>,
}

impl Log {
    fn settle(&mut self, memory: &MemDisk) {
        if let Some((sector, count)) = self.pending.take() {
            let image = memory.snapshot();
            let bytes = image[sector * SECTOR..(sector + count) * SECTOR].to_vec();
            self.events.push(Event::Write { sector, bytes });
        }
    }
}

fn record(env: &Env) -> Arc<Mutex<Log>> {
    let log = Arc::new(Mutex::new(Log::default()));
    let (store, memory): (_, Weak<MemDisk>) = (log.clone(), Arc::downgrade(&env.memory));
    env.memory.set_fault(move |op, sector, count| {
        let mut log = store.lock().unwrap();
        if let Some(memory) = memory.upgrade() {
            log.settle(&memory);
        }
        match op {
            Op::Write => log.pending = Some((sector as usize, count as usize)),
            Op::Flush => log.events.push(Event::Flush),
            _ => {}
        }
        Ok(())
    });
    log
}

/// The disk after a crash behind event `end`, and the last promise that had been made.
fn rebuild(
    base: &[u8],
    events: &[Event],
    random: &mut Random,
) -> (Vec<u8>, BTreeMap<String, Option<Vec<u8>>>) {
    let mut disk = base.to_vec();
    let mut promised = BTreeMap::new();
    let last_flush = events.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
    // Of what was not flushed, all, nothing or some reached the disk, unit by unit.
    let share = random.below(5);
    for (nr, event) in events.iter().enumerate() {
        match event {
            Event::Flush => {}
            Event::Promise(files) => promised = files.clone(),
            Event::Write { sector, bytes } => {
                for (at, chunk) in bytes.chunks(UNIT).enumerate() {
                    if nr < last_flush || random.below(4) < share {
                        let at = sector * SECTOR + at * UNIT;
                        disk[at..at + chunk.len()].copy_from_slice(chunk);
                    }
                }
            }
        }
    }
    (disk, promised)
}

/// A workload of synced and unsynced changes; gives the recorded events.
fn run(env: &Env, seed: u64) -> Vec<Event> {
    let log = record(env);
    let mut random = Random(seed);
    let mut state: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for step in 0..120u64 {
        let name = format!("/dir{}/file{}", random.below(3), random.below(8));
        // A file that is about to change promises nothing until it is synced again.
        let withdraw = |names: &[&String], state: &mut BTreeMap<String, Option<Vec<u8>>>| {
            for name in names {
                state.remove(*name);
            }
            log.lock().unwrap().events.push(Event::Promise(state.clone()));
        };
        match random.below(6) {
            0..=2 => {
                withdraw(&[&name], &mut state);
                let bytes = pattern(random.below(20_000) as usize, step);
                let file = env.put(&name, &bytes).unwrap();
                if random.below(3) > 0 {
                    fsync(&file).unwrap();
                    state.insert(name, Some(bytes));
                }
            }
            3 => {
                withdraw(&[&name], &mut state);
                if env.unlink(&name).is_ok() && random.below(2) == 0 {
                    env.sync().unwrap();
                    state.insert(name, None);
                }
            }
            4 => {
                let to = format!("/dir{}/file{}", random.below(3), random.below(8));
                withdraw(&[&name, &to], &mut state);
                let contents = env.get(&name).ok();
                let is_moved = env.rename(&name, &to, abi::fs::RenameFlags::empty()).is_ok() && name != to;
                if is_moved && random.below(2) == 0 {
                    env.sync().unwrap();
                    state.insert(name, None);
                    state.insert(to, contents);
                }
            }
            _ => {
                withdraw(&[&name], &mut state);
                if let Ok(file) = env.open(&name, abi::fs::OpenFlags::RDWR) {
                    let size = random.below(10_000);
                    vfs::attr::ftruncate(&file, size as i64, u64::MAX).unwrap();
                    if random.below(2) == 0 {
                        fsync(&file).unwrap();
                        drop(file);
                        let bytes = env.get(&name).unwrap();
                        state.insert(name, Some(bytes));
                    }
                }
            }
        }
        let mut log = log.lock().unwrap();
        log.settle(&env.memory);
        log.events.push(Event::Promise(state.clone()));
    }
    env.memory.clear_fault();
    std::mem::take(&mut log.lock().unwrap().events)
}

fn crash(args: &[&str], options: &'static [u8], size: u64, seed: u64, points: usize) {
    let Some(image) = image(args, size) else { return };
    let mut env = Env::with_options(&image, SbFlags::empty(), options).unwrap();
    for nr in 0..3 {
        env.mkdir(&format!("/dir{nr}")).unwrap();
    }
    env.remount();
    let base = env.memory.snapshot();
    let events = run(&env, seed);
    drop(env);
    let mut random = Random(seed ^ 0xabcdef);
    for point in 0..points {
        let end = random.below(events.len() as u64) as usize + 1;
        let (disk, promised) = rebuild(&base, &events[..end], &mut random);
        fsck_after_crash(&disk);
        let mut env = Env::new(&disk);
        for (name, expected) in &promised {
            let found = env.get(name).ok();
            assert!(
                found == *expected,
                "point {point}, event {end}: {name} has {:?} bytes, not {:?}",
                found.map(|bytes| bytes.len()),
                expected.as_ref().map(|bytes| bytes.len())
            );
        }
        env.put("/after", b"it goes on").unwrap();
        fsck(&env.unmount());
    }
}

#[test]
fn what_was_synced_survives_crashes_with_checksums() {
    let _alone = alone();
    crash(&["-t", "ext4", "-b", "1024", "-J", "size=1"], b"commit=900", 4 << 20, 1, 25);
}

#[test]
fn what_was_synced_survives_crashes_in_large_blocks() {
    let _alone = alone();
    crash(&["-t", "ext4", "-b", "4096", "-J", "size=4"], b"commit=900", 10 << 20, 2, 15);
}

#[test]
fn what_was_synced_survives_crashes_in_the_journal() {
    let _alone = alone();
    crash(&["-t", "ext4", "-b", "1024", "-J", "size=1"], b"commit=900,data=journal", 4 << 20, 3, 20);
}

#[test]
fn what_was_synced_survives_crashes_on_ext3() {
    let _alone = alone();
    crash(&["-t", "ext3", "-b", "1024", "-J", "size=1"], b"commit=900", 4 << 20, 4, 20);
}

#[test]
fn what_was_synced_survives_crashes_with_folders_in_inodes() {
    let _alone = alone();
    let args = ["-t", "ext4", "-b", "1024", "-J", "size=1", "-I", "256", "-O", "inline_data"];
    crash(&args, b"commit=900", 4 << 20, 5, 20);
}

#[test]
fn a_crash_in_the_middle_of_a_direct_write_leaves_no_blocks_behind_the_end() {
    let _alone = alone();
    for kind in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext4", "-b", "1024", "-O", "orphan_file"]] {
        let Some(image) = image(kind, 8 << 20) else { return };
        let mut env = Env::new(&image);
        let file = env.put("/file", &[1; 1024]).unwrap();
        // So that the write is in many pieces.
        for block in (2..40).step_by(2) {
            vfs::attr::fallocate(&file, 1, block << 10, 1024, u64::MAX).unwrap();
        }
        env.sync().unwrap();
        let file = env.open("/file", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
        let write = |pos| vfs::rw::pwrite(&file, &mut Src::kernel(&[2; 65_536]), pos, u64::MAX);
        let (node, inode) = (crate::node::node(file.inode()).unwrap(), file.inode());
        // The first transaction of a write of 64 KiB.
        let frames: Vec<_> = (0..17).map(|_| hal::frame::Frame::alloc_zeroed().unwrap()).collect();
        let goal = 1024..1024 + 65_536;
        let next = node.write_blocks(inode, 1, &goal, &frames, &mut || panic!("at once")).unwrap();
        assert!((2..65).contains(&next), "{next}");
        env.sync().unwrap();
        let crashed = env.memory.snapshot();
        fsck_after_crash(&crashed);
        let mut again = Env::new(&crashed);
        assert_eq!(again.get("/file").unwrap(), [1; 1024]);
        // One block, and one that its tree got.
        assert!(again.stat("/file").unwrap().st_blocks <= 4);
        fsck(&again.unmount());
        // The rest comes.
        assert_eq!(write(1024), Ok(65_536));
        drop(file);
        assert_eq!(env.get("/file").unwrap(), [&[1; 1024][..], &[2; 65_536]].concat());
        fsck(&env.unmount());
    }
}
