//! Whole paths through the crate, on a disk in memory and on one that answers when told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;

use crate::*;

const CACHED: Limits = Limits {
    logical_block_size: 512,
    dma_alignment: 512,
    physical_block_size: 512,
    io_min: 512,
    io_opt: 0,
    max_sectors: 64,
    max_segments: 8,
    max_gaps: u16::MAX,
    max_discard_sectors: 128,
    discard_granularity: 512,
    max_write_zeroes_sectors: 0,
    has_volatile_cache: true,
    has_fua: false,
    is_rotational: false,
};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 512) as u8).collect()
}

fn page(byte: u8) -> Frame {
    let frame = Frame::alloc_zeroed().unwrap();
    frame.write(0, &[byte; PAGE_SIZE]);
    frame
}

fn write_of(sector: u64, bytes: &[u8]) -> Bio {
    let mut bio = Bio::write(sector);
    for byte in bytes {
        bio.add(page(*byte), 0, PAGE_SIZE).unwrap();
    }
    bio
}

#[test]
fn bytes_come_back_at_any_alignment() {
    let image = pattern(40_000);
    let (memory, device) = MemDisk::from_image(&image, Limits::default()).unwrap();
    for (pos, len) in [(0, 1), (1, 511), (500, 30), (511, 4100), (4095, 2), (9000, 20_000), (39_999, 1)] {
        let mut bytes = vec![0; len];
        device.read_bytes(pos as u64, &mut bytes).unwrap();
        assert_eq!(bytes, image[pos..pos + len]);
    }
    let mut want = memory.snapshot();
    device.write_bytes(4090, &[9; 5000]).unwrap();
    want[4090..9090].fill(9);
    assert_eq!(memory.snapshot(), want);
}

#[test]
fn beyond_the_end_is_an_error_and_changes_nothing() {
    let (memory, device) = MemDisk::new(8192, Limits::default()).unwrap();
    assert_eq!(device.submit_and_wait(write_of(9, &[1])), Err(Errno::EIO));
    assert_eq!(device.submit_and_wait(write_of(u64::MAX - 3, &[1])), Err(Errno::EIO));
    assert_eq!(device.read(16, &[page(0)]), Err(Errno::EIO));
    assert!(memory.snapshot().iter().all(|b| *b == 0));
}

#[test]
fn a_read_only_device_refuses_writes() {
    let (_memory, device) = MemDisk::new(8192, CACHED).unwrap();
    device.set_read_only(true).unwrap();
    assert_eq!(device.write(0, &[page(1)]), Err(Errno::EROFS));
    assert_eq!(device.discard(0, 8), Err(Errno::EROFS));
    device.read(0, &[page(1)]).unwrap();
    device.flush().unwrap();
}

#[test]
fn large_bios_are_split_and_complete_once() {
    let (memory, device) = MemDisk::new(1 << 20, CACHED).unwrap();
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = largest.clone();
    memory.set_fault(move |_, _, n| {
        seen.fetch_max(n as usize, SeqCst);
        Ok(())
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let bytes: Vec<u8> = (1..=100).collect();
    device.submit(write_of(3, &bytes).on_done(move |result, segments| {
        let len: u32 = segments.iter().map(Segment::len).sum();
        assert_eq!((result, len as usize), (Ok(()), 100 * PAGE_SIZE));
        called.fetch_add(1, SeqCst);
    }));
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(largest.load(SeqCst), 64);
    let disk = memory.snapshot();
    for (n, byte) in bytes.iter().enumerate() {
        assert!(disk[3 * 512 + n * PAGE_SIZE..][..PAGE_SIZE].iter().all(|b| b == byte));
    }
    device.discard(0, 1000).unwrap();
    assert!(memory.snapshot()[..512_000].iter().all(|b| *b == 0));
}

/// A write from `sector` on of the pages' parts `parts`: offsets and lengths.
fn write_of_parts(sector: u64, parts: &[(usize, usize)]) -> Bio {
    let mut bio = Bio::write(sector);
    for (offset, len) in parts {
        bio.add(page(1), *offset, *len).unwrap();
    }
    bio
}

#[test]
fn requests_have_no_more_gaps_than_the_disk_takes() {
    let (memory, device) = MemDisk::new(1 << 20, Limits { max_gaps: 2, ..CACHED }).unwrap();
    let log = record(&memory);
    device.submit_and_wait(write_of_parts(0, &[(512, 512); 8])).unwrap();
    let lens = |log: &Mutex<Vec<(Op, u64, u64)>>| {
        log.lock().unwrap().drain(..).map(|(_, _, n)| n).collect::<Vec<_>>()
    };
    assert_eq!(lens(&log), [3, 3, 2]);
    // Pages that meet at their borders have none.
    device.submit_and_wait(write_of_parts(0, &[(2048, 2048), (0, 4096), (0, 4096), (0, 512)])).unwrap();
    assert_eq!(lens(&log), [4 + 8 + 8 + 1]);
    let mut plug = Plug::new();
    for sector in 0..8 {
        plug.submit(&device, write_of_parts(sector, &[(0, 512)]));
    }
    plug.flush();
    assert_eq!(lens(&log), [3, 3, 2]);
}

#[test]
fn frames_side_by_side_are_one_segment() {
    let run = hal::frame::FrameRun::alloc(2).unwrap();
    let [a, b, c, d] = run.frames() else { panic!("four frames") };
    let lens = |bio: &Bio| bio.segments().iter().map(Segment::len).collect::<Vec<_>>();
    let mut bio = Bio::read(0);
    bio.add_frames(run.frames(), 512, 2 * PAGE_SIZE).unwrap();
    assert_eq!((lens(&bio), bio.nr_sectors()), (vec![8192], 16));
    bio.add(c.clone(), 512, 512).unwrap();
    bio.add(c.clone(), 2048, 2048).unwrap();
    bio.add(d.clone(), 0, 512).unwrap();
    bio.add(b.clone(), 0, PAGE_SIZE).unwrap();
    assert_eq!(lens(&bio), [8704, 2560, 4096]);
    assert_eq!([a, b, c, d].map(Frame::ref_count), [2, 3, 3, 2]);
    assert_eq!(bio.add_frames(run.frames(), 512, 4 * PAGE_SIZE), Err(Errno::EINVAL));
    assert_eq!(bio.add_frames(run.frames(), 0, 100), Err(Errno::EINVAL));
    drop(bio);
    assert_eq!([a, b, c, d].map(Frame::ref_count), [1; 4]);
}

#[test]
fn a_segment_is_cut_where_a_request_ends() {
    let limits = Limits { max_sectors: 12, ..CACHED };
    let image = pattern(1 << 16);
    let (memory, device) = MemDisk::from_image(&image, limits).unwrap();
    let run = hal::frame::FrameRun::alloc(3).unwrap();
    let mut bio = Bio::read(3);
    bio.add_frames(run.frames(), 1024, 6 * PAGE_SIZE).unwrap();
    device.submit_and_wait(bio).unwrap();
    let mut bytes = vec![0; 8 * PAGE_SIZE];
    for (frame, part) in run.frames().iter().zip(bytes.chunks_mut(PAGE_SIZE)) {
        frame.read(0, part);
        assert_eq!(frame.ref_count(), 1);
    }
    assert_eq!(bytes[1024..][..6 * PAGE_SIZE], image[3 * 512..][..6 * PAGE_SIZE]);
    let mut bio = Bio::write(70);
    bio.add_frames(run.frames(), 1024, 6 * PAGE_SIZE).unwrap();
    device.submit_and_wait(bio).unwrap();
    assert_eq!(memory.snapshot()[70 * 512..][..6 * PAGE_SIZE], image[3 * 512..][..6 * PAGE_SIZE]);
}

#[test]
fn zeroes_are_written_where_the_device_cannot_make_them() {
    let (memory, device) = MemDisk::from_image(&pattern(1 << 20), CACHED).unwrap();
    device.write_zeroes(5, 1500, BioFlags::empty()).unwrap();
    let (before, after) = (pattern(1 << 20), memory.snapshot());
    assert_eq!(after[..5 * 512], before[..5 * 512]);
    assert!(after[5 * 512..1505 * 512].iter().all(|b| *b == 0));
    assert_eq!(after[1505 * 512..], before[1505 * 512..]);
}

/// The operations that reach the disk, in order.
fn record(memory: &MemDisk) -> Arc<Mutex<Vec<(Op, u64, u64)>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    memory.set_fault(move |op, sector, n| {
        sink.lock().unwrap().push((op, sector, n));
        Ok(())
    });
    log
}

#[test]
fn a_durable_write_is_flush_write_flush() {
    let (memory, device) = MemDisk::new(1 << 20, CACHED).unwrap();
    let log = record(&memory);
    let bio = write_of(8, &[1]).with_flags(BioFlags::PREFLUSH | BioFlags::FUA);
    device.submit_and_wait(bio).unwrap();
    assert_eq!(*log.lock().unwrap(), [(Op::Flush, 0, 0), (Op::Write, 8, 8), (Op::Flush, 0, 0)]);

    let (memory, device) = MemDisk::new(1 << 20, Limits::default()).unwrap();
    let log = record(&memory);
    device.submit_and_wait(write_of(8, &[1]).with_flags(BioFlags::PREFLUSH | BioFlags::FUA)).unwrap();
    device.flush().unwrap();
    assert_eq!(*log.lock().unwrap(), [(Op::Write, 8, 8)]);
}

#[test]
fn a_plug_sorts_and_merges() {
    let (memory, device) = MemDisk::new(1 << 20, Limits::default()).unwrap();
    let log = record(&memory);
    let mut plug = Plug::new();
    for sector in [24, 0, 8, 100, 16] {
        plug.submit(&device, write_of(sector, &[sector as u8]));
    }
    assert!(log.lock().unwrap().is_empty());
    drop(plug);
    assert_eq!(*log.lock().unwrap(), [(Op::Write, 0, 32), (Op::Write, 100, 8)]);
    let writes = device.stats().groups[Direction::Write as usize];
    assert_eq!((writes.ios, writes.merges, writes.sectors), (2, 3, 40));
}

#[test]
fn only_the_bio_with_the_bad_sector_fails() {
    let (memory, device) = MemDisk::new(1 << 20, Limits::default()).unwrap();
    memory
        .set_fault(|_, sector, n| if (sector..sector + n).contains(&10) { Err(Errno::EIO) } else { Ok(()) });
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut plug = Plug::new();
    for sector in [0, 8, 16] {
        let results = results.clone();
        let done = move |result: Result<()>, _: &[Segment]| results.lock().unwrap().push((sector, result));
        plug.submit(&device, write_of(sector, &[1]).on_done(done));
    }
    drop(plug);
    assert_eq!(*results.lock().unwrap(), [(0, Ok(())), (8, Err(Errno::EIO)), (16, Ok(()))]);
}

/// A driver with room for `depth` requests, which finish when [`Slow::step`] says so.
struct Slow {
    depth: usize,
    running: Mutex<Vec<Request>>,
}

impl Driver for Slow {
    fn queue(&self, _hw: usize, request: Request) -> Result<(), Request> {
        let mut running = self.running.lock().unwrap();
        if running.len() >= self.depth {
            return Err(request);
        }
        running.push(request);
        Ok(())
    }
}

impl Slow {
    fn disk(depth: usize, index: u32) -> (Arc<Slow>, Arc<BlockDevice>) {
        let slow = Arc::new(Slow { depth, running: Mutex::default() });
        let info = DiskInfo {
            name: format!("slow{index}x"),
            major: 240,
            first_minor: index * 16,
            minors: 16,
            parent: String::from("virtual"),
            capacity: 4096,
            is_read_only: false,
            nr_queues: 1,
            limits: CACHED,
        };
        let device = add_disk(&Disk::new(info, slow.clone())).unwrap();
        (slow, device)
    }

    /// Finishes the oldest request.
    fn step(&self, device: &BlockDevice) -> Option<(Op, u64, u64)> {
        let request = {
            let mut running = self.running.lock().unwrap();
            if running.is_empty() {
                return None;
            }
            running.remove(0)
        };
        let what = (request.op(), request.sector(), request.nr_sectors());
        request.complete(Ok(()));
        device.disk().run(0);
        Some(what)
    }
}

#[test]
fn what_waits_is_sorted_and_merged() {
    let (slow, device) = Slow::disk(1, 0);
    for sector in [1000, 64, 72, 8, 80] {
        device.submit(write_of(sector, &[1]));
    }
    let order: Vec<_> = core::iter::from_fn(|| slow.step(&device)).collect();
    assert_eq!(order, [(Op::Write, 1000, 8), (Op::Write, 64, 24), (Op::Write, 8, 8)]);
    assert_eq!(device.stats().in_flight, [0, 0]);
    remove_disk(device.disk());
}

#[test]
fn flushes_share() {
    let (slow, device) = Slow::disk(4, 1);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let done = done.clone();
        device.submit(Bio::flush().on_done(move |_, _| {
            done.fetch_add(1, SeqCst);
        }));
    }
    assert_eq!(slow.step(&device), Some((Op::Flush, 0, 0)));
    assert_eq!(done.load(SeqCst), 1);
    assert_eq!(slow.step(&device), Some((Op::Flush, 0, 0)));
    assert_eq!(done.load(SeqCst), 10);
    assert_eq!(slow.step(&device), None);
    remove_disk(device.disk());
}

#[test]
fn a_vanished_disk_fails_what_waits() {
    let (slow, device) = Slow::disk(1, 2);
    let failed = Arc::new(AtomicUsize::new(0));
    for sector in [0, 100, 200] {
        let failed = failed.clone();
        device.submit(write_of(sector, &[1]).on_done(move |result, _| {
            failed.fetch_add(usize::from(result == Err(Errno::EIO)), SeqCst);
        }));
    }
    remove_disk(device.disk());
    slow.running.lock().unwrap().clear();
    assert_eq!(failed.load(SeqCst), 3);
    assert_eq!(device.flush(), Err(Errno::EIO));
    assert!(by_name("slow2x").is_none());
}

#[test]
fn partitions_are_devices_with_an_offset() {
    let (slow, device) = Slow::disk(8, 3);
    let disk = device.disk();
    let part = |index, start, len| Partition { index, start, len, ..Partition::default() };
    set_partitions(disk, &[part(1, 100, 50), part(17, 200, 8)]).unwrap();
    let (first, far) = (by_name("slow3x1").unwrap(), by_name("slow3x17").unwrap());
    assert_eq!((first.number(), far.number().0), ((240, 49), 259));
    assert_eq!(by_number(first.rdev()).unwrap().name(), "slow3x1");
    first.submit(write_of(8, &[1]));
    assert_eq!(slow.step(&device), Some((Op::Write, 108, 8)));
    assert_eq!(first.submit_and_wait(write_of(43, &[1])), Err(Errno::EIO));

    let claim = first.claim("a test").unwrap();
    assert_eq!(first.claim("another").err(), Some(Errno::EBUSY));
    assert_eq!(device.claim("all of it").err(), Some(Errno::EBUSY));
    assert_eq!(set_partitions(disk, &[]), Err(Errno::EBUSY));
    assert_eq!(add_partition(disk, part(2, 120, 10)), Err(Errno::EBUSY));
    assert_eq!(resize_partition(disk, &part(1, 100, 101)), Err(Errno::EBUSY));
    resize_partition(disk, &part(1, 100, 100)).unwrap();
    assert_eq!(first.nr_sectors(), 100);
    drop(claim);
    assert_eq!(remove_partition(disk, 3), Err(Errno::ENXIO));
    remove_partition(disk, 1).unwrap();
    assert!(!first.is_alive() && by_name("slow3x1").is_none());
    remove_disk(disk);
}

#[test]
fn the_cache_of_an_odd_sized_device_ends_with_it() {
    let (memory, device) = MemDisk::from_image(&pattern(5 * 512 + PAGE_SIZE), Limits::default()).unwrap();
    let mapping = device.mapping();
    let mut bytes = vec![1; 2 * PAGE_SIZE];
    let n = mapping.read(0, &mut hal::uio::Dest::kernel(&mut bytes)).unwrap();
    assert_eq!(n, 5 * 512 + PAGE_SIZE);
    assert_eq!(bytes[..n], pattern(n));
    mapping.write(4000, &mut hal::uio::Src::kernel(&[5; 500])).unwrap();
    device.sync().unwrap();
    assert_eq!(memory.snapshot()[4000..4500], [5; 500]);
}

#[test]
fn a_device_is_read_as_far_ahead_as_its_disk_says() {
    let image = pattern(1 << 20);
    for (kib, requests) in [(2048, 3..=10), (4, 256..=256), (0, 256..=256)] {
        let limits = Limits { max_sectors: 2048, ..Limits::default() };
        let (memory, device) = MemDisk::from_image(&image, limits).unwrap();
        assert_eq!(device.disk().read_ahead_kb(), 2048);
        device.disk().set_read_ahead_kb(kib);
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        memory.set_fault(move |_, _, _| {
            count.fetch_add(1, SeqCst);
            Ok(())
        });
        let mapping = device.mapping();
        let mut bytes = vec![0; image.len()];
        for (nr, piece) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
            mapping.read((nr * PAGE_SIZE) as u64, &mut hal::uio::Dest::kernel(piece)).unwrap();
        }
        assert!(bytes == image && requests.contains(&seen.load(SeqCst)), "{kib}: {}", seen.load(SeqCst));
    }
    for (io_opt, kib) in [(2 << 20, 4096), (u32::MAX, 64 << 10)] {
        let (_memory, device) = MemDisk::from_image(&image, Limits { io_opt, ..Limits::default() }).unwrap();
        assert_eq!(device.disk().read_ahead_kb(), kib);
    }
    let (_memory, device) = MemDisk::from_image(&image, Limits::default()).unwrap();
    device.disk().set_read_ahead_kb(131);
    assert_eq!(device.disk().read_ahead_pages(), 32);
}

#[test]
fn a_dead_disk_keeps_its_size_of_nothing() {
    let (_slow, device) = Slow::disk(1, 4);
    remove_disk(device.disk());
    device.disk().set_capacity(4096);
    assert_eq!(device.disk().capacity(), 0);
}

#[test]
fn numbers_of_partitions_in_use_outlive_their_disk() {
    let part = |index| Partition { index, start: 100, len: 50, ..Partition::default() };
    let (_slow, device) = Slow::disk(1, 5);
    set_partitions(device.disk(), &[part(17)]).unwrap();
    let far = by_name("slow5x17").unwrap();
    far.open();
    remove_disk(device.disk());
    let (_other, other) = Slow::disk(1, 6);
    set_partitions(other.disk(), &[part(17)]).unwrap();
    assert_ne!(by_name("slow6x17").unwrap().number(), far.number());
    far.close();
    remove_disk(other.disk());
}

#[test]
fn the_last_that_is_told_of_a_device_is_that_it_went() {
    let (_slow, device) = Slow::disk(1, 7);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    // The disk goes while others are not told yet that its partition came.
    on_change(|device, change| {
        if device.name() == "slow7x1" && change == Change::Added {
            remove_disk(device.disk());
        }
    });
    on_change(move |device, change| {
        if device.name() == "slow7x1" {
            sink.lock().unwrap().push(change);
        }
    });
    set_partitions(device.disk(), &[Partition { index: 1, start: 8, len: 8, ..Partition::default() }])
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&Change::Added));
    assert_eq!(seen.last(), Some(&Change::Removed));
}
