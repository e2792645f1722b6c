//! Transfers that end by themselves, on a disk that holds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Result;
use abi::fs::OpenFlags;
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::uio::{FramePart, Src};
use sched::WaitQueue;
use vfs::rw::RwFlags;
use vfs::superblock::SbFlags;
use vfs::{Direct, DirectJob, File, RwKind};

use super::env::{Env, alone, fsync, image, pattern};

/// Where a result goes.
#[derive(Default)]
struct Outcome {
    result: hal::sync::Once<Result<usize>>,
    came: WaitQueue,
}

impl Outcome {
    fn wait(&self) -> Result<usize> {
        self.came.wait(|| self.result.get().copied())
    }

    fn is_there(&self) -> bool {
        self.result.get().is_some()
    }
}

struct Job {
    parts: Vec<FramePart>,
    outcome: Arc<Outcome>,
}

impl DirectJob for Job {
    fn memory(&self) -> &[FramePart] {
        &self.parts
    }

    fn done(self: Box<Self>, result: Result<usize>) {
        self.outcome.result.call_once(|| result);
        self.outcome.came.wake_all();
    }
}

/// Frames with `bytes`, the first of which is at `offset`.
fn parts(bytes: &[u8], offset: usize) -> Vec<FramePart> {
    let (first, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
    let part = |offset: usize, bytes: &[u8]| {
        let frame = Frame::alloc_zeroed().unwrap();
        frame.write(offset, bytes);
        FramePart { frame, offset, len: bytes.len() }
    };
    std::iter::once(part(offset, first)).chain(rest.chunks(PAGE_SIZE).map(|bytes| part(0, bytes))).collect()
}

fn bytes(parts: &[FramePart]) -> Vec<u8> {
    let mut bytes = vec![0; parts.iter().map(|part| part.len).sum()];
    assert_eq!(Src::parts(parts).take_bytes(&mut bytes), Ok(bytes.len()));
    bytes
}

/// Begins it; `None`: it is given back.
fn begin(file: &File, kind: RwKind, pos: u64, parts: &[FramePart]) -> Option<Arc<Outcome>> {
    let outcome = Arc::new(Outcome::default());
    let job = Box::new(Job { parts: parts.to_vec(), outcome: outcome.clone() });
    let len = parts.iter().map(|part| part.len).sum();
    let direct = Direct { kind, pos, len, job };
    vfs::direct::begin(file, direct, RwFlags::empty(), u64::MAX).is_ok().then_some(outcome)
}

/// A file with `bytes` on the disk, and nothing of it cached, past the cache.
fn file(env: &Env, bytes: &[u8]) -> Arc<File> {
    let file = env.put("/file", bytes).unwrap();
    fsync(&file).unwrap();
    file.inode().mapping().unwrap().drop_clean(0..u64::MAX);
    env.open("/file", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap()
}

#[test]
fn bytes_go_between_blocks_and_memory() {
    let _alone = alone();
    for block_size in ["1024", "4096"] {
        let Some(image) = image(&["-t", "ext4", "-b", block_size], 16 << 20) else { return };
        let mut env = Env::new(&image);
        let mut expected = pattern(300_000, 1);
        let file = file(&env, &expected);
        let to = parts(&vec![0; 9 * 512], 1024);
        assert_eq!(begin(&file, RwKind::Read, 1536, &to).unwrap().wait(), Ok(9 * 512));
        assert_eq!(bytes(&to), expected[1536..1536 + 9 * 512]);
        let new = pattern(20 * 512, 2);
        assert_eq!(begin(&file, RwKind::Write, 10_240, &parts(&new, 512)).unwrap().wait(), Ok(20 * 512));
        expected[10_240..20_480].copy_from_slice(&new);
        assert_eq!(env.get("/file").unwrap(), expected);
        // What is dirty is seen, and what is cached hears of a write.
        let cached = env.open("/file", OpenFlags::RDWR).unwrap();
        vfs::rw::pwrite(&cached, &mut Src::kernel(&[7; 100]), 4000, u64::MAX).unwrap();
        expected[4000..4100].fill(7);
        let to = parts(&[0; 8192], 0);
        assert_eq!(begin(&file, RwKind::Read, 0, &to).unwrap().wait(), Ok(8192));
        assert_eq!(bytes(&to), expected[..8192]);
        assert_eq!(begin(&file, RwKind::Write, 0, &parts(&[9; 4096], 0)).unwrap().wait(), Ok(4096));
        expected[..4096].fill(9);
        assert_eq!(env.get("/file").unwrap(), expected);
        drop((file, cached));
        super::env::fsck(&env.unmount());
    }
}

#[test]
fn what_takes_more_is_given_back() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "4096"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &pattern(10_000, 1));
    let page = parts(&[5; 4096], 0);
    assert!(begin(&file, RwKind::Read, 8192, &page).is_none(), "the end is no whole sector");
    assert!(begin(&file, RwKind::Read, 16_384, &page).is_none(), "behind the end");
    assert!(begin(&file, RwKind::Write, 8192, &page).is_none(), "longer than the file");
    assert!(begin(&file, RwKind::Read, 100, &page).is_none(), "not aligned");
    assert!(begin(&file, RwKind::Read, 0, &parts(&[5; 512], 100)).is_none(), "memory is not aligned");
    assert!(begin(&file, RwKind::Read, u64::MAX - 511, &page).is_none());
    vfs::attr::ftruncate(&file, 1 << 20, u64::MAX).unwrap();
    assert!(begin(&file, RwKind::Write, 65_536, &page).is_none(), "a hole");
    // Half a hole is zeroes.
    let both = parts(&[5; 8192], 0);
    vfs::rw::pwrite(&file, &mut Src::kernel(&[3; 4096]), 65_536, u64::MAX).unwrap();
    assert_eq!(begin(&file, RwKind::Read, 61_440, &both).unwrap().wait(), Ok(8192));
    assert_eq!(bytes(&both), [[0; 4096], [3; 4096]].concat());
    let through = env.open("/file", OpenFlags::RDWR | OpenFlags::DIRECT | OpenFlags::DSYNC).unwrap();
    assert!(begin(&through, RwKind::Write, 65_536, &page).is_none(), "durable when it is over");
}

#[test]
fn blocks_stay_until_a_transfer_is_over() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let mut env = Env::new(&image);
    let content = pattern(65_536, 1);
    let file = file(&env, &content);
    env.memory.hold();
    let to = parts(&[0; 8192], 0);
    let outcome = begin(&file, RwKind::Read, 16_384, &to).unwrap();
    let is_cut = Arc::new(AtomicBool::new(false));
    let (cutter, tell) = (file.clone(), is_cut.clone());
    sched::spawn("cut", move || {
        vfs::attr::ftruncate(&cutter, 0, u64::MAX).unwrap();
        drop(cutter);
        tell.store(true, Ordering::SeqCst);
    })
    .unwrap();
    let wait = || sched::sleep_until(hal::time::now_ns() + 20_000_000, sched::Interruptible::No).unwrap();
    wait();
    assert!(!outcome.is_there() && !is_cut.load(Ordering::SeqCst));
    env.memory.let_go();
    assert_eq!(outcome.wait(), Ok(8192));
    assert_eq!(bytes(&to), content[16_384..24_576]);
    while !is_cut.load(Ordering::SeqCst) {
        wait();
    }
    assert_eq!(file.inode().size(), 0);
    drop(file);
    super::env::fsck(&env.unmount());
}

#[test]
fn pages_that_come_in_during_a_write_are_dropped() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &[1; 65_536]);
    env.memory.hold();
    let outcome = begin(&file, RwKind::Write, 8192, &parts(&[2; 4096], 0)).unwrap();
    let held = env.memory.take_held();
    assert_eq!(held.len(), 1);
    assert_eq!(env.get("/file").unwrap(), [1; 65_536]);
    assert!(!outcome.is_there());
    held.into_iter().for_each(|request| env.memory.run(request));
    assert_eq!(outcome.wait(), Ok(4096));
    let mut expected = vec![1; 65_536];
    expected[8192..12_288].fill(2);
    assert_eq!(env.get("/file").unwrap(), expected);
}

#[test]
fn errors_of_the_device_are_told() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &[1; 65_536]);
    env.memory.set_fault(|_, _, _| Err(abi::Errno::EIO));
    for kind in [RwKind::Read, RwKind::Write] {
        let outcome = begin(&file, kind, 0, &parts(&[2; 4096], 0)).unwrap();
        assert_eq!(outcome.wait(), Err(abi::Errno::EIO));
    }
    env.memory.clear_fault();
    vfs::attr::ftruncate(&file, 0, u64::MAX).unwrap();
}

/// Memory of eight parts of 512 bytes in as many pages, at an offset that is not 0.
fn scattered() -> Vec<FramePart> {
    (1..=8).flat_map(|byte| parts(&[byte; 512], 512)).collect()
}

#[test]
fn blocks_larger_than_sectors_have_whole_memory() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4", "-b", "4096"], 9 << 20) else { return };
    let limits = block::Limits { logical_block_size: 4096, max_segments: 3, ..block::Limits::default() };
    let env = Env::on(block::MemDisk::from_image(&image, limits).unwrap(), SbFlags::empty(), b"commit=900")
        .unwrap();
    let content = pattern(65_536, 1);
    let file = file(&env, &content);
    env.memory.set_fault(
        |_, sector, nr| {
            if (sector | nr).is_multiple_of(8) { Ok(()) } else { Err(abi::Errno::EINVAL) }
        },
    );
    assert!(begin(&file, RwKind::Read, 0, &scattered()).is_none());
    assert!(begin(&file, RwKind::Write, 0, &scattered()).is_none());
    assert!(begin(&file, RwKind::Read, 0, &parts(&[0; 8192], 512)).is_none());
    // Who waits has it copied.
    vfs::rw::pwrite(&file, &mut Src::parts(&scattered()), 4096, u64::MAX).unwrap();
    let mut expected = content;
    expected[4096..8192].copy_from_slice(&bytes(&scattered()));
    let to = parts(&[0; 65_536], 0);
    assert_eq!(begin(&file, RwKind::Read, 0, &to).unwrap().wait(), Ok(65_536));
    assert_eq!(bytes(&to), expected);
    env.memory.clear_fault();
}

fn pause() {
    sched::sleep_until(hal::time::now_ns() + 20_000_000, sched::Interruptible::No).unwrap();
}

/// Does `work` on a thread of its own; whether it is over.
fn aside(work: impl FnOnce() + Send + 'static) -> Arc<AtomicBool> {
    let is_over = Arc::new(AtomicBool::new(false));
    let tell = is_over.clone();
    sched::spawn("aside", move || {
        work();
        tell.store(true, Ordering::SeqCst);
    })
    .unwrap();
    is_over
}

#[test]
fn a_buffered_write_keeps_what_is_on_its_way() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &[1; 16_384]);
    let cached = env.open("/file", OpenFlags::RDWR).unwrap();
    env.memory.hold();
    let outcome = begin(&file, RwKind::Write, 4096, &parts(&[2; 1024], 0)).unwrap();
    let held = env.memory.take_held();
    let is_over = aside(move || {
        assert_eq!(vfs::rw::pwrite(&cached, &mut Src::kernel(&[3; 100]), 6000, u64::MAX), Ok(100));
    });
    pause();
    assert!(!is_over.load(Ordering::SeqCst));
    held.into_iter().for_each(|request| env.memory.run(request));
    assert_eq!(outcome.wait(), Ok(1024));
    while !is_over.load(Ordering::SeqCst) {
        pause();
    }
    fsync(&file).unwrap();
    file.inode().mapping().unwrap().drop_clean(0..u64::MAX);
    let mut expected = vec![1; 16_384];
    expected[4096..5120].fill(2);
    expected[6000..6100].fill(3);
    assert_eq!(env.get("/file").unwrap(), expected);
}

#[test]
fn a_write_behind_the_end_keeps_what_is_on_its_way() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &[1; 4608]);
    env.memory.hold();
    let outcome = begin(&file, RwKind::Write, 4096, &parts(&[2; 512], 0)).unwrap();
    let held = env.memory.take_held();
    // The last page comes in as it was.
    assert_eq!(env.get("/file").unwrap(), [1; 4608]);
    let writer = file.clone();
    let is_over = aside(move || {
        let page = parts(&[3; 4096], 0);
        assert_eq!(vfs::rw::pwrite(&writer, &mut Src::parts(&page), 8192, u64::MAX), Ok(4096));
    });
    pause();
    assert!(!is_over.load(Ordering::SeqCst));
    held.into_iter().for_each(|request| env.memory.run(request));
    assert_eq!(outcome.wait(), Ok(512));
    while !is_over.load(Ordering::SeqCst) {
        pause();
    }
    file.inode().mapping().unwrap().drop_clean(0..u64::MAX);
    let mut expected = vec![1; 12_288];
    expected[4096..4608].fill(2);
    expected[4608..8192].fill(0);
    expected[8192..].fill(3);
    assert_eq!(env.get("/file").unwrap(), expected);
}

#[test]
fn a_buffered_write_does_not_wait_for_reads() {
    let _alone = alone();
    let Some(image) = image(&["-t", "ext4"], 16 << 20) else { return };
    let env = Env::new(&image);
    let file = file(&env, &[1; 16_384]);
    let cached = env.open("/file", OpenFlags::RDWR).unwrap();
    let pages = file.inode().mapping().unwrap().clone();
    pages.read(0, &mut hal::uio::Dest::kernel(&mut [0; 16_384])).unwrap();
    env.memory.hold();
    let to = parts(&[0; 4096], 0);
    let outcome = begin(&file, RwKind::Read, 4096, &to).unwrap();
    let held = env.memory.take_held();
    let is_over = aside(move || {
        assert_eq!(vfs::rw::pwrite(&cached, &mut Src::kernel(&[3; 100]), 6000, u64::MAX), Ok(100));
    });
    for _ in 0..100 {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        pause();
    }
    let was_over = is_over.load(Ordering::SeqCst);
    held.into_iter().for_each(|request| env.memory.run(request));
    env.memory.let_go();
    assert_eq!((outcome.wait(), was_over), (Ok(4096), true));
    assert_eq!(bytes(&to), [1; 4096]);
}
