//! ioprio_set(2) and ioprio_get(2).

use crate::prelude::*;

tests!(
    "ioprio":
    a_thread_has_what_was_set, classes_and_levels, who_is_meant, children_inherit, contexts_are_shared,
    groups_have_their_best, niceness_counts_without_a_class, users_have_their_best, rights,
);

const PROCESS: i32 = 1;
const PGRP: i32 = 2;
const USER: i32 = 3;

const RT: i32 = 1 << 13;
const BE: i32 = 2 << 13;
const IDLE: i32 = 3 << 13;

fn set(which: i32, who: i32, priority: i32) -> Result<(), Errno> {
    sys!(SYS_ioprio_set, which, who, priority).map(|_| ())
}

fn get(which: i32, who: i32) -> Result<i32, Errno> {
    sys!(SYS_ioprio_get, which, who).map(|priority| priority as i32)
}

fn own() -> i32 {
    get(PROCESS, 0).unwrap()
}

fn a_thread_has_what_was_set() {
    assert_eq!(own(), 0);
    set(PROCESS, 0, BE | 3).unwrap();
    assert_eq!(own(), BE | 3);
    assert_eq!(get(PROCESS, gettid()), Ok(BE | 3));
    // A new thread has the same, but its own.
    let other = std::thread::spawn(|| {
        let before = own();
        set(PROCESS, 0, IDLE).unwrap();
        (before, own())
    });
    assert_eq!(other.join().unwrap(), (BE | 3, IDLE));
    assert_eq!(own(), BE | 3);
    set(PROCESS, 0, 0).unwrap();
    assert_eq!(own(), 0);
}

fn classes_and_levels() {
    for good in [RT, RT | 7, BE | 7, IDLE, IDLE | 7, BE | 1 << 3 | 2] {
        set(PROCESS, 0, good).unwrap();
        assert_eq!(own(), good);
    }
    for bad in [1, 7, 4 << 13, 7 << 13, 5 << 13 | 1] {
        assert_eq!(set(PROCESS, 0, bad), Err(EINVAL), "{bad:#x}");
    }
}

fn who_is_meant() {
    assert_eq!(set(0, 0, BE), Err(EINVAL));
    assert_eq!(set(4, 0, BE), Err(EINVAL));
    assert_eq!(get(0, 0), Err(EINVAL));
    assert_eq!(get(4, 0), Err(EINVAL));
    // The priority is looked at first.
    assert_eq!(set(PROCESS, i32::MAX, 1), Err(EINVAL));
    assert_eq!(set(PROCESS, i32::MAX, BE), Err(ESRCH));
    assert_eq!(get(PROCESS, i32::MAX), Err(ESRCH));
    assert_eq!(get(PROCESS, -1), Err(ESRCH));
    assert_eq!(get(PGRP, i32::MAX), Err(ESRCH));
    assert_eq!(get(USER, 54_321), Err(ESRCH));
    assert_eq!(set(USER, 54_321, BE), Err(ESRCH));
    assert_eq!(get(USER, -1), Err(ESRCH));
}

fn children_inherit() {
    set(PROCESS, 0, BE | 6).unwrap();
    aside(|| {
        assert_eq!(own(), BE | 6);
        set(PROCESS, 0, BE | 1).unwrap();
    });
    assert_eq!(own(), BE | 6);
    let c = child(|| nap(60_000));
    set(PROCESS, c.0, IDLE).unwrap();
    assert_eq!(get(PROCESS, c.0), Ok(IDLE));
    c.kill(SIGKILL);
    c.wait();
}

fn contexts_are_shared() {
    const CLONE_IO: u64 = 0x8000_0000;
    set(PROCESS, 0, BE | 6).unwrap();
    let pid = sys!(SYS_clone, CLONE_IO | SIGCHLD as u64, 0, 0, 0, 0).unwrap() as i32;
    if pid == 0 {
        exit(i32::from(set(PROCESS, 0, BE | 1).is_err()));
    }
    Child(pid).ok();
    assert_eq!(own(), BE | 1);
}

fn groups_have_their_best() {
    aside(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        set(PROCESS, 0, BE | 6).unwrap();
        let c = child(|| nap(60_000));
        set(PROCESS, c.0, BE | 2).unwrap();
        assert_eq!(get(PGRP, 0), Ok(BE | 2));
        assert_eq!(get(PGRP, getpid()), Ok(BE | 2));
        set(PGRP, 0, IDLE).unwrap();
        assert_eq!((own(), get(PROCESS, c.0)), (IDLE, Ok(IDLE)));
        c.kill(SIGKILL);
        c.wait();
    });
}

fn niceness_counts_without_a_class() {
    aside(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        assert_eq!((own(), get(PGRP, 0)), (0, Ok(BE | 4)));
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 19).unwrap();
        assert_eq!((own(), get(PGRP, 0)), (0, Ok(BE | 7)));
        sys!(SYS_setpriority, PRIO_PROCESS, 0, -20).unwrap();
        assert_eq!(get(PGRP, 0), Ok(BE));
        set(PROCESS, 0, 0).unwrap();
        assert_eq!(get(PGRP, 0), Ok(BE));
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 0).unwrap();
        sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &1i32).unwrap();
        assert_eq!(get(PGRP, 0), Ok(RT | 4));
    });
}

/// Becomes user `uid`.
fn become_user(uid: u32) {
    sys!(SYS_setresuid, uid, uid, uid).unwrap();
}

fn users_have_their_best() {
    aside(|| {
        become_user(54_001);
        assert_eq!(get(USER, 54_001), Ok(BE | 4));
        set(USER, 54_001, BE | 7).unwrap();
        assert_eq!(own(), BE | 7);
        assert_eq!((get(USER, 54_001), get(USER, 0)), (Ok(BE | 7), Ok(BE | 7)));
        // To set, 0 is root.
        assert_eq!(set(USER, 0, BE | 7), Err(EPERM));
    });
}

fn rights() {
    let parent = getpid();
    aside(|| {
        become_user(54_002);
        assert_eq!(set(PROCESS, 0, RT), Err(EPERM));
        set(PROCESS, 0, BE).unwrap();
        set(PROCESS, 0, IDLE).unwrap();
        assert_eq!(set(PROCESS, parent, BE), Err(EPERM));
        assert_eq!(get(PROCESS, parent), Ok(0));
    });
    aside(|| {
        // With the same real user it is allowed, whatever the other rights are.
        sys!(SYS_setresuid, 0, 54_003, 54_003).unwrap();
        set(PROCESS, parent, BE | 5).unwrap();
    });
    assert_eq!(own(), BE | 5);
}
