//! Pseudo-terminals: line discipline, termios, window size, hang-up.

use crate::prelude::*;
use crate::sys::Plain;

tests!(
    "tty":
    default_settings, echo_and_newline_translation, canonical_lines, editing_keys, erase_echo, end_of_file_key,
    raw_mode_min_and_time, vtime_between_characters, nonblocking_slave, output_flags, input_flags,
    flush_discards, flow_control, window_size, queue_sizes, closing_the_master_hangs_up,
    closing_the_slave_is_eio_for_the_master, names_locks_and_peers, not_a_terminal, long_lines_are_bounded,
    dev_tty_without_terminal, old_requests, settings_can_be_locked, many_pairs,
);

/// The kernel's struct termios.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; 19],
}
impl Plain for Termios {}

/// (master, slave) of a new pair; the slave does not become the controlling terminal.
pub fn openpty() -> (i32, i32) {
    let m = open(&cstr("/dev/ptmx"), O_RDWR | O_NOCTTY).unwrap();
    sys!(SYS_ioctl, m, TIOCSPTLCK, &0i32).unwrap();
    let s = open(&slave_path(m), O_RDWR | O_NOCTTY).unwrap();
    (m, s)
}

pub fn slave_path(m: i32) -> std::ffi::CString {
    let mut n = 0i32;
    sys!(SYS_ioctl, m, TIOCGPTN, &mut n).unwrap();
    cstr(format!("/dev/pts/{n}"))
}

pub fn get(fd: i32) -> Termios {
    let mut t: Termios = zero();
    sys!(SYS_ioctl, fd, TCGETS, &mut t).unwrap();
    t
}

/// Changes the settings at once.
pub fn change(fd: i32, f: impl FnOnce(&mut Termios)) {
    let mut t = get(fd);
    f(&mut t);
    sys!(SYS_ioctl, fd, TCSETS, &t).unwrap();
}

/// No echo, no output translation: what tests of the input side want.
fn quiet(fd: i32) {
    change(fd, |t| {
        t.lflag &= !ECHO;
        t.oflag = 0;
    });
}

fn text(fd: i32) -> String {
    String::from_utf8(read_vec(fd, 1000).unwrap()).unwrap()
}

/// Reads from a master as much as `expected` has: Linux may hand echo and output over in pieces.
fn expect(fd: i32, expected: &str) {
    let mut found = String::new();
    while found.len() < expected.len() && poll1(fd, POLLIN, 5000) & POLLIN != 0 {
        found.push_str(&text(fd));
    }
    assert_eq!(found, expected);
}

/// What can be read at once, "" for nothing.
fn available(fd: i32) -> String {
    if poll1(fd, POLLIN, 50) & POLLIN == 0 { String::new() } else { text(fd) }
}

fn default_settings() {
    let (_m, s) = openpty();
    let t = get(s);
    assert_eq!((t.iflag, t.oflag), (ICRNL | IXON, OPOST | ONLCR));
    assert_eq!(t.cflag, B38400 | CS8 | CREAD);
    assert_eq!(t.lflag, ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN);
    assert_eq!(t.cc[..11], [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26]);
}

fn echo_and_newline_translation() {
    let (m, s) = openpty();
    write(m, b"hi\r").unwrap();
    expect(m, "hi\r\n"); // ICRNL, then echo with ONLCR
    assert_eq!(text(s), "hi\n");
    write(s, b"out\n").unwrap();
    expect(m, "out\r\n");
    change(s, |t| t.lflag &= !ECHO);
    write(m, b"x\n").unwrap();
    assert_eq!(available(m), "");
    assert_eq!(text(s), "x\n");
}

fn canonical_lines() {
    let (m, s) = openpty();
    quiet(s);
    write(m, b"no newline yet").unwrap();
    assert_eq!(available(s), "");
    write(m, b"\none\ntwo\n").unwrap();
    assert_eq!(text(s), "no newline yet\n");
    assert_eq!(read_vec(s, 2).unwrap(), b"on");
    assert_eq!(text(s), "e\n");
    assert_eq!(text(s), "two\n");
}

fn editing_keys() {
    let (m, s) = openpty();
    quiet(s);
    write(m, b"abcx\x7fd\n").unwrap();
    assert_eq!(text(s), "abcd\n");
    write(m, b"gone\x15kept\n").unwrap();
    assert_eq!(text(s), "kept\n");
    write(m, b"one two\x17three\n").unwrap();
    assert_eq!(text(s), "one three\n");
    write(m, b"\x7f\x7fa\n").unwrap();
    assert_eq!(text(s), "a\n");
    write(m, b"q\x16\x03\n").unwrap();
    assert_eq!(text(s), "q\x03\n", "VLNEXT takes the next one as it is");
}

fn erase_echo() {
    let (m, s) = openpty();
    write(m, b"ab\x7f").unwrap();
    expect(m, "ab\x08 \x08");
    write(m, b"\x01\x7f").unwrap();
    expect(m, "^A\x08 \x08\x08 \x08"); // two columns for a control character
    write(m, b"\x15").unwrap();
    expect(m, "\x08 \x08");
    let _ = s;
}

fn end_of_file_key() {
    let (m, s) = openpty();
    quiet(s);
    write(m, b"\x04").unwrap();
    assert_eq!(text(s), "");
    write(m, b"abc\x04").unwrap();
    assert_eq!(text(s), "abc", "a line without newline");
    write(m, b"x\n").unwrap();
    assert_eq!(text(s), "x\n");
}

fn raw_mode_min_and_time() {
    let (m, s) = openpty();
    change(s, |t| {
        t.lflag &= !(ICANON | ECHO | ISIG);
        t.cc[VMIN] = 1;
        t.cc[VTIME] = 0;
    });
    write(m, b"\x03a").unwrap();
    assert_eq!(text(s), "\x03a");
    change(s, |t| t.cc[VMIN] = 0);
    assert_eq!(text(s), "", "VMIN 0, VTIME 0: at once");
    change(s, |t| t.cc[VTIME] = 1);
    let (took, got) = timed(|| text(s));
    assert_eq!(got, "");
    assert!(took >= 90, "{took}");
    change(s, |t| {
        t.cc[VMIN] = 3;
        t.cc[VTIME] = 0;
    });
    let c = child(|| {
        write(m, b"12").unwrap();
        settle();
        write(m, b"3").unwrap();
    });
    assert_eq!(text(s), "123");
    c.ok();
}

fn vtime_between_characters() {
    let (m, s) = openpty();
    change(s, |t| {
        t.lflag &= !(ICANON | ECHO);
        t.cc[VMIN] = 10;
        t.cc[VTIME] = 1;
    });
    write(m, b"ab").unwrap();
    let (took, got) = timed(|| text(s));
    assert_eq!(got, "ab");
    assert!(took >= 90, "{took}");
}

fn nonblocking_slave() {
    let (m, s) = openpty();
    sys!(SYS_fcntl, s, F_SETFL, O_NONBLOCK).unwrap();
    assert_eq!(read_vec(s, 1), Err(EAGAIN));
    write(m, b"part").unwrap();
    assert_eq!(read_vec(s, 1), Err(EAGAIN));
    assert_eq!(poll1(s, POLLIN | POLLOUT, 0), POLLOUT);
    write(m, b"\n").unwrap();
    assert_eq!(poll1(s, POLLIN | POLLOUT, 200), POLLIN | POLLOUT);
}

fn output_flags() {
    let (m, s) = openpty();
    change(s, |t| t.oflag = OPOST | OCRNL);
    write(s, b"a\rb").unwrap();
    expect(m, "a\nb");
    change(s, |t| t.oflag = ONLCR);
    write(s, b"a\n").unwrap();
    expect(m, "a\n"); // nothing without OPOST
    change(s, |t| t.oflag = OPOST | XTABS);
    write(s, b"ab\tc").unwrap();
    let mut found = String::new();
    while !found.ends_with('c') {
        found.push_str(&text(m));
    }
}

fn input_flags() {
    let (m, s) = openpty();
    quiet(s);
    change(s, |t| t.iflag = INLCR | IGNCR);
    write(m, b"a\rb\x04").unwrap();
    assert_eq!(text(s), "ab");
    change(s, |t| t.iflag = ISTRIP | IUCLC);
    write(m, b"\xc1B\n").unwrap();
    assert_eq!(text(s), "ab\n");
}

fn flush_discards() {
    let (m, s) = openpty();
    quiet(s);
    write(m, b"typed\n").unwrap();
    settle();
    sys!(SYS_ioctl, s, TCFLSH, TCIFLUSH).unwrap();
    assert_eq!(available(s), "");
    assert_eq!(sys!(SYS_ioctl, s, TCFLSH, 99), Err(EINVAL));
    write(m, b"lost\n").unwrap();
    settle();
    let t = get(s);
    sys!(SYS_ioctl, s, TCSETSF, &t).unwrap();
    assert_eq!(available(s), "");
}

fn flow_control() {
    let (m, s) = openpty();
    quiet(s);
    sys!(SYS_ioctl, s, TCXONC, TCOOFF).unwrap();
    sys!(SYS_fcntl, s, F_SETFL, O_NONBLOCK).unwrap();
    assert_eq!(write(s, b"held"), Err(EAGAIN));
    sys!(SYS_ioctl, s, TCXONC, TCOON).unwrap();
    assert_eq!(write(s, b"now"), Ok(3));
    expect(m, "now");
    write(m, b"\x13").unwrap();
    settle();
    assert_eq!(write(s, b"held"), Err(EAGAIN));
    write(m, b"\x11").unwrap();
    settle();
    assert_eq!(write(s, b"x"), Ok(1));
}

fn window_size() {
    let (m, s) = openpty();
    let mut w: winsize = zero();
    sys!(SYS_ioctl, s, TIOCGWINSZ, &mut w).unwrap();
    assert_eq!((w.ws_row, w.ws_col), (0, 0));
    let new = winsize { ws_row: 25, ws_col: 80, ws_xpixel: 1, ws_ypixel: 2 };
    sys!(SYS_ioctl, m, TIOCSWINSZ, &new).unwrap();
    sys!(SYS_ioctl, s, TIOCGWINSZ, &mut w).unwrap();
    assert_eq!((w.ws_row, w.ws_col, w.ws_ypixel), (25, 80, 2));
    assert_eq!(sys!(SYS_ioctl, s, TIOCGWINSZ, BAD), Err(EFAULT));
}

fn queue_sizes() {
    let (m, s) = openpty();
    quiet(s);
    write(m, b"12345\nab").unwrap();
    settle();
    let mut n = 0i32;
    sys!(SYS_ioctl, s, FIONREAD, &mut n).unwrap();
    assert_eq!(n, 6, "complete lines only");
    sys!(SYS_ioctl, s, TIOCOUTQ, &mut n).unwrap();
    write(s, b"abc").unwrap();
    settle();
    sys!(SYS_ioctl, m, FIONREAD, &mut n).unwrap();
    assert_eq!(n, 3);
}

fn closing_the_master_hangs_up() {
    let (m, s) = openpty();
    write(m, b"left\n").unwrap();
    settle();
    close(m);
    assert_eq!(read_vec(s, 10).map(|v| v.is_empty() || v == b"left\n"), Ok(true));
    assert_eq!(read_vec(s, 10).unwrap(), b"");
    assert_eq!(write(s, b"x"), Err(EIO));
    assert_eq!(poll1(s, POLLIN | POLLOUT, 0) & POLLHUP, POLLHUP);
}

fn closing_the_slave_is_eio_for_the_master() {
    let (m, s) = openpty();
    write(s, b"bye").unwrap();
    let name = slave_path(m);
    close(s);
    expect(m, "bye");
    assert_eq!(read_vec(m, 1), Err(EIO));
    assert_eq!(poll1(m, POLLIN, 0) & POLLHUP, POLLHUP);
    let s = open(&name, O_RDWR | O_NOCTTY).unwrap();
    write(s, b"again").unwrap();
    expect(m, "again");
}

fn names_locks_and_peers() {
    let m = open(&cstr("/dev/ptmx"), O_RDWR | O_NOCTTY).unwrap();
    let name = slave_path(m);
    assert_eq!(open(&name, O_RDWR | O_NOCTTY), Err(EIO), "locked until TIOCSPTLCK");
    sys!(SYS_ioctl, m, TIOCSPTLCK, &0i32).unwrap();
    let s = sys!(SYS_ioctl, m, TIOCGPTPEER, O_RDWR | O_NOCTTY).unwrap() as i32;
    let st = fstat(s);
    assert_eq!((st.st_mode & S_IFMT, st.st_rdev >> 8), (S_IFCHR, 136));
    assert_eq!(stat_path(&name).unwrap().st_ino, st.st_ino);
    close(s);
    close(m);
    assert_eq!(stat_path(&name).err(), Some(ENOENT));
}

fn not_a_terminal() {
    let fd = new_file("f");
    for request in [TCGETS, TIOCGWINSZ, TIOCGPGRP, TIOCSCTTY] {
        assert_eq!(sys!(SYS_ioctl, fd, request, 0), Err(ENOTTY));
    }
    assert_eq!(sys!(SYS_ioctl, 999, TCGETS, 0), Err(EBADF));
    let (m, s) = openpty();
    assert_eq!(sys!(SYS_ioctl, s, TIOCGPTN, &mut 0i32), Err(ENOTTY));
    assert_eq!(sys!(SYS_ioctl, m, 0x5fff, 0), Err(ENOTTY));
    assert_eq!(seek(s, 0, SEEK_CUR), Err(ESPIPE));
}

fn long_lines_are_bounded() {
    let (m, s) = openpty();
    quiet(s);
    sys!(SYS_fcntl, m, F_SETFL, O_NONBLOCK).unwrap();
    let mut sent = 0;
    while sent < 10_000 {
        match write(m, &[b'x'; 500]) {
            Ok(n) => sent += n,
            Err(e) => {
                assert_eq!(e, EAGAIN);
                break;
            }
        }
        nap(1);
    }
    nap(50);
    sys!(SYS_fcntl, m, F_SETFL, 0).unwrap();
    write(m, b"\n").unwrap();
    let mut total = 0;
    loop {
        let part = read_vec(s, 8000).unwrap();
        total += part.len();
        if part.ends_with(b"\n") {
            break;
        }
    }
    assert!(total <= 4096, "a line holds at most 4096 bytes: {total}");
}

fn dev_tty_without_terminal() {
    aside(|| {
        sys!(SYS_setsid).unwrap();
        assert_eq!(open(&cstr("/dev/tty"), O_RDWR), Err(ENXIO));
    });
}

/// `struct termio` holds the lower halves of the flags and eight control characters.
fn old_requests() {
    const TCGETA: c_ulong = 0x5405;
    const TCSETA: c_ulong = 0x5406;
    let (m, s) = openpty();
    let mut old = [0u16; 9];
    sys!(SYS_ioctl, s, TCGETA, &mut old).unwrap();
    let mut t: Termios = zero();
    sys!(SYS_ioctl, s, TCGETS, &mut t).unwrap();
    assert_eq!((u32::from(old[0]), u32::from(old[3])), (t.iflag & 0xffff, t.lflag & 0xffff));
    assert_eq!((old[4] >> 8) as u8, t.cc[0]);
    old[3] &= !(ECHO as u16);
    sys!(SYS_ioctl, s, TCSETA, &old).unwrap();
    let mut new: Termios = zero();
    sys!(SYS_ioctl, s, TCGETS, &mut new).unwrap();
    assert_eq!(new.lflag, t.lflag & !ECHO);
    assert_eq!((new.cflag, new.cc), (t.cflag, t.cc), "the rest stays");
    close(s);
    close(m);
}

fn settings_can_be_locked() {
    let (m, s) = openpty();
    let mut locked: Termios = zero();
    locked.lflag = ECHO;
    locked.cc[VINTR] = 1;
    sys!(SYS_ioctl, s, TIOCSLCKTRMIOS, &locked).unwrap();
    let mut t: Termios = zero();
    sys!(SYS_ioctl, s, TCGETS, &mut t).unwrap();
    let before = t;
    t.lflag &= !(ECHO | ICANON);
    (t.cc[VINTR], t.cc[VQUIT]) = (7, 8);
    sys!(SYS_ioctl, s, TCSETS, &t).unwrap();
    sys!(SYS_ioctl, s, TCGETS, &mut t).unwrap();
    assert_eq!(t.lflag, before.lflag & !ICANON);
    assert_eq!((t.cc[VINTR], t.cc[VQUIT]), (before.cc[VINTR], 8));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_ioctl, s, TIOCSLCKTRMIOS, &locked), Err(EPERM));
    });
    close(s);
    close(m);
}

/// Numbers above 255 are minor numbers of the same major one.
fn many_pairs() {
    let masters: Vec<i32> = (0..300).map(|_| open(&cstr("/dev/ptmx"), O_RDWR | O_NOCTTY).unwrap()).collect();
    for &m in &masters[250..] {
        sys!(SYS_ioctl, m, TIOCSPTLCK, &0i32).unwrap();
        let s = open(&slave_path(m), O_RDWR | O_NOCTTY).unwrap();
        let device = fstat(s).st_rdev;
        assert_eq!(major(device), 136);
        close(s);
    }
    masters.into_iter().for_each(close);
}
