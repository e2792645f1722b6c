//! /dev/mem, and mappings of frames that no process owns. As Linux has it with `STRICT_DEVMEM`.

use crate::prelude::*;

tests!(
    "physmem":
    who_may_open_it, what_read_gives, what_can_be_mapped, a_mapping_of_frames_is_special,
    a_mapping_of_frames_is_cut_and_moved,
);

const DEV: &std::ffi::CStr = c"/dev/mem";
const MIB: usize = 1 << 20;

fn dev(flags: i32) -> i32 {
    sys!(SYS_open, DEV, flags, 0).unwrap() as i32
}

/// The first two whole pages of RAM, below 1 MiB.
fn low_ram() -> usize {
    let text = slurp("/proc/iomem");
    let line = text.lines().find(|line| line.ends_with(" : System RAM")).expect("RAM");
    let start = usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let start = start.next_multiple_of(PAGE);
    assert!(start != 0 && start + 2 * PAGE <= 0xa_0000, "{line}");
    start
}

fn map_low(len: usize, prot: i32) -> usize {
    let fd = dev(O_RDONLY);
    let at = sys!(SYS_mmap, 0, len, prot, MAP_SHARED, fd, low_ram()).unwrap();
    close(fd);
    at
}

fn who_may_open_it() {
    assert_eq!(sys!(SYS_stat, DEV, &mut [0u8; 256]), Ok(0));
    aside(|| {
        sys!(SYS_capset, &[0x2008_0522u64, 0], &[0u32; 6]).unwrap();
        assert_eq!(sys!(SYS_open, DEV, O_RDONLY, 0), Err(EPERM), "its owner, without CAP_SYS_RAWIO");
    });
}

fn what_read_gives() {
    let fd = dev(O_RDONLY);
    let low = low_ram();
    assert_eq!(pread(fd, 100, low as i64 + 10), Ok(vec![0; 100]), "RAM below 1 MiB is shown as zeroes");
    assert_eq!(pread(fd, 16, 0xf_fff0).map(|bytes| bytes.len()), Ok(16), "the firmware's code");
    assert_eq!(pread(fd, 16, 4 * MIB as i64), Err(EPERM));
    assert_eq!(pread(fd, 16, 1 << 45), Err(EFAULT));
    assert_eq!(sys!(SYS_lseek, fd, low, SEEK_SET), Ok(low));
    assert_eq!(sys!(SYS_lseek, fd, 5, SEEK_CUR), Ok(low + 5));
    assert_eq!(sys!(SYS_lseek, fd, 0, SEEK_END), Err(EINVAL));
    close(fd);
    let fd = dev(O_RDWR);
    assert_eq!(pwrite(fd, b"gone", low as i64), Ok(4), "such a write goes nowhere");
    assert_eq!(pread(fd, 4, low as i64), Ok(vec![0; 4]));
    assert_eq!(pwrite(fd, b"no", 4 * MIB as i64), Err(EPERM));
    close(fd);
}

fn what_can_be_mapped() {
    let fd = dev(O_RDONLY);
    assert_eq!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 4 * MIB), Err(EPERM));
    assert_eq!(sys!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, low_ram()), Err(EACCES));
    let at = sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 0xf_f000).unwrap();
    let shown: Vec<u8> = (0..16).map(|i| peek(at + PAGE - 16 + i)).collect();
    assert_eq!(pread(fd, 16, 0xf_fff0), Ok(shown));
    close(fd);
    sys!(SYS_munmap, at, PAGE).unwrap();
}

fn a_mapping_of_frames_is_special() {
    let at = map_low(2 * PAGE, PROT_READ);
    peek(at);
    peek(at + PAGE);
    let smaps = slurp("/proc/self/smaps");
    let mine = smaps.split_once(&format!("{at:08x}-")).expect("the mapping").1;
    let flags = mine.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
    assert!([" pf", " io", " de", " dd"].iter().all(|flag| flags.contains(flag)), "{flags}");
    let rss = mine.lines().find(|line| line.starts_with("Rss:")).unwrap();
    assert!(rss.ends_with(" 0 kB"), "{rss}");
    let refused = [
        MADV_DONTNEED, MADV_FREE, MADV_WIPEONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
        MADV_DOFORK, MADV_DODUMP,
    ];
    for advice in refused {
        assert_eq!(sys!(SYS_madvise, at, PAGE, advice), Err(EINVAL), "advice {advice}");
    }
    aside(|| ignore((peek(at), peek(at + PAGE))));
    assert_eq!(sys!(SYS_mprotect, at, PAGE, PROT_NONE), Ok(0));
    assert_eq!(fate(|| ignore(peek(at))), Status::Signal(SIGSEGV));
    assert_eq!(sys!(SYS_mprotect, at, PAGE, PROT_READ), Ok(0));
    peek(at);
}

fn a_mapping_of_frames_is_cut_and_moved() {
    let at = map_low(2 * PAGE, PROT_READ);
    assert_eq!(sys!(SYS_mremap, at, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE), Err(EFAULT));
    let room = anon(2 * PAGE);
    assert_eq!(sys!(SYS_mremap, at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room), Ok(room));
    peek(room + PAGE);
    assert_eq!(fate(|| ignore(peek(at))), Status::Signal(SIGSEGV));
    assert_eq!(sys!(SYS_mremap, room, 2 * PAGE, PAGE, 0), Ok(room));
    peek(room);
    assert_eq!(sys!(SYS_munmap, room, PAGE), Ok(0));
    assert_eq!(fate(|| ignore(peek(room))), Status::Signal(SIGSEGV));
}
