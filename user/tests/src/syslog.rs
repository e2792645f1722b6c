//! syslog(2), /dev/kmsg's position after a clear, and /proc/sys/kernel/{printk,dmesg_restrict}.

use crate::prelude::*;

tests!(
    "syslog":
    bad_arguments, what_is_written_is_read_until_cleared, seek_data_goes_to_the_mark, console_level,
    restricted_to_root,
);

const READ_ALL: i32 = 3;
const READ_CLEAR: i32 = 4;
const CLEAR: i32 = 5;
const CONSOLE_OFF: i32 = 6;
const CONSOLE_ON: i32 = 7;
const CONSOLE_LEVEL: i32 = 8;
const SIZE_BUFFER: i32 = 10;

fn syslog(action: i32, buf: usize, len: i32) -> Result<usize, Errno> {
    sys!(SYS_syslog, action, buf, len)
}

/// What action `action` gives.
fn text(action: i32) -> String {
    let mut buf = vec![0u8; syslog(SIZE_BUFFER, 0, 0).unwrap() + 4096];
    let len = syslog(action, buf.as_mut_ptr() as usize, buf.len() as i32).unwrap();
    buf.truncate(len);
    String::from_utf8_lossy(&buf).into_owned()
}

fn log(message: &str) {
    let fd = open(&cstr("/dev/kmsg"), O_WRONLY).unwrap();
    // Without a newline Linux waits for the rest of the line.
    write(fd, format!("{message}\n").as_bytes()).unwrap();
    close(fd);
}

fn set_sysctl(path: &str, value: &str) {
    let fd = open(&cstr(path), O_WRONLY).unwrap();
    write(fd, value.as_bytes()).unwrap();
    close(fd);
}

fn bad_arguments() {
    let buf = anon(PAGE);
    assert_eq!(syslog(11, buf, 10), Err(EINVAL));
    assert_eq!(syslog(-1, buf, 10), Err(EINVAL));
    assert_eq!(syslog(READ_ALL, 0, 10), Err(EINVAL));
    assert_eq!(syslog(READ_ALL, buf, -1), Err(EINVAL));
    assert_eq!(syslog(READ_ALL, buf, 0), Ok(0));
    assert_eq!(syslog(CONSOLE_LEVEL, 0, 0), Err(EINVAL));
    assert_eq!(syslog(CONSOLE_LEVEL, 0, 9), Err(EINVAL));
    log("<6>keel: something to read");
    assert_eq!(syslog(READ_ALL, BAD, PAGE as i32), Err(EFAULT));
}

fn what_is_written_is_read_until_cleared() {
    log("<5>keel: first token");
    log("<5>keel: second token");
    let all = text(READ_ALL);
    assert!(all.contains("keel: first token\n") && all.contains("keel: second token\n"), "{all}");
    // 5 with the facility of user programs.
    assert!(all.lines().any(|l| l.starts_with("<13>[") && l.ends_with("] keel: second token")), "{all}");
    let mut small = [0u8; 80];
    let len = syslog(READ_ALL, small.as_mut_ptr() as usize, 80).unwrap();
    assert!(len < 80 && small.starts_with(b"<"), "whole records, the newest");
    assert!(text(READ_CLEAR).contains("first token"));
    assert!(!text(READ_ALL).contains("first token"));
    log("<5>keel: third token");
    assert!(text(READ_ALL).contains("third token"));
    assert_eq!(syslog(CLEAR, 0, 0), Ok(0));
    assert!(!text(READ_ALL).contains("third token"));
}

fn seek_data_goes_to_the_mark() {
    log("<5>keel: before the mark");
    syslog(CLEAR, 0, 0).unwrap();
    log("<5>keel: after the mark");
    let fd = open(&cstr("/dev/kmsg"), O_RDONLY | O_NONBLOCK).unwrap();
    assert_eq!(seek(fd, 0, SEEK_DATA), Ok(0));
    let mut seen = String::new();
    while let Ok(record) = read_vec(fd, 8192) {
        seen += &String::from_utf8_lossy(&record);
    }
    assert!(seen.contains("after the mark") && !seen.contains("before the mark"), "{seen}");
}

fn console_level() {
    let printk = || slurp("/proc/sys/kernel/printk");
    let level = || printk().split_whitespace().next().map(str::to_owned).unwrap();
    let before = printk();
    assert_eq!(syslog(CONSOLE_LEVEL, 0, 5), Ok(0));
    assert_eq!(level(), "5");
    assert_eq!(syslog(CONSOLE_OFF, 0, 0), Ok(0));
    let lowest = before.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(level(), lowest);
    assert_eq!(syslog(CONSOLE_ON, 0, 0), Ok(0));
    assert_eq!(level(), "5");
    set_sysctl("/proc/sys/kernel/printk", "6 4");
    assert!(printk().starts_with("6\t4\t"));
    set_sysctl("/proc/sys/kernel/printk", &before);
    assert_eq!(printk(), before);
}

fn restricted_to_root() {
    let path = "/proc/sys/kernel/dmesg_restrict";
    let before = slurp(path);
    for restrict in ["0", "1"] {
        set_sysctl(path, restrict);
        let expected = if restrict == "0" { Ok(0) } else { Err(EPERM) };
        aside(|| {
            drop_root();
            let buf = anon(PAGE);
            assert_eq!(syslog(READ_ALL, buf, 0), expected);
            assert_eq!(syslog(SIZE_BUFFER, 0, 0).is_ok(), expected.is_ok());
            assert_eq!(syslog(CLEAR, 0, 0), Err(EPERM));
            assert_eq!(syslog(CONSOLE_LEVEL, 0, 5), Err(EPERM));
            assert_eq!(syslog(11, 0, 0), Err(EPERM), "permission comes first");
        });
    }
    set_sysctl(path, &before);
}
