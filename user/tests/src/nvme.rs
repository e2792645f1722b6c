//! An NVMe disk: the scratch disk /dev/nvme0n1 that the runner attaches. Skipped where the kernel under test has no driver
//! for it (Debian's Linux has it as a module).

use crate::prelude::*;

tests!(
    "nvme":
    large_transfers_come_back, scattered_memory_is_joined, ranges_are_zeroed_and_discarded, many_at_once,
);

const DISK: &str = "/dev/nvme0n1";
const DISK_SIZE: usize = 16 << 20;
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127f;
const BLKFLSBUF: u32 = 0x1261;

/// Opens the scratch disk, or skips the test.
fn disk(flags: i32) -> i32 {
    match open(&cstr(DISK), flags) {
        Ok(fd) => {
            assert_eq!(seek(fd, 0, SEEK_END), Ok(DISK_SIZE), "the runner's scratch disk");
            fd
        }
        Err(ENOENT | ENXIO) => skip("no NVMe disk"),
        Err(e) => panic!("{DISK}: {e:?}"),
    }
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
}

fn large_transfers_come_back() {
    let fd = disk(O_RDWR);
    let data = pattern(5 << 20, 1);
    assert_eq!(pwrite(fd, &data, 12_345), Ok(data.len()));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKFLSBUF, 0), Ok(0));
    assert!(pread(fd, data.len(), 12_345).unwrap() == data, "after the page cache was emptied");
    assert!(slurp("/proc/partitions").lines().any(|l| l.ends_with(&format!("{} nvme0n1", DISK_SIZE / 1024))));
}

fn scattered_memory_is_joined() {
    let fd = disk(O_RDWR | O_DIRECT);
    let memory = anon(16 * PAGE);
    // Pieces with gaps inside of pages, over the ends of pages, and whole pages.
    let pieces: [(usize, usize); 6] =
        [(512, 1024), (PAGE + 2048, 2048), (3 * PAGE, PAGE), (5 * PAGE + 512, 512), (7 * PAGE + 3584, 1024), (10 * PAGE, 3 * PAGE)];
    let total: usize = pieces.iter().map(|(_, len)| len).sum();
    let iov: Vec<usize> = pieces.iter().flat_map(|(at, len)| [memory + at, *len]).collect();
    let data = pattern(total, 7);
    let mut done = 0;
    for (at, len) in pieces {
        (0..len).for_each(|n| poke(memory + at + n, data[done + n]));
        done += len;
    }
    assert_eq!(sys!(SYS_pwritev, fd, &iov[..], 6, 1 << 20, 0), Ok(total));
    (0..16 * PAGE).for_each(|n| poke(memory + n, 0xee));
    assert_eq!(sys!(SYS_preadv, fd, &iov[..], 6, 1 << 20, 0), Ok(total));
    let mut read = Vec::new();
    pieces.iter().for_each(|(at, len)| read.extend_from_slice(bytes_at(memory + at, *len)));
    assert!(read == data);
    assert_eq!((peek(memory), peek(memory + 1536), peek(memory + 4 * PAGE)), (0xee, 0xee, 0xee));
    let cached = disk(O_RDONLY);
    assert!(pread(cached, total, 1 << 20).unwrap() == data);
}

fn ranges_are_zeroed_and_discarded() {
    let fd = disk(O_RDWR);
    let data = pattern(64 * 1024, 3);
    assert_eq!(pwrite(fd, &data, 4 << 20), Ok(data.len()));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKZEROOUT, &[(4u64 << 20) + 8192, 16_384][..]), Ok(0));
    let read = pread(fd, data.len(), 4 << 20).unwrap();
    assert!(read[..8192] == data[..8192] && read[24_576..] == data[24_576..]);
    assert!(read[8192..24_576].iter().all(|byte| *byte == 0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKDISCARD, &[(4u64 << 20) + 32_768, 16_384][..]), Ok(0));
    let read = pread(fd, data.len(), 4 << 20).unwrap();
    assert!(read[24_576..32_768] == data[24_576..32_768] && read[49_152..] == data[49_152..]);
}

fn many_at_once() {
    close(disk(O_RDONLY));
    let workers: Vec<_> = (0..8u32)
        .map(|n| {
            child(move || {
                let fd = disk(O_RDWR | O_DIRECT);
                let memory = anon(64 * 1024);
                for round in 0..20 {
                    let data = pattern(64 * 1024, n * 100 + round);
                    data.iter().enumerate().for_each(|(at, byte)| poke(memory + at, *byte));
                    let pos = (8 << 20) + n as usize * 64 * 1024;
                    assert_eq!(sys!(SYS_pwrite64, fd, memory, 64 * 1024, pos), Ok(64 * 1024));
                    (0..64 * 1024).step_by(512).for_each(|at| poke(memory + at, 0));
                    assert_eq!(sys!(SYS_pread64, fd, memory, 64 * 1024, pos), Ok(64 * 1024));
                    assert!(bytes_at(memory, 64 * 1024) == data);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(Child::ok);
}
