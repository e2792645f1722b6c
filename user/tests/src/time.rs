//! Clocks, sleeping, and the vDSO.

use std::collections::HashMap;

use crate::prelude::*;
use crate::sys::{auxv, call_function, peek64};

tests!(
    "time":
    clocks_exist_and_move, monotonic_never_goes_back, cpu_clock_counts_work_only, resolution, nanosleep_rules,
    clock_nanosleep_absolute, gettimeofday_and_time_agree, setting_the_clock_needs_privilege,
    vdso_has_its_functions, vdso_clock_agrees_with_the_call, vdso_getcpu_and_time, vdso_cannot_be_written,
);

fn clock(id: i32) -> Result<timespec, Errno> {
    let mut ts: timespec = zero();
    sys!(SYS_clock_gettime, id, &mut ts).map(|_| ts)
}

fn nanos(t: timespec) -> i64 {
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

fn clocks_exist_and_move() {
    for id in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_TAI] {
        let a = clock(id).unwrap();
        nap(5);
        let b = clock(id).unwrap();
        assert!(nanos(b) - nanos(a) >= 4_900_000, "clock {id}");
        assert!((0..1_000_000_000).contains(&a.tv_nsec));
    }
    for id in
        [CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE]
    {
        assert!(clock(id).is_ok(), "clock {id}");
    }
    assert_eq!(clock(99).err(), Some(EINVAL));
    assert_eq!(sys!(SYS_clock_gettime, CLOCK_REALTIME, BAD), Err(EFAULT));
}

fn monotonic_never_goes_back() {
    let mut last = 0;
    for _ in 0..20_000 {
        let now = nanos(clock(CLOCK_MONOTONIC).unwrap());
        assert!(now >= last);
        last = now;
    }
}

fn cpu_clock_counts_work_only() {
    let a = nanos(clock(CLOCK_PROCESS_CPUTIME_ID).unwrap());
    nap(60);
    let b = nanos(clock(CLOCK_PROCESS_CPUTIME_ID).unwrap());
    assert!(b - a < 50_000_000, "sleeping took {} ns of CPU time", b - a);
    while nanos(clock(CLOCK_PROCESS_CPUTIME_ID).unwrap()) - b < 20_000_000 {}
}

fn resolution() {
    let mut ts: timespec = zero();
    sys!(SYS_clock_getres, CLOCK_MONOTONIC, &mut ts).unwrap();
    assert_eq!((ts.tv_sec, ts.tv_nsec), (0, 1));
    assert_eq!(sys!(SYS_clock_getres, CLOCK_REALTIME, 0), Ok(0));
    assert_eq!(sys!(SYS_clock_getres, 99, &mut ts), Err(EINVAL));
}

fn nanosleep_rules() {
    let (took, r) = timed(|| sys!(SYS_nanosleep, &ms(40), 0));
    assert_eq!(r, Ok(0));
    assert!((39..3000).contains(&took), "{took}");
    let t = |s, n| timespec { tv_sec: s, tv_nsec: n };
    assert_eq!(sys!(SYS_nanosleep, &t(0, 1_000_000_000), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_nanosleep, &t(-1, 0), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_nanosleep, &t(0, -1), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_nanosleep, 0, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_nanosleep, &t(0, 0), 0), Ok(0));
}

fn clock_nanosleep_absolute() {
    let mut at = clock(CLOCK_MONOTONIC).unwrap();
    assert_eq!(sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0), Ok(0), "in the past");
    at.tv_sec += (at.tv_nsec + 40_000_000) / 1_000_000_000;
    at.tv_nsec = (at.tv_nsec + 40_000_000) % 1_000_000_000;
    sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0).unwrap();
    assert!(nanos(clock(CLOCK_MONOTONIC).unwrap()) >= nanos(at), "it woke early");
    assert_eq!(sys!(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &ms(1), 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_clock_nanosleep, 99, 0, &ms(1), 0), Err(EINVAL));
}

fn gettimeofday_and_time_agree() {
    let (mut tv, mut t): (timeval, i64) = (zero(), 0);
    sys!(SYS_gettimeofday, &mut tv, 0).unwrap();
    let now = sys!(SYS_time, &mut t).unwrap() as i64;
    assert_eq!(now, t);
    assert!((now - tv.tv_sec).abs() <= 1);
    assert!((clock(CLOCK_REALTIME).unwrap().tv_sec - now).abs() <= 1);
    assert!(now > 1_500_000_000);
}

fn setting_the_clock_needs_privilege() {
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &ms(0)), Err(EPERM));
        assert_eq!(sys!(SYS_settimeofday, &[0u64, 0], 0), Err(EPERM));
    });
    assert_eq!(sys!(SYS_clock_settime, CLOCK_MONOTONIC, &ms(0)), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &timespec { tv_sec: 0, tv_nsec: -1 }), Err(EINVAL));
}

/// Functions of the vDSO: its dynamic symbols by name.
fn vdso() -> HashMap<String, usize> {
    let base = auxv(33) as usize; // AT_SYSINFO_EHDR
    assert!(base != 0 && bytes_at(base, 4) == b"\x7fELF");
    let half = |at: usize| u64::from(peek(at)) | u64::from(peek(at + 1)) << 8;
    let (mut bias, mut dynamic) = (0, 0);
    for i in 0..half(base + 56) as usize {
        let header = base + peek64(base + 32) as usize + 56 * i;
        let (offset, address) = (peek64(header + 8) as usize, peek64(header + 16) as usize);
        match peek64(header) as u32 {
            1 if bias == 0 => bias = base + offset - address,
            2 => dynamic = base + offset,
            _ => {}
        }
    }
    let entry = |tag: u64| {
        (0..64)
            .map(|i| dynamic + 16 * i)
            .find(|at| peek64(*at) == tag)
            .map(|at| bias + peek64(at + 8) as usize)
    };
    let (strings, symbols) = (entry(5).expect("DT_STRTAB"), entry(6).expect("DT_SYMTAB"));
    let count = match entry(4) {
        Some(hash) => peek64(hash) >> 32,
        None => 16,
    };
    let mut all = HashMap::new();
    for i in 1..count as usize {
        let symbol = symbols + 24 * i;
        let name = strings + peek64(symbol) as u32 as usize;
        let len = (0..).find(|n| peek(name + n) == 0).unwrap();
        let text = String::from_utf8_lossy(bytes_at(name, len)).into_owned();
        all.insert(text, bias + peek64(symbol + 8) as usize);
    }
    all
}

fn vdso_has_its_functions() {
    let f = vdso();
    for name in ["clock_gettime", "gettimeofday", "time", "getcpu"] {
        assert!(f.contains_key(&format!("__vdso_{name}")), "{name} in {:?}", f.keys());
    }
}

fn vdso_clock_agrees_with_the_call() {
    let f = vdso()["__vdso_clock_gettime"];
    for id in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME] {
        for _ in 0..100 {
            let mut ts: timespec = zero();
            let before = nanos(clock(id).unwrap());
            assert_eq!(call_function(f, id as usize, std::ptr::from_mut(&mut ts) as usize), 0);
            let after = nanos(clock(id).unwrap());
            assert!((before..=after).contains(&nanos(ts)), "clock {id}: {before} {} {after}", nanos(ts));
        }
    }
}

fn vdso_getcpu_and_time() {
    let f = vdso();
    let (mut cpu, mut node) = (99u32, 99u32);
    let at = |w: &mut u32| std::ptr::from_mut(w) as usize;
    assert_eq!(call_function(f["__vdso_getcpu"], at(&mut cpu), at(&mut node)) as i32, 0);
    assert!(cpu < 4096 && node < 64);
    assert!((call_function(f["__vdso_time"], 0, 0) - sys!(SYS_time, 0).unwrap() as i64).abs() <= 1);
}

fn vdso_cannot_be_written() {
    assert_eq!(fate(|| poke(auxv(33) as usize, 0)), Status::Signal(SIGSEGV));
}
