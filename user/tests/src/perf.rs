//! perf_event_open(2): counts of software events.

use crate::prelude::*;

tests!(
    "perf":
    counts_faults, counts_switches, clock_runs_while_the_task_does, a_disabled_event_counts_nothing,
    reset_keeps_the_times, group_is_read_together, members_wait_for_their_leader, children_are_counted_too,
    exec_enables, secure_programs_are_not_watched, another_process_is_measured, counts_on_a_cpu, sizes_of_the_structure, refused_arguments, refused_groups, no_rights,
    nothing_to_poll_for, unknown_requests, sources_in_sys,
);

/// `struct perf_event_attr` up to its first 112 bytes, as words.
pub type Attr = [u64; 14];

pub const SOFTWARE: u64 = 1;
const CLOCK: u64 = 1;
const FAULTS: u64 = 2;
const SWITCHES: u64 = 3;
const DUMMY: u64 = 9;

pub const DISABLED: u64 = 1;
const INHERIT: u64 = 2;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const ENABLE_ON_EXEC: u64 = 1 << 12;

const ENABLED: u64 = 1;
const RUNNING: u64 = 2;
const ID: u64 = 4;
const GROUP: u64 = 8;

pub const IOC_ENABLE: u32 = 0x2400;
pub const IOC_DISABLE: u32 = 0x2401;
pub const IOC_RESET: u32 = 0x2403;
const IOC_ID: u32 = 0x8008_2407;

pub fn attr(kind: u64, config: u64, flags: u64, read_format: u64) -> Attr {
    let mut attr = [0; 14];
    attr[0] = kind | (size_of::<Attr>() as u64) << 32;
    attr[1] = config;
    attr[4] = read_format;
    attr[5] = flags;
    attr
}

/// pid, CPU, group.
pub fn open_at(attr: &Attr, pid: i32, cpu: i32, group: i32) -> Result<i32, Errno> {
    sys!(SYS_perf_event_open, attr, pid, cpu, group, 8).map(|fd| fd as i32)
}

fn event(config: u64, flags: u64, read_format: u64) -> i32 {
    open_at(&attr(SOFTWARE, config, flags, read_format), 0, -1, -1).unwrap()
}

pub fn words(fd: i32, len: usize) -> Vec<u64> {
    let bytes = read_vec(fd, 8 * len).unwrap();
    bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

pub fn value(fd: i32) -> u64 {
    words(fd, 1)[0]
}

pub fn ioctl(fd: i32, cmd: u32, arg: usize) -> Result<usize, Errno> {
    sys!(SYS_ioctl, fd, cmd, arg)
}

/// Touches `nr` fresh pages.
fn touch(nr: usize) {
    let at = anon(nr * PAGE);
    sys!(SYS_madvise, at, nr * PAGE, MADV_NOHUGEPAGE).unwrap();
    for page in 0..nr {
        poke(at + page * PAGE, 1u8);
    }
    sys!(SYS_munmap, at, nr * PAGE).unwrap();
}

fn counts_faults() {
    let fd = event(FAULTS, EXCLUDE_KERNEL, 0);
    let before = value(fd);
    touch(50);
    let after = value(fd);
    assert!(after >= before + 50, "{before} {after}");
    let minor = event(5, 0, 0);
    touch(3);
    assert!(value(minor) >= 3);
}

fn counts_switches() {
    let fd = event(SWITCHES, 0, 0);
    nap(200);
    assert!(value(fd) >= 1);
    let user_only = event(SWITCHES, EXCLUDE_KERNEL, 0);
    nap(1);
    assert_eq!(value(user_only), 0);
}

fn clock_runs_while_the_task_does() {
    let fd = event(CLOCK, 0, ENABLED | RUNNING);
    let mut now = words(fd, 3);
    while now[0] < 2_000_000 {
        let later = words(fd, 3);
        assert!(later[0] >= now[0] && later[1] >= now[1]);
        now = later;
    }
    assert_eq!(now[1], now[2]);
    // A task that sleeps uses no CPU: the nap is longer than all that was used around it.
    let before = value_of_clock(fd);
    nap(300);
    assert!(value_of_clock(fd) - before < 250_000_000);
}

fn value_of_clock(fd: i32) -> u64 {
    words(fd, 3)[0]
}

fn a_disabled_event_counts_nothing() {
    let fd = event(FAULTS, DISABLED, ENABLED | RUNNING);
    touch(5);
    assert_eq!(words(fd, 3), [0, 0, 0]);
    ioctl(fd, IOC_ENABLE, 0).unwrap();
    touch(5);
    ioctl(fd, IOC_DISABLE, 0).unwrap();
    let now = words(fd, 3);
    assert!(now[0] >= 5 && now[1] > 0);
    touch(5);
    assert_eq!(words(fd, 3), now);
}

fn reset_keeps_the_times() {
    let fd = event(FAULTS, 0, ENABLED);
    touch(5);
    ioctl(fd, IOC_DISABLE, 0).unwrap();
    let now = words(fd, 2);
    ioctl(fd, IOC_RESET, 0).unwrap();
    assert_eq!(words(fd, 2), [0, now[1]]);
}

fn group_is_read_together() {
    let leader = event(DUMMY, 0, GROUP | ID | ENABLED);
    let faults = attr(SOFTWARE, FAULTS, 0, GROUP | ID | ENABLED);
    let member = open_at(&faults, 0, -1, leader).unwrap();
    touch(4);
    let mut ids = [0u64; 2];
    ioctl(leader, IOC_ID, ids.as_mut_ptr() as usize).unwrap();
    ioctl(member, IOC_ID, ids[1..].as_mut_ptr() as usize).unwrap();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(read_vec(leader, 8 * 5), Err(Errno::ENOSPC));
    let read = words(leader, 16);
    assert_eq!(read.len(), 6);
    assert_eq!((read[0], read[2], read[3], read[5]), (2, 0, ids[0], ids[1]));
    assert!(read[1] > 0 && read[4] >= 4);
    close(member);
    assert_eq!(words(leader, 16).len(), 4);
}

fn members_wait_for_their_leader() {
    let leader = event(DUMMY, DISABLED, 0);
    let member = open_at(&attr(SOFTWARE, FAULTS, 0, 0), 0, -1, leader).unwrap();
    touch(4);
    assert_eq!(value(member), 0);
    ioctl(leader, IOC_ENABLE, 0).unwrap();
    touch(4);
    assert!(value(member) >= 4);
    ioctl(member, IOC_DISABLE, 1).unwrap();
    let now = value(member);
    touch(4);
    assert_eq!(value(member), now);
}

fn children_are_counted_too() {
    let all = event(FAULTS, INHERIT, 0);
    let own = event(FAULTS, 0, 0);
    let (all_before, own_before) = (value(all), value(own));
    child(|| {
        child(|| touch(300)).ok();
        touch(300);
    })
    .ok();
    let (all, own) = (value(all) - all_before, value(own) - own_before);
    assert!(all >= own + 600, "{all} {own}");
}

fn exec_enables() {
    let (read_end, write_end) = pipe();
    let c = child(|| {
        read_vec(read_end, 1).unwrap();
        let (path, arg) = (cstr("/proc/self/exe"), cstr("list"));
        let argv = [path.as_ptr() as usize, arg.as_ptr() as usize, 0];
        let null = open(&cstr("/dev/null"), O_WRONLY).unwrap();
        sys!(SYS_dup2, null, 1).unwrap();
        sys!(SYS_execve, &path, &argv, 0).unwrap();
    });
    let flags = DISABLED | ENABLE_ON_EXEC;
    let fd = open_at(&attr(SOFTWARE, FAULTS, flags, 0), c.0, -1, -1).unwrap();
    assert_eq!(value(fd), 0);
    write(write_end, b"x").unwrap();
    c.ok();
    assert!(value(fd) > 0);
}

fn secure_programs_are_not_watched() {
    let mut fs = [0u64; 15]; // struct statfs; its f_flags is private in libc
    sys!(SYS_statfs, &cstr(dir()), &mut fs).unwrap();
    if fs[10] & ST_NOSUID != 0 {
        skip("the folder is mounted nosuid");
    }
    let program = file("suid", &std::fs::read("/proc/self/exe").unwrap());
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    let run = |mode: u32| {
        sys!(SYS_chmod, &program, mode).unwrap();
        let (read_end, write_end) = pipe();
        let c = child(|| {
            read_vec(read_end, 1).unwrap();
            drop_root();
            let arg = cstr("list");
            let argv = [program.as_ptr() as usize, arg.as_ptr() as usize, 0];
            let null = open(&cstr("/dev/null"), O_WRONLY).unwrap();
            sys!(SYS_dup2, null, 1).unwrap();
            sys!(SYS_execve, &program, &argv, 0).unwrap();
        });
        let flags = DISABLED | ENABLE_ON_EXEC;
        let fd = open_at(&attr(SOFTWARE, FAULTS, flags, 0), c.0, -1, -1).unwrap();
        write(write_end, b"x").unwrap();
        c.ok();
        value(fd)
    };
    assert!(run(0o755) > 0);
    assert_eq!(run(0o4755), 0, "set-user-ID root");
    assert_eq!(run(0o711), 0, "unreadable");
}

fn another_process_is_measured() {
    let (read_end, write_end) = pipe();
    let c = child(|| {
        read_vec(read_end, 1).unwrap();
        touch(20);
    });
    let fd = open_at(&attr(SOFTWARE, FAULTS, 0, 0), c.0, -1, -1).unwrap();
    write(write_end, b"x").unwrap();
    c.ok();
    let now = value(fd);
    assert!(now >= 20);
    touch(20);
    assert_eq!(value(fd), now);
    // There is nobody of that number any more.
    assert_eq!(open_at(&attr(SOFTWARE, FAULTS, 0, 0), 0x3fff_fff0, -1, -1), Err(ESRCH));
}

fn counts_on_a_cpu() {
    let fd = open_at(&attr(SOFTWARE, 0, 0, ENABLED | RUNNING), -1, 0, -1).unwrap();
    nap(5);
    let now = words(fd, 3);
    assert!(now[0] >= 5_000_000 && now[1] == now[2], "{now:?}");
    let switches = open_at(&attr(SOFTWARE, SWITCHES, 0, 0), -1, 0, -1).unwrap();
    let mask = 1u64;
    sys!(SYS_sched_setaffinity, 0, 8, &mask).unwrap();
    nap(1);
    nap(1);
    assert!(value(switches) >= 2);
}

fn sizes_of_the_structure() {
    let mut small = attr(SOFTWARE, DUMMY, 0, 0);
    small[0] = SOFTWARE | 63 << 32;
    assert_eq!(open_at(&small, 0, -1, -1), Err(E2BIG));
    // Read as memory: the compiler does not know that the kernel wrote to it.
    assert!(sys::peek64(&raw const small as usize) >> 32 >= 112);
    // 0 stands for the first published size.
    small[0] = SOFTWARE;
    open_at(&small, 0, -1, -1).unwrap();
    // A future field that is not 0.
    let mut large = [0u64; 32];
    large[0] = SOFTWARE | 256 << 32;
    large[1] = DUMMY;
    sys!(SYS_perf_event_open, &large, 0, -1, -1, 8).unwrap();
    large[31] = 1;
    assert_eq!(sys!(SYS_perf_event_open, &large, 0, -1, -1, 8), Err(E2BIG));
    large[0] = SOFTWARE | 4097 << 32;
    assert_eq!(sys!(SYS_perf_event_open, &large, 0, -1, -1, 8), Err(E2BIG));
    assert_eq!(sys!(SYS_perf_event_open, BAD, 0, -1, -1, 8), Err(EFAULT));
}

fn refused_arguments() {
    let open = |change: fn(&mut Attr)| {
        let mut attr = attr(SOFTWARE, DUMMY, 0, 0);
        change(&mut attr);
        open_at(&attr, 0, -1, -1)
    };
    assert_eq!(open(|a| a[1] = 99), Err(ENOENT));
    assert_eq!(open(|a| a[0] |= 77), Err(ENOENT));
    assert_eq!(open(|a| a[3] = 1 << 60), Err(EINVAL));
    assert_eq!(open(|a| a[4] = 1 << 20), Err(EINVAL));
    assert_eq!(open(|a| a[5] = 1 << 63), Err(EINVAL));
    assert_eq!(open(|a| a[5] = 1 << 37), Err(EINVAL)); // a trap that outlives execve(2)
    let dummy = attr(SOFTWARE, DUMMY, 0, 0);
    assert_eq!(open_at(&dummy, -1, -1, -1), Err(EINVAL));
    assert_eq!(open_at(&dummy, 0, 4000, -1), Err(EINVAL));
    assert_eq!(open_at(&dummy, -2, -1, -1), Err(ESRCH));
    assert_eq!(sys!(SYS_perf_event_open, &dummy, 0, -1, -1, 1 << 20), Err(EINVAL));
    assert_eq!(sys!(SYS_perf_event_open, &dummy, -1, 0, -1, 4), Err(EINVAL));
}

fn refused_groups() {
    let dummy = attr(SOFTWARE, DUMMY, 0, 0);
    assert_eq!(open_at(&dummy, 0, -1, 999), Err(EBADF));
    let (pipe_end, _other) = pipe();
    assert_eq!(open_at(&dummy, 0, -1, pipe_end), Err(EBADF));
    let leader = open_at(&dummy, 0, -1, -1).unwrap();
    let member = open_at(&dummy, 0, -1, leader).unwrap();
    assert_eq!(open_at(&dummy, 0, -1, member), Err(EINVAL));
    assert_eq!(open_at(&dummy, 0, 0, leader), Err(EINVAL));
    assert_eq!(open_at(&dummy, -1, 0, leader), Err(EINVAL));
    assert_eq!(open_at(&attr(SOFTWARE, DUMMY, INHERIT, 0), 0, -1, leader), Err(EINVAL));
    // pinned
    assert_eq!(open_at(&attr(SOFTWARE, DUMMY, 4, 0), 0, -1, leader), Err(EINVAL));
}

fn no_rights() {
    child(|| {
        drop_root();
        assert_eq!(open_at(&attr(SOFTWARE, DUMMY, 0, 0), 0, -1, -1), Err(EACCES));
        assert_eq!(open_at(&attr(SOFTWARE, DUMMY, EXCLUDE_KERNEL, 0), 1, -1, -1), Err(EACCES));
        assert_eq!(open_at(&attr(SOFTWARE, DUMMY, EXCLUDE_KERNEL, 0), -1, 0, -1), Err(EACCES));
    })
    .ok();
}

fn nothing_to_poll_for() {
    assert_eq!(poll1(event(DUMMY, 0, 0), POLLIN, 0), POLLHUP);
}

fn unknown_requests() {
    let fd = event(DUMMY, 0, 0);
    assert_eq!(ioctl(fd, 0x24ff, 0), Err(ENOTTY));
    let period = 7u64;
    assert_eq!(ioctl(fd, 0x4008_2404, &raw const period as usize), Err(EINVAL));
    assert_eq!(ioctl(fd, 0x4008_2404, BAD), Err(EFAULT));
    assert_eq!(ioctl(fd, 0x2402, 1), Err(EINVAL));
    assert_eq!(ioctl(fd, 0x2405, usize::MAX), Ok(0));
    assert_eq!(ioctl(fd, IOC_ID, BAD), Err(EFAULT));
    assert_eq!(seek(fd, 0, SEEK_SET), Err(ESPIPE));
    assert_eq!(write(fd, b"x"), Err(EINVAL));
}

fn sources_in_sys() {
    assert_eq!(slurp("/sys/bus/event_source/devices/software/type"), "1\n");
    assert!(slurp("/proc/sys/kernel/perf_event_paranoid").trim().parse::<i32>().is_ok());
}
