//! Block devices: the scratch disk /dev/vda that the runner attaches, and loop devices.
//!
//! Where the kernel under test has no driver for them (Debian's Linux has both as modules), the tests are skipped.

use crate::prelude::*;

tests!(
    "block":
    disk_sizes_agree, disk_keeps_what_is_written, disk_ends_where_it_ends, direct_io_is_coherent,
    direct_io_wants_whole_blocks, exclusive_opens, zeroing_a_range, partitions_come_and_go,
    read_ahead_is_set, loop_device_shows_its_file, loop_device_rules,
);

const DISK: &str = "/dev/vda";
const DISK_SIZE: u64 = 16 << 20;
const READ_AHEAD: &str = "/sys/block/vda/queue/read_ahead_kb";

const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRASET: u32 = 0x1262;
const BLKRAGET: u32 = 0x1263;
const BLKSSZGET: u32 = 0x1268;
const BLKPG: u32 = 0x1269;
const BLKPBSZGET: u32 = 0x127b;
const BLKZEROOUT: u32 = 0x127f;
const BLKGETSIZE64: u32 = 0x8008_1272;
const LOOP_SET_FD: u32 = 0x4c00;
const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_SET_STATUS64: u32 = 0x4c04;
const LOOP_GET_STATUS64: u32 = 0x4c05;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LOOP_CTL_REMOVE: u32 = 0x4c81;

/// Opens the scratch disk, or skips the test.
fn disk(flags: i32) -> i32 {
    match open(&cstr(DISK), flags) {
        Ok(fd) => {
            assert_eq!(seek(fd, 0, SEEK_END), Ok(DISK_SIZE as usize), "the runner's scratch disk");
            assert_eq!(seek(fd, 0, SEEK_SET), Ok(0));
            fd
        }
        Err(ENOENT | ENXIO) => skip("no virtio disk"),
        Err(e) => panic!("{DISK}: {e:?}"),
    }
}

fn u64_of(fd: i32, request: u32) -> u64 {
    let mut value = 0u64;
    sys!(SYS_ioctl, fd, request, &mut value).unwrap();
    value
}

fn u32_of(fd: i32, request: u32) -> u32 {
    let mut value = 0u32;
    sys!(SYS_ioctl, fd, request, &mut value).unwrap();
    value
}

fn disk_sizes_agree() {
    let fd = disk(O_RDONLY);
    assert_eq!(u64_of(fd, BLKGETSIZE64), DISK_SIZE);
    assert_eq!(u64_of(fd, BLKGETSIZE), DISK_SIZE / 512);
    assert_eq!((u32_of(fd, BLKSSZGET), u32_of(fd, BLKROGET)), (512, 0));
    assert!(u32_of(fd, BLKPBSZGET) >= 512);
    assert_eq!(slurp("/sys/block/vda/size"), format!("{}\n", DISK_SIZE / 512));
    let rdev = fstat(fd).st_rdev;
    assert_eq!(slurp("/sys/class/block/vda/dev"), format!("{}:{}\n", major(rdev), minor(rdev)));
    assert!(slurp("/proc/partitions").lines().any(|l| l.ends_with(&format!("{} vda", DISK_SIZE / 1024))));
    assert!(slurp("/proc/diskstats").lines().any(|l| l.split_whitespace().nth(2) == Some("vda")));
    assert_eq!(sys!(SYS_ioctl, fd, BLKGETSIZE64, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_ioctl, fd, 0x12ff, 0), Err(ENOTTY));
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 512) as u8 ^ n as u8 ^ seed).collect()
}

fn disk_keeps_what_is_written() {
    let fd = disk(O_RDWR);
    let data = pattern(300_000, 1);
    assert_eq!(pwrite(fd, &data, 12_345), Ok(data.len()));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKFLSBUF, 0), Ok(0));
    assert_eq!(pread(fd, data.len(), 12_345).unwrap(), data);
    close(fd);
    let again = disk(O_RDONLY);
    assert_eq!(pread(again, data.len(), 12_345).unwrap(), data);
    assert_eq!(write(again, b"x"), Err(EBADF));
}

fn disk_ends_where_it_ends() {
    let fd = disk(O_RDWR);
    let end = DISK_SIZE as i64;
    assert_eq!(pread(fd, 100, end).unwrap(), b"");
    assert_eq!(pread(fd, 100, end - 30).unwrap().len(), 30);
    assert_eq!(pwrite(fd, &[7; 100], end - 30), Ok(30));
    assert_eq!(pwrite(fd, &[7; 100], end), Err(ENOSPC));
    assert_eq!(seek(fd, end + 1, SEEK_SET), Err(EINVAL));
    assert_eq!(seek(fd, end, SEEK_SET), Ok(end as usize));
    assert_eq!(seek(fd, -1, SEEK_SET), Err(EINVAL));
    assert_eq!(sys!(SYS_ftruncate, fd, 0), Err(EINVAL));
}

fn direct_io_is_coherent() {
    let cached = disk(O_RDWR);
    let direct = disk(O_RDWR | O_DIRECT);
    let buf = anon(8 * PAGE);
    assert_eq!(pwrite(cached, &pattern(16_384, 2), 1 << 20), Ok(16_384));
    assert_eq!(sys!(SYS_pread64, direct, buf, 16_384, 1 << 20), Ok(16_384));
    assert_eq!(bytes_at(buf, 16_384), pattern(16_384, 2));
    (0..4).for_each(|n| poke(buf + n, 0x5a));
    assert_eq!(sys!(SYS_pwrite64, direct, buf, 4096, (1 << 20) + 512), Ok(4096));
    assert_eq!(pread(cached, 4, (1 << 20) + 512).unwrap(), [0x5a; 4]);
    assert_eq!(pread(cached, 512, 1 << 20).unwrap(), pattern(512, 2));
}

fn direct_io_wants_whole_blocks() {
    let fd = disk(O_RDWR | O_DIRECT);
    let buf = anon(PAGE);
    for (len, pos) in [(100, 0), (512, 100), (513, 512)] {
        assert_eq!(sys!(SYS_pread64, fd, buf, len, pos), Err(EINVAL), "{len} at {pos}");
        assert_eq!(sys!(SYS_pwrite64, fd, buf, len, pos), Err(EINVAL), "{len} at {pos}");
    }
    assert_eq!(sys!(SYS_pread64, fd, buf, 512, 512), Ok(512));
}

fn exclusive_opens() {
    let fd = disk(O_RDWR | O_EXCL);
    assert_eq!(open(&cstr(DISK), O_RDWR | O_EXCL), Err(EBUSY));
    close(open(&cstr(DISK), O_RDWR).unwrap());
    close(fd);
    close(open(&cstr(DISK), O_RDWR | O_EXCL).unwrap());
}

fn zeroing_a_range() {
    let fd = disk(O_RDWR);
    let at = 2 << 20;
    assert_eq!(pwrite(fd, &[9; 16_384], at), Ok(16_384));
    assert_eq!(sys!(SYS_ioctl, fd, BLKZEROOUT, &[at as u64 + 512, 8192]), Ok(0));
    assert_eq!(pread(fd, 512, at).unwrap(), [9; 512]);
    assert_eq!(pread(fd, 8192, at + 512).unwrap(), [0; 8192]);
    assert_eq!(pread(fd, 512, at + 8704).unwrap(), [9; 512]);
    assert_eq!(sys!(SYS_ioctl, fd, BLKZEROOUT, &[at as u64, 100]), Err(EINVAL));
    assert_eq!(sys!(SYS_ioctl, fd, BLKZEROOUT, &[DISK_SIZE, 512]), Err(EINVAL));
    let reader = disk(O_RDONLY);
    assert_eq!(sys!(SYS_ioctl, reader, BLKZEROOUT, &[0u64, 512]), Err(EBADF));
}

/// An MBR with one partition of `len` sectors at `start`.
fn mbr(start: u32, len: u32) -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[446 + 4] = 0x83;
    sector[446 + 8..446 + 12].copy_from_slice(&start.to_le_bytes());
    sector[446 + 12..446 + 16].copy_from_slice(&len.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn partitions_come_and_go() {
    let fd = disk(O_RDWR);
    assert_eq!(pwrite(fd, &mbr(2048, 8192), 0), Ok(512));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKRRPART, 0), Ok(0));
    assert!(slurp("/proc/partitions").lines().any(|l| l.ends_with(" 4096 vda1")));
    assert_eq!(slurp("/sys/block/vda/vda1/start"), "2048\n");
    let part = open(&cstr("/dev/vda1"), O_RDWR).unwrap();
    assert_eq!(u64_of(part, BLKGETSIZE64), 8192 * 512);
    assert_eq!(pwrite(part, b"in the partition", 100), Ok(16));
    assert_eq!(sys!(SYS_fsync, part), Ok(0));
    assert_eq!(pread(fd, 16, 2048 * 512 + 100).unwrap(), b"in the partition");
    assert_eq!(sys!(SYS_ioctl, part, BLKRRPART, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_ioctl, fd, BLKRRPART, 0), Err(EBUSY), "a partition is open");
    close(part);
    // BLKPG_DEL_PARTITION of number 1: op, flags, length, data.
    let mut partition = [0u8; 152];
    partition[16] = 1;
    let mut arg = [0u8; 24];
    arg[0] = 2;
    arg[8] = 152;
    arg[16..].copy_from_slice(&(partition.as_ptr() as u64).to_le_bytes());
    assert_eq!(sys!(SYS_ioctl, fd, BLKPG, &arg), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, BLKPG, &arg), Err(ENXIO));
    assert!(!slurp("/proc/partitions").contains("vda1"));
    assert_eq!(pwrite(fd, &[0; 512], 0), Ok(512));
}

/// Requests that reading the first MiB in order takes. Linux looks at the setting when the device is opened.
fn reads_of_a_mib() -> u64 {
    let fd = disk(O_RDONLY);
    let reads = || -> u64 {
        slurp("/sys/block/vda/stat").split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(sys!(SYS_ioctl, fd, BLKFLSBUF, 0), Ok(0));
    let before = reads();
    for at in (0..1 << 20).step_by(4096) {
        assert_eq!(pread(fd, 4096, at).unwrap().len(), 4096);
    }
    close(fd);
    reads() - before
}

/// Sets it back.
struct ReadAhead(String);

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let _ = write_file(READ_AHEAD, &self.0);
    }
}

fn read_ahead_is_set() {
    let fd = disk(O_RDONLY);
    let first = slurp(READ_AHEAD);
    assert_eq!(u64_of(fd, BLKRAGET), 2 * first.trim().parse::<u64>().unwrap());
    let _restore = ReadAhead(first);
    write_file(READ_AHEAD, "256").unwrap();
    assert_eq!((slurp(READ_AHEAD).as_str(), u64_of(fd, BLKRAGET)), ("256\n", 512));
    let few = reads_of_a_mib();
    assert_eq!(sys!(SYS_ioctl, fd, BLKRASET, 8), Ok(0));
    assert_eq!((slurp(READ_AHEAD).as_str(), u64_of(fd, BLKRAGET)), ("4\n", 8));
    let many = reads_of_a_mib();
    assert!(few < 20 && many > 200, "{few} and {many} requests");
    assert_eq!(write_file(READ_AHEAD, "much"), Err(EINVAL));
}

/// A free loop device: its number and a descriptor.
fn free_loop() -> (usize, i32) {
    let Ok(control) = open(&cstr("/dev/loop-control"), O_RDWR) else { skip("no loop devices") };
    let number = sys!(SYS_ioctl, control, LOOP_CTL_GET_FREE, 0).unwrap();
    (number, open(&cstr(format!("/dev/loop{number}")), O_RDWR).unwrap())
}

fn loop_device_shows_its_file() {
    let (number, fd) = free_loop();
    let data = pattern(100 * 512, 3);
    let image = open(&file("image", &data), O_RDWR).unwrap();
    assert_eq!(u64_of(fd, BLKGETSIZE64), 0);
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_SET_FD, image), Ok(0));
    assert_eq!(u64_of(fd, BLKGETSIZE64), data.len() as u64);
    assert_eq!(pread(fd, data.len() + 10, 0).unwrap(), data);
    let shown = |name: &str| slurp(&format!("/sys/block/loop{number}/loop/{name}"));
    assert!(shown("backing_file").ends_with("/image\n"));
    assert_eq!((shown("autoclear"), shown("offset")), ("0\n".into(), "0\n".into()));
    assert_eq!(pwrite(fd, b"changed", 1000), Ok(7));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(pread(image, 7, 1000).unwrap(), b"changed");
    assert_eq!(pwrite(fd, b"by sync", 3000), Ok(7));
    assert_eq!(sys!(SYS_sync), Ok(0));
    assert_eq!(pread(image, 7, 3000).unwrap(), b"by sync", "sync(2) writes out devices, too");
    assert_eq!(slurp(&format!("/sys/block/loop{number}/size")), "100\n");
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_CLR_FD, 0), Ok(0));
    close(fd);
    let (again, fd) = free_loop();
    assert_eq!(again, number);
    assert_eq!(u64_of(fd, BLKGETSIZE64), 0);
}

fn loop_device_rules() {
    let (number, fd) = free_loop();
    let mut info = [0u8; 232];
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_GET_STATUS64, &mut info), Err(ENXIO));
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_CLR_FD, 0), Err(ENXIO));
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_SET_FD, 999), Err(EBADF));
    let image = open(&file("image", &[1; 4096]), O_RDWR).unwrap();
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_SET_FD, image), Ok(0));
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_SET_FD, image), Err(EBUSY));
    info[56..60].copy_from_slice(b"name");
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_SET_STATUS64, &info), Ok(0));
    let mut back = [0u8; 232];
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_GET_STATUS64, &mut back), Ok(0));
    assert_eq!(&back[56..60], b"name");
    assert_eq!(back[40] as usize, number);
    let control = open(&cstr("/dev/loop-control"), O_RDWR).unwrap();
    assert_eq!(sys!(SYS_ioctl, control, LOOP_CTL_REMOVE, number), Err(EBUSY));
    assert_eq!(sys!(SYS_ioctl, fd, LOOP_CLR_FD, 0), Ok(0));
}
