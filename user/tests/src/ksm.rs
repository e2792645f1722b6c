//! Merging of equal pages: who takes part, what is shared, and that nobody sees it in the contents.

use crate::prelude::*;

tests!(
    "ksm":
    equal_pages_become_one_until_they_are_written, zeroes_become_the_page_of_zeroes, all_of_a_process_can_take_part,
    settings_are_checked, what_cannot_take_part_is_left_out,
);

const SYSFS: &str = "/sys/kernel/mm/ksm";
const RW: i32 = PROT_READ | PROT_WRITE;
const SET_MEMORY_MERGE: i32 = 67;
const GET_MEMORY_MERGE: i32 = 68;
const NR: usize = 48;

fn try_set(name: &str, value: &str) -> Result<usize, Errno> {
    let fd = open(&cstr(format!("{SYSFS}/{name}")), O_WRONLY).unwrap();
    let result = write(fd, value.as_bytes());
    close(fd);
    result
}

fn set(name: &str, value: &str) {
    assert_eq!(try_set(name, value), Ok(value.len()), "{name}");
}

fn get(name: &str) -> String {
    slurp(&format!("{SYSFS}/{name}")).trim().into()
}

/// Merging, ours alone and off at first, for as long as this lives.
struct Merging(i32);

impl Merging {
    fn new() -> Merging {
        allow_seconds(240);
        if sys!(SYS_access, &cstr(SYSFS), 0) == Err(ENOENT) {
            skip("no merging of pages");
        }
        let lock = sys!(SYS_open, &cstr("/tmp/ksm.lock"), O_CREAT | O_RDWR | O_CLOEXEC, 0o666).unwrap();
        sys!(SYS_flock, lock, LOCK_EX).unwrap();
        set("run", "2");
        set("sleep_millisecs", "1");
        set("pages_to_scan", "1000");
        Merging(lock as i32)
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        for (name, value) in [("run", "2"), ("run", "0"), ("use_zero_pages", "0"), ("pages_to_scan", "100")] {
            set(name, value);
        }
        set("sleep_millisecs", "20");
        close(self.0);
    }
}

#[track_caller]
fn wait_until(what: impl Fn() -> bool) {
    let until = now_ms() + 120_000;
    while !what() {
        assert!(now_ms() < until, "it never comes");
        nap(10);
    }
}

/// `NR` pages full of `byte` each, small ones.
fn pages(byte: u8) -> usize {
    let at = anon(NR * PAGE);
    // Without huge pages; a kernel that knows none refuses.
    let _ = sys!(SYS_madvise, at, NR * PAGE, MADV_NOHUGEPAGE);
    (0..NR * PAGE).for_each(|i| poke(at + i, byte));
    at
}

fn word_of(path: &str, at: u64) -> u64 {
    let fd = open(&cstr(path), O_RDONLY).unwrap();
    let bytes = pread(fd, 8, at as i64 * 8).unwrap();
    close(fd);
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The physical page at `addr`.
fn frame_of(addr: usize) -> u64 {
    word_of("/proc/self/pagemap", (addr / PAGE) as u64) & ((1 << 55) - 1)
}

/// How many different physical pages there are at `at`.
fn frames(at: usize, nr: usize) -> usize {
    let mut frames: Vec<u64> = (0..nr).map(|i| frame_of(at + i * PAGE)).collect();
    frames.sort_unstable();
    frames.dedup();
    frames.len()
}

/// The lines of smaps for the mapping that begins at `addr`.
fn smaps(addr: usize) -> String {
    let text = slurp("/proc/self/smaps");
    let from = text.find(&format!("{addr:x}-")).expect("the mapping");
    let len = text[from..].find("VmFlags:").unwrap();
    let end = text[from + len..].find('\n').unwrap();
    text[from..from + len + end].into()
}

fn kb(addr: usize, field: &str) -> usize {
    let text = smaps(addr);
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn takes_part(addr: usize) -> bool {
    smaps(addr).lines().last().unwrap().contains(" mg")
}

/// A number of /proc/self/ksm_stat.
fn stat(name: &str) -> usize {
    let text = slurp("/proc/self/ksm_stat");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the field");
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn equal_pages_become_one_until_they_are_written() {
    const KSM: u64 = 1 << 21;
    let _merging = Merging::new();
    let at = pages(0x5a);
    assert_eq!(frames(at, NR), NR);
    assert!(!takes_part(at));
    sys!(SYS_madvise, at, NR * PAGE, MADV_MERGEABLE).unwrap();
    assert!(takes_part(at));
    set("run", "1");
    wait_until(|| frames(at, NR) == 1);
    wait_until(|| stat("ksm_merging_pages") == NR);
    assert_ne!(word_of("/proc/kpageflags", frame_of(at)) & KSM, 0);
    assert_eq!(kb(at, "KSM:"), NR * PAGE / 1024);
    assert_eq!(slurp("/proc/self/ksm_merging_pages").trim(), NR.to_string());
    assert!(get("pages_shared").parse::<usize>().unwrap() >= 1);
    set("run", "0");
    // Writes copy: by user code, by the kernel, in a child.
    poke(at + 3, 1);
    let (r, w) = pipe();
    assert_eq!(write(w, &[2]), Ok(1));
    assert_eq!(sys!(SYS_read, r, at + PAGE, 1), Ok(1));
    aside(|| {
        poke(at + 2 * PAGE, 3);
        assert_eq!((peek(at + 2 * PAGE), peek(at + 3 * PAGE)), (3, 0x5a));
    });
    assert_eq!((peek(at), peek(at + 3), peek(at + PAGE), peek(at + 2 * PAGE)), (0x5a, 1, 2, 0x5a));
    assert_eq!(frames(at, NR), 3);
    // What moves, or changes its rights, keeps its contents.
    let moved = anon(NR * PAGE);
    sys!(SYS_mremap, at, NR * PAGE, NR * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved).unwrap();
    assert!(takes_part(moved));
    sys!(SYS_mprotect, moved, NR * PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, moved, NR * PAGE, RW).unwrap();
    poke(moved + 5 * PAGE, 9);
    assert_eq!((peek(moved + 4 * PAGE), peek(moved + 5 * PAGE), peek(moved + 6 * PAGE)), (0x5a, 9, 0x5a));
    sys!(SYS_madvise, moved, NR * PAGE, MADV_UNMERGEABLE).unwrap();
    assert!(!takes_part(moved));
    assert_eq!((frames(moved, NR), kb(moved, "KSM:")), (NR, 0));
    (6..NR).for_each(|i| assert_eq!(peek(moved + i * PAGE), 0x5a));
}

fn zeroes_become_the_page_of_zeroes() {
    let _merging = Merging::new();
    set("use_zero_pages", "1");
    let at = pages(0);
    sys!(SYS_madvise, at, NR * PAGE, MADV_MERGEABLE).unwrap();
    set("run", "1");
    wait_until(|| stat("ksm_zero_pages") == NR);
    set("run", "0");
    assert_eq!(frames(at, NR), 1);
    poke(at, 1);
    assert_eq!((stat("ksm_zero_pages"), peek(at), peek(at + 1), peek(at + PAGE)), (NR - 1, 1, 0, 0));
    sys!(SYS_madvise, at, NR * PAGE / 2, MADV_UNMERGEABLE).unwrap();
    assert_eq!(stat("ksm_zero_pages"), NR / 2);
    set("run", "2");
    assert_eq!((stat("ksm_zero_pages"), frames(at, NR), peek(at + 7 * PAGE)), (0, NR, 0));
}

fn all_of_a_process_can_take_part() {
    let merge = |on: usize| sys!(SYS_prctl, SET_MEMORY_MERGE, on, 0, 0, 0);
    let merges = || sys!(SYS_prctl, GET_MEMORY_MERGE, 0, 0, 0, 0);
    let _merging = Merging::new();
    assert_eq!(sys!(SYS_prctl, SET_MEMORY_MERGE, 1, 1, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, GET_MEMORY_MERGE, 1, 0, 0, 0), Err(EINVAL));
    aside(|| {
        let (before, other) = (pages(7), shared(PAGE));
        assert_eq!(merges(), Ok(0));
        merge(1).unwrap();
        let after = pages(7);
        assert_eq!((merges(), takes_part(before), takes_part(after)), (Ok(1), true, true));
        assert!(!takes_part(other));
        assert!(slurp("/proc/self/ksm_stat").contains("ksm_merge_any: yes\nksm_mergeable: yes\n"));
        set("run", "1");
        wait_until(|| frames(before, NR) == 1 && frame_of(after) == frame_of(before));
        aside(|| {
            assert_eq!(merges(), Ok(1));
            assert!(takes_part(pages(1)));
            merge(0).unwrap();
            assert_eq!((merges(), peek(before), takes_part(before)), (Ok(0), 7, false));
        });
        merge(0).unwrap();
        assert_eq!((merges(), takes_part(before), takes_part(pages(2))), (Ok(0), false, false));
        assert_eq!((frames(before, NR), frames(after, NR)), (NR, NR));
    });
}

fn settings_are_checked() {
    let _merging = Merging::new();
    for (name, value) in [
        ("run", "3"),
        ("run", "x"),
        ("max_page_sharing", "1"),
        ("use_zero_pages", "2"),
        ("smart_scan", "2"),
        ("advisor_mode", "bad"),
        ("advisor_target_scan_time", "0"),
        ("sleep_millisecs", "4294967296"),
        ("pages_to_scan", "4294967296"),
    ] {
        assert_eq!(try_set(name, value), Err(EINVAL), "{name}");
    }
    set("advisor_mode", "scan-time");
    assert_eq!((get("advisor_mode"), get("pages_to_scan")), ("none [scan-time]".into(), get("advisor_min_pages_to_scan")));
    assert_eq!(try_set("pages_to_scan", "5"), Err(EINVAL));
    set("advisor_mode", "none");
    assert_eq!((get("advisor_mode"), get("pages_to_scan")), ("[none] scan-time".into(), "100".into()));
    assert_eq!(sys!(SYS_access, &cstr(format!("{SYSFS}/full_scans")), W_OK), Ok(0), "root may all");
    assert_eq!(stat_path(&cstr(format!("{SYSFS}/full_scans"))).unwrap().st_mode & 0o777, 0o444);
}

fn what_cannot_take_part_is_left_out() {
    let _merging = Merging::new();
    let at = shared(NR * PAGE);
    sys!(SYS_madvise, at, NR * PAGE, MADV_MERGEABLE).unwrap();
    assert!(!takes_part(at));
    let hole = anon(3 * PAGE);
    sys!(SYS_munmap, hole + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_madvise, hole, 3 * PAGE, MADV_MERGEABLE), Err(ENOMEM));
    assert!(takes_part(hole) && takes_part(hole + 2 * PAGE));
    // Pages that change all the time are not worth it, and nothing is lost of what is written.
    let busy = pages(1);
    sys!(SYS_madvise, busy, NR * PAGE, MADV_MERGEABLE).unwrap();
    set("run", "1");
    let first: usize = get("full_scans").parse().unwrap();
    let mut round = 1;
    while get("full_scans").parse::<usize>().unwrap() < first + 8 {
        round = if round < 250 { round + 1 } else { 2 };
        (0..NR).for_each(|i| poke(busy + i * PAGE + i, round));
        (0..NR).for_each(|i| assert_eq!(peek(busy + i * PAGE + i), round));
    }
}
