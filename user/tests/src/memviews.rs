//! What /proc tells of the pages of the machine and of a mapping, and what memory fits into a pipe.

use crate::prelude::*;

tests!(
    "memviews":
    pages_tell_what_they_are, mapped_files_have_links, secret_memory_goes_into_no_pipe, a_pipe_takes_what_fits,
    guarded_areas_say_so, promised_pages_are_not_in_core, shares_add_up, each_allocation_fails,
);

/// The entries of the file at `path` from `first` on.
fn entries(path: &str, first: u64, count: usize) -> Vec<u64> {
    let fd = open(&cstr(path), O_RDONLY).unwrap();
    let bytes = pread(fd, 8 * count, first as i64 * 8).unwrap();
    close(fd);
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The physical page at `addr`.
fn frame_of(addr: usize) -> u64 {
    entries("/proc/self/pagemap", (addr / PAGE) as u64, 1)[0] & ((1 << 55) - 1)
}

fn pages_tell_what_they_are() {
    const FLAGS: &str = "/proc/kpageflags";
    const COUNTS: &str = "/proc/kpagecount";
    const ANON: u64 = 1 << 12;
    const ZERO: u64 = 1 << 24;
    const NOPAGE: u64 = 1 << 20;
    let fd = match open(&cstr(FLAGS), O_RDONLY) {
        Ok(fd) => fd,
        Err(ENOENT | EACCES | EPERM) => skip("no view of physical pages"),
        Err(e) => panic!("{e:?}"),
    };
    assert_eq!(pread(fd, 7, 0), Err(EINVAL));
    assert_eq!(pread(fd, 8, 4), Err(EINVAL));
    assert_eq!(pread(fd, 8, 1 << 60), Ok(vec![]));
    close(fd);
    let a = anon(2 * PAGE);
    poke(a, 1);
    ignore(peek(a + PAGE));
    let (mine, zero) = (frame_of(a), frame_of(a + PAGE));
    if mine == 0 {
        skip("no sight of physical pages");
    }
    assert_eq!(entries(FLAGS, mine, 1)[0] & (ANON | ZERO | NOPAGE), ANON);
    assert_eq!(entries(FLAGS, zero, 1)[0] & (ANON | ZERO | NOPAGE), ZERO);
    assert_eq!(entries(COUNTS, mine, 1), [1]);
    aside(|| assert_eq!(entries(COUNTS, frame_of(a), 1), [2]));
    // Page 0 is no memory that a kernel hands out.
    assert_eq!(entries(FLAGS, 0, 1)[0] & (ANON | ZERO), 0);
}

fn mapped_files_have_links() {
    let name = file("mapped", &[7; 100]);
    let fd = open(&name, O_RDONLY).unwrap();
    let at = map(2 * PAGE, PROT_READ, MAP_PRIVATE, fd).unwrap();
    close(fd);
    let link = format!("/proc/self/map_files/{at:x}-{:x}", at + 2 * PAGE);
    let mut target = [0u8; 4096];
    let len = match sys!(SYS_readlink, &cstr(&*link), &mut target, 4096) {
        Ok(len) => len,
        Err(ENOENT) if open(&cstr("/proc/self/map_files"), O_RDONLY | O_DIRECTORY).is_err() => skip("no links"),
        Err(e) => panic!("{link}: {e:?}"),
    };
    assert_eq!(&target[..len], name.as_bytes());
    let again = open(&cstr(&*link), O_RDONLY).unwrap();
    assert_eq!(read_vec(again, 200), Ok(vec![7; 100]));
    assert_eq!(fstat(again).st_ino, stat_path(&name).unwrap().st_ino);
    close(again);
    for wrong in [format!("{at:x}-{:x}", at + PAGE), format!("0{at:x}-{:x}", at + 2 * PAGE), "x".into()] {
        assert_eq!(open(&cstr(format!("/proc/self/map_files/{wrong}")), O_RDONLY), Err(ENOENT), "{wrong}");
    }
    sys!(SYS_munmap, at, 2 * PAGE).unwrap();
    assert_eq!(open(&cstr(&*link), O_RDONLY), Err(ENOENT));
}

fn secret_memory_goes_into_no_pipe() {
    let fd = match sys!(SYS_memfd_secret, 0) {
        Ok(fd) => fd as i32,
        Err(ENOSYS) => skip("memfd_secret is switched off"),
        Err(e) => panic!("{e:?}"),
    };
    sys!(SYS_ftruncate, fd, PAGE).unwrap();
    let at = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    let (_r, w) = pipe();
    let part = [at, PAGE];
    assert_eq!(sys!(SYS_vmsplice, w, &part, 1, 0), Err(EFAULT), "untouched");
    poke(at, 1);
    assert_eq!(sys!(SYS_vmsplice, w, &part, 1, 0), Err(EFAULT), "touched");
}

fn a_pipe_takes_what_fits() {
    const LEN: usize = 64 * PAGE;
    let a = anon(LEN);
    (0..64).for_each(|page| poke(a + page * PAGE, page as u8));
    let (r, w) = pipe();
    let part = [a, LEN];
    assert_eq!(sys!(SYS_vmsplice, w, &part, 1, 0), Ok(16 * PAGE));
    assert_eq!(sys!(SYS_vmsplice, w, &part, 1, 2), Err(EAGAIN), "SPLICE_F_NONBLOCK");
    let got = read_vec(r, LEN).unwrap();
    assert_eq!(got.len(), 16 * PAGE);
    (0..16).for_each(|page| assert_eq!(got[page * PAGE], page as u8));
}

fn guarded_areas_say_so() {
    const GUARD_INSTALL: usize = 102;
    let a = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    let flags = || {
        let text = slurp("/proc/self/smaps");
        let from = text.lines().skip_while(|line| {
            let range = line.split(' ').next().unwrap().split_once('-');
            let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
            range.is_none_or(|(start, end)| !(number(start)..number(end)).contains(&a))
        });
        from.take(40).find(|line| line.starts_with("VmFlags:")).unwrap().to_string()
    };
    assert!(!flags().contains(" gu"), "{}", flags());
    match sys!(SYS_madvise, a, PAGE, GUARD_INSTALL) {
        Err(EINVAL) => skip("no guard pages"),
        other => assert_eq!(other, Ok(0)),
    }
    assert!(flags().contains(" gu"), "{}", flags());
    sys!(SYS_madvise, a, PAGE, GUARD_INSTALL + 1).unwrap();
    assert!(flags().contains(" gu"), "{}", flags());
}

fn promised_pages_are_not_in_core() {
    let fd = sys!(SYS_memfd_create, c"promised", 0).unwrap() as i32;
    sys!(SYS_fallocate, fd, 0, 0, 8 * PAGE).unwrap();
    let a = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    let in_core = || {
        let mut vec = [0u8; 8];
        sys!(SYS_mincore, a, 8 * PAGE, &mut vec).unwrap();
        vec.map(|byte| byte & 1)
    };
    assert_eq!(in_core(), [0; 8]);
    poke(a + 3 * PAGE, 1);
    assert_eq!(pwrite(fd, &[2], 5 * PAGE as i64), Ok(1));
    let now = in_core();
    assert_eq!((now[3], now[5], now[7]), (1, 1, 0));
    assert_eq!((peek(a + 7 * PAGE), peek(a + 5 * PAGE), peek(a + 3 * PAGE)), (0, 2, 1));
}

fn shares_add_up() {
    let a = anon(64 * PAGE);
    (0..64).for_each(|page| poke(a + page * PAGE, 1));
    let b = shared(16 * PAGE);
    (0..16).for_each(|page| poke(b + page * PAGE, 1));
    let text = slurp("/proc/self/smaps_rollup");
    let kb = |key: &str| -> i64 {
        let line = text.lines().find(|line| line.starts_with(key)).expect(key);
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let parts = kb("Pss_Anon:") + kb("Pss_File:") + kb("Pss_Shmem:");
    assert!((kb("Pss:") - parts).abs() <= 3, "{text}");
    assert!(kb("Pss_Anon:") >= 256 && kb("Pss_Shmem:") >= 64, "{text}");
    assert!(kb("Pss_Dirty:") <= kb("Pss:"), "{text}");
}

/// Calls that need memory, each of which undoes what it did.
const CALLS: [fn() -> Result<usize, Errno>; 6] = [
    || {
        let a = sys!(SYS_mmap, 0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
        let filled = sys!(SYS_madvise, a, 8 * PAGE, 23); // MADV_POPULATE_WRITE
        sys!(SYS_munmap, a, 8 * PAGE).unwrap();
        filled
    },
    || {
        let a = sys!(SYS_mmap, 0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)?;
        poke(a + PAGE, 1);
        let moved = sys!(SYS_mremap, a, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE, 0);
        sys!(SYS_munmap, moved.unwrap_or(a), if moved.is_ok() { 16 * PAGE } else { 8 * PAGE }).unwrap();
        moved
    },
    || match crate::sys::fork()? {
        0 => exit(0),
        pid => {
            Child(pid).ok();
            Ok(0)
        }
    },
    || {
        let fd = sys!(SYS_memfd_create, c"m", 0)? as i32;
        let written = pwrite(fd, &[1; 3 * PAGE], 0);
        close(fd);
        written
    },
    || {
        let mut ends = [0i32; 2];
        sys!(SYS_pipe2, &mut ends, 0)?;
        let written = write(ends[1], &[1; PAGE]);
        ends.into_iter().for_each(close);
        written
    },
    || {
        let a = sys!(SYS_mmap, 0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
        poke(a, 1);
        let split = sys!(SYS_mprotect, a + 2 * PAGE, PAGE, PROT_READ);
        sys!(SYS_munmap, a, 8 * PAGE).unwrap();
        split
    },
];

fn each_allocation_fails() {
    allow_seconds(120);
    let Ok(fd) = open(&cstr("/proc/thread-self/fail-nth"), O_RDWR) else { skip("no fault injection") };
    // What is read may need memory, too: then that failed, and the count is used up.
    let left = || loop {
        match pread(fd, 20, 0) {
            Err(ENOMEM) => continue,
            text => break String::from_utf8(text.unwrap()).unwrap().trim().parse::<u32>().unwrap(),
        }
    };
    let set = |nth: u32| assert_eq!(pwrite(fd, nth.to_string().as_bytes(), 0), Ok(nth.to_string().len()));
    for call in CALLS {
        let mut nth = 1;
        loop {
            set(nth);
            let result = call();
            let left = left();
            set(0);
            match result {
                Err(ENOMEM | EAGAIN | ENOSPC) => assert_eq!(left, 0, "no memory, and nothing had failed"),
                other => assert!(other.is_ok(), "allocation {nth}: {other:?}"),
            }
            if left > 0 {
                break;
            }
            nth += 1;
            assert!(nth < 5000, "no end");
        }
    }
}
