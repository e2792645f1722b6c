//! /proc/sys: what its files take, and that it counts.

use crate::prelude::*;

tests!(
    "sysctl":
    reclaim_has_bounds,
    dirty_limits_are_percent_or_bytes, reserves_are_kept, turns_of_round_robin, sockets_get_the_default,
    bounds_of_socket_buffers, panic_settings, threads_max_has_bounds, not_for_everybody,
);

const VM: &str = "/proc/sys/vm/";
const KERNEL: &str = "/proc/sys/kernel/";
const CORE: &str = "/proc/sys/net/core/";

fn put(folder: &str, name: &str, value: &str) -> Result<usize, Errno> {
    let fd = open(&cstr(format!("{folder}{name}")), O_WRONLY)?;
    let result = write(fd, value.as_bytes());
    close(fd);
    result
}

fn get(folder: &str, name: &str) -> String {
    slurp(&format!("{folder}{name}")).trim().to_owned()
}

/// Runs `f`, and sets the tunable back.
fn with(folder: &str, name: &str, f: impl FnOnce()) {
    let before = get(folder, name);
    f();
    put(folder, name, &before).unwrap();
}

fn dirty_limits_are_percent_or_bytes() {
    for (ratio, bytes) in [("dirty_ratio", "dirty_bytes"), ("dirty_background_ratio", "dirty_background_bytes")] {
        with(VM, ratio, || {
            let percent = get(VM, ratio);
            assert_eq!(get(VM, bytes), "0");
            put(VM, bytes, "268435456").unwrap();
            assert_eq!((get(VM, bytes).as_str(), get(VM, ratio).as_str()), ("268435456", "0"));
            put(VM, ratio, &percent).unwrap();
            assert_eq!((get(VM, bytes), get(VM, ratio)), ("0".into(), percent));
            assert_eq!(put(VM, ratio, "101"), Err(EINVAL));
            assert_eq!(put(VM, ratio, "x"), Err(EINVAL));
        });
    }
    assert_eq!(put(VM, "dirty_bytes", "4096"), Err(EINVAL), "two pages are the least");
}

fn reclaim_has_bounds() {
    for (name, most, beyond) in [("swappiness", "200", "201"), ("vfs_cache_pressure", "1000", "-1")] {
        with(VM, name, || {
            put(VM, name, most).unwrap();
            assert_eq!(get(VM, name), most);
            assert_eq!(put(VM, name, beyond), Err(EINVAL));
            assert_eq!(put(VM, name, "0"), Ok(1));
            assert_eq!(get(VM, name), "0");
        });
    }
}

fn reserves_are_kept() {
    for name in ["admin_reserve_kbytes", "user_reserve_kbytes"] {
        assert!(get(VM, name).parse::<u64>().unwrap() > 0);
        with(VM, name, || {
            put(VM, name, "4000").unwrap();
            assert_eq!(get(VM, name), "4000");
        });
    }
}

fn turns_of_round_robin() {
    let name = "sched_rr_timeslice_ms";
    with(KERNEL, name, || {
        aside(|| {
            let priority = 1i32;
            sys!(SYS_sched_setscheduler, 0, SCHED_RR, &priority).unwrap();
            let turn = || {
                let mut t: timespec = zero();
                sys!(SYS_sched_rr_get_interval, 0, &mut t).unwrap();
                t.tv_sec * 1000 + t.tv_nsec / 1_000_000
            };
            put(KERNEL, name, "40").unwrap();
            assert_eq!(turn(), 40);
            put(KERNEL, name, "0").unwrap();
            assert_eq!((turn(), get(KERNEL, name).as_str()), (100, "100"), "the default");
        });
    });
}

fn buffer_of(fd: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, name, &mut value, &mut len).unwrap();
    value
}

/// Nothing is changed here: tests of sockets run at the same time.
fn sockets_get_the_default() {
    for (tunable, option) in [("rmem_default", SO_RCVBUF), ("wmem_default", SO_SNDBUF)] {
        let before = get(CORE, tunable);
        put(CORE, tunable, &before).unwrap();
        assert_eq!(put(CORE, tunable, "100"), Err(EINVAL), "less than a socket needs");
        let fd = sys!(SYS_socket, AF_UNIX, SOCK_DGRAM, 0).unwrap() as i32;
        assert_eq!(buffer_of(fd, option).to_string(), before);
    }
}

fn bounds_of_socket_buffers() {
    for (tunable, option) in [("rmem_max", SO_RCVBUF), ("wmem_max", SO_SNDBUF)] {
        with(CORE, tunable, || {
            put(CORE, tunable, "500000").unwrap();
            let fd = sys!(SYS_socket, AF_UNIX, SOCK_DGRAM, 0).unwrap() as i32;
            sys!(SYS_setsockopt, fd, SOL_SOCKET, option, &i32::MAX, 4).unwrap();
            assert_eq!(buffer_of(fd, option), 1_000_000);
            assert_eq!(put(CORE, tunable, "100"), Err(EINVAL), "less than a socket needs");
        });
    }
}

fn panic_settings() {
    with(KERNEL, "panic", || {
        for value in ["5", "-1"] {
            put(KERNEL, "panic", value).unwrap();
            assert_eq!(get(KERNEL, "panic"), value);
        }
    });
    with(KERNEL, "panic_on_oops", || {
        put(KERNEL, "panic_on_oops", "1").unwrap();
        assert_eq!(get(KERNEL, "panic_on_oops"), "1");
    });
    with(VM, "panic_on_oom", || {
        assert_eq!(put(VM, "panic_on_oom", "3"), Err(EINVAL));
        assert_eq!(put(VM, "panic_on_oom", "0"), Ok(1));
    });
}

fn threads_max_has_bounds() {
    let name = "threads-max";
    let before = get(KERNEL, name);
    assert_eq!(put(KERNEL, name, "0"), Err(EINVAL));
    assert_eq!(put(KERNEL, name, &before), Ok(before.len()));
    assert_eq!(get(KERNEL, name), before);
}

fn not_for_everybody() {
    aside(|| {
        drop_root();
        for (folder, name) in [(VM, "dirty_bytes"), (KERNEL, "panic"), (CORE, "rmem_max")] {
            assert_eq!(put(folder, name, "1"), Err(EACCES), "{name}");
        }
    });
}
