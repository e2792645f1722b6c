//! eventfd(2).

use crate::prelude::*;

tests!(
    "eventfd":
    counts, semaphore, limits_and_errors, poll_states, blocking_read_and_write, flags_and_name,
);

fn eventfd(start: u32, flags: i32) -> i32 {
    sys!(SYS_eventfd2, start, flags).unwrap() as i32
}

fn get(fd: i32) -> Result<u64, Errno> {
    read_vec(fd, 8).map(|b| u64::from_ne_bytes(b.try_into().unwrap()))
}

fn put(fd: i32, v: u64) -> Result<usize, Errno> {
    write(fd, &v.to_ne_bytes())
}

fn counts() {
    let fd = eventfd(3, EFD_NONBLOCK);
    put(fd, 4).unwrap();
    assert_eq!(get(fd), Ok(7));
    assert_eq!(get(fd), Err(EAGAIN));
}

fn semaphore() {
    let fd = eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE);
    assert_eq!([get(fd), get(fd), get(fd)], [Ok(1), Ok(1), Err(EAGAIN)]);
}

fn limits_and_errors() {
    let fd = eventfd(0, EFD_NONBLOCK);
    assert_eq!(put(fd, u64::MAX), Err(EINVAL));
    assert_eq!(put(fd, u64::MAX - 1), Ok(8));
    assert_eq!(poll1(fd, POLLIN | POLLOUT, 0), POLLIN);
    assert_eq!(put(fd, 1), Err(EAGAIN));
    assert_eq!(put(fd, 0), Ok(8));
    assert_eq!(get(fd), Ok(u64::MAX - 1));
    assert_eq!(write(fd, b"short"), Err(EINVAL));
    assert_eq!(read_vec(fd, 7), Err(EINVAL));
    assert_eq!(sys!(SYS_eventfd2, 0, 2), Err(EINVAL));
    assert_eq!(sys!(SYS_write, fd, BAD, 8), Err(EFAULT));
    assert_eq!(seek(fd, 0, SEEK_SET), Ok(0));
}

fn poll_states() {
    let fd = eventfd(0, 0);
    assert_eq!(poll1(fd, POLLIN | POLLOUT, 0), POLLOUT);
    put(fd, 1).unwrap();
    assert_eq!(poll1(fd, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
}

fn blocking_read_and_write() {
    let fd = eventfd(0, 0);
    let c = child(|| {
        settle();
        put(fd, 5).unwrap();
    });
    assert_eq!(get(fd), Ok(5));
    c.ok();
    put(fd, u64::MAX - 1).unwrap();
    let c = child(|| {
        settle();
        assert_eq!(get(fd), Ok(u64::MAX - 1));
    });
    assert_eq!(put(fd, 6), Ok(8));
    c.ok();
    assert_eq!(get(fd), Ok(6));
}

fn flags_and_name() {
    let fd = eventfd(9, EFD_CLOEXEC);
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(1));
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(link.to_str().unwrap(), "anon_inode:[eventfd]");
    assert!(slurp(&format!("/proc/self/fdinfo/{fd}")).contains("eventfd-count:                9"));
}
