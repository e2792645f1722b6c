//! Words that many tests need: children, files, pipes, clocks, signals.

use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::*;
use nix::errno::Errno;

use crate::sys;
use crate::sys::{Res, SigInfo, exit, zero};

/// How a process ended or stopped, decoded from wait4(2)'s status.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Status {
    Exit(i32),
    Signal(i32),
    Stopped(i32),
    Continued,
}

/// Decodes a wait status; the core-dump bit is ignored, since it depends on limits.
pub fn decode(status: i32) -> Status {
    match status {
        0xffff => Status::Continued,
        s if s & 0xff == 0x7f => Status::Stopped(s >> 8 & 0xff),
        s if s & 0x7f == 0 => Status::Exit(s >> 8 & 0xff),
        s => Status::Signal(s & 0x7f),
    }
}

/// A child process that the test must wait for.
#[derive(Debug, Clone, Copy)]
pub struct Child(pub i32);

/// Runs `f` in a child that exits with 0, or with 101 when `f` panics.
pub fn child(f: impl FnOnce()) -> Child {
    child_code(|| {
        f();
        0
    })
}

/// Runs `f` in a child that exits with its result.
pub fn child_code(f: impl FnOnce() -> i32) -> Child {
    match sys::fork().unwrap() {
        0 => exit(f()),
        pid => Child(pid),
    }
}

impl Child {
    #[track_caller]
    pub fn wait(self) -> Status {
        self.wait_for(0).expect("the child")
    }
    /// wait4(2) with `options`; `None` when WNOHANG found nothing.
    #[track_caller]
    pub fn wait_for(self, options: i32) -> Option<Status> {
        let mut status = 0;
        loop {
            match sys!(SYS_wait4, self.0, &mut status, options, 0) {
                Err(Errno::EINTR) => continue,
                r => {
                    let pid = r.unwrap();
                    return (pid != 0).then(|| decode(status));
                }
            }
        }
    }
    #[track_caller]
    pub fn ok(self) {
        assert_eq!(self.wait(), Status::Exit(0));
    }
    #[track_caller]
    pub fn kill(self, sig: i32) {
        sys!(SYS_kill, self.0, sig).unwrap();
    }
}

/// Runs `f` in a child and returns how it ended.
#[track_caller]
pub fn fate(f: impl FnOnce()) -> Status {
    child(f).wait()
}

/// Runs `f` in a child, which must not fail: for changes that cannot be taken back (user, limits).
#[track_caller]
pub fn aside(f: impl FnOnce()) {
    child(f).ok();
}

/// Drops a result that does not matter to the test.
pub fn ignore<T>(_: T) {}

/// The C string of `s`.
pub fn cstr(s: impl Into<Vec<u8>>) -> CString {
    CString::new(s).unwrap()
}

/// The folder of this test, made on first use; the harness removes it after the test.
pub fn dir() -> String {
    let path = crate::harness::scratch();
    let _ = std::fs::create_dir(&path);
    path
}

/// A path in the test's folder.
pub fn path(name: &str) -> CString {
    cstr(format!("{}/{name}", dir()))
}

#[track_caller]
pub fn open(path: &CString, flags: i32) -> Res<i32> {
    sys!(SYS_openat, AT_FDCWD, path, flags, 0o644).map(|fd| fd as i32)
}

/// Makes the file `name` with `data` in the test's folder and returns its path.
#[track_caller]
pub fn file(name: &str, data: &[u8]) -> CString {
    let p = path(name);
    let fd = open(&p, O_CREAT | O_TRUNC | O_RDWR).unwrap();
    assert_eq!(write(fd, data), Ok(data.len()));
    close(fd);
    p
}

/// Opens a new empty file `name` for reading and writing.
#[track_caller]
pub fn new_file(name: &str) -> i32 {
    open(&path(name), O_CREAT | O_EXCL | O_RDWR).unwrap()
}

#[track_caller]
pub fn mkdir(name: &str) -> CString {
    let p = path(name);
    sys!(SYS_mkdir, &p, 0o755).unwrap();
    p
}

#[track_caller]
pub fn close(fd: i32) {
    sys!(SYS_close, fd).unwrap();
}

pub fn read(fd: i32, buf: &mut [u8]) -> Res {
    let len = buf.len();
    sys!(SYS_read, fd, buf, len)
}

/// Reads up to `len` bytes.
pub fn read_vec(fd: i32, len: usize) -> Res<Vec<u8>> {
    let mut buf = vec![0; len];
    let n = read(fd, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

pub fn write(fd: i32, data: &[u8]) -> Res {
    sys!(SYS_write, fd, data, data.len())
}

pub fn pread(fd: i32, len: usize, offset: i64) -> Res<Vec<u8>> {
    let mut buf = vec![0; len];
    let n = sys!(SYS_pread64, fd, &mut buf[..], len, offset)?;
    buf.truncate(n);
    Ok(buf)
}

pub fn pwrite(fd: i32, data: &[u8], offset: i64) -> Res {
    sys!(SYS_pwrite64, fd, data, data.len(), offset)
}

pub fn seek(fd: i32, offset: i64, whence: i32) -> Res {
    sys!(SYS_lseek, fd, offset, whence)
}

#[track_caller]
pub fn fstat(fd: i32) -> stat {
    let mut st: stat = zero();
    sys!(SYS_fstat, fd, &mut st).unwrap();
    st
}

pub fn stat_path(p: &CString) -> Res<stat> {
    let mut st: stat = zero();
    sys!(SYS_stat, p, &mut st).map(|_| st)
}

pub fn lstat_path(p: &CString) -> Res<stat> {
    let mut st: stat = zero();
    sys!(SYS_lstat, p, &mut st).map(|_| st)
}

/// Writes `text` to the file `path` with one call.
pub fn write_file(path: &str, text: &str) -> Result<usize, Errno> {
    let fd = open(&cstr(path), O_WRONLY)?;
    let result = write(fd, text.as_bytes());
    close(fd);
    result
}

/// The whole of a small file, as procfs gives it.
#[track_caller]
pub fn slurp(p: &str) -> String {
    let fd = open(&cstr(p), O_RDONLY).unwrap_or_else(|e| panic!("open {p}: {e:?}"));
    let mut out = Vec::new();
    loop {
        match read_vec(fd, 4096).unwrap_or_else(|e| panic!("read {p}: {e:?}")) {
            part if part.is_empty() => break,
            part => out.extend(part),
        }
    }
    close(fd);
    String::from_utf8_lossy(&out).into_owned()
}

/// (reading end, writing end)
#[track_caller]
pub fn pipe_with(flags: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    sys!(SYS_pipe2, &mut fds, flags).unwrap();
    (fds[0], fds[1])
}

#[track_caller]
pub fn pipe() -> (i32, i32) {
    pipe_with(0)
}

#[track_caller]
pub fn socketpair(kind: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    sys!(SYS_socketpair, AF_UNIX, kind, 0, &mut fds).unwrap();
    (fds[0], fds[1])
}

pub const PAGE: usize = 4096;

/// Maps `len` bytes of private anonymous memory.
#[track_caller]
pub fn anon(len: usize) -> usize {
    map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap()
}

/// Maps `len` bytes of memory that children share.
#[track_caller]
pub fn shared(len: usize) -> usize {
    map(len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1).unwrap()
}

pub fn map(len: usize, prot: i32, flags: i32, fd: i32) -> Res {
    sys!(SYS_mmap, 0, len, prot, flags, fd, 0)
}

pub fn getpid() -> i32 {
    sys!(SYS_getpid).unwrap() as i32
}

pub fn gettid() -> i32 {
    sys!(SYS_gettid).unwrap() as i32
}

pub fn ms(ms: i64) -> timespec {
    timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }
}

/// Sleeps, whatever signals arrive.
pub fn nap(millis: i64) {
    let mut left = ms(millis);
    while sys!(SYS_nanosleep, &left.clone(), &mut left) == Err(Errno::EINTR) {}
}

/// Time for another process to reach the call in which it will sleep.
pub fn settle() {
    nap(30);
}

/// CLOCK_MONOTONIC in milliseconds, by system call.
pub fn now_ms() -> i64 {
    let mut ts: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut ts).unwrap();
    ts.tv_sec * 1000 + ts.tv_nsec / 1_000_000
}

/// Milliseconds that `f` takes, with its result.
pub fn timed<T>(f: impl FnOnce() -> T) -> (i64, T) {
    let start = now_ms();
    let result = f();
    (now_ms() - start, result)
}

/// Signals that [`count`] saw, and the newest one's fields.
pub static SEEN: AtomicUsize = AtomicUsize::new(0);
pub static LAST: AtomicI32 = AtomicI32::new(0);
pub static LAST_CODE: AtomicI32 = AtomicI32::new(0);
pub static LAST_PID: AtomicI32 = AtomicI32::new(0);
pub static LAST_VALUE: AtomicI32 = AtomicI32::new(0);
pub static LAST_ADDR: AtomicUsize = AtomicUsize::new(0);

/// The handler most tests use: it counts and remembers.
pub extern "C" fn count(sig: i32, info: &SigInfo, _: usize) {
    LAST.store(sig, SeqCst);
    LAST_CODE.store(info.code, SeqCst);
    LAST_PID.store(info.pid(), SeqCst);
    LAST_VALUE.store(info.fields[2] as i32, SeqCst);
    LAST_ADDR.store(info.addr(), SeqCst);
    SEEN.fetch_add(1, SeqCst);
}

pub fn seen() -> usize {
    SEEN.load(SeqCst)
}

/// Bit mask of `signals`.
pub fn mask_of(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |m, s| m | 1 << (s - 1))
}

/// rt_sigprocmask(2): returns the old mask.
pub fn sigmask(how: i32, signals: &[i32]) -> u64 {
    let mut old = 0u64;
    sys!(SYS_rt_sigprocmask, how, &mask_of(signals), &mut old, 8).unwrap();
    old
}

pub fn pending() -> u64 {
    let mut set = 0u64;
    sys!(SYS_rt_sigpending, &mut set, 8).unwrap();
    set
}

/// The events that poll(2) reports for `fd`, 0 when none within `timeout_ms`.
#[track_caller]
pub fn poll1(fd: i32, events: i16, timeout_ms: i32) -> i16 {
    let mut p = pollfd { fd, events, revents: 0 };
    let n = sys!(SYS_poll, &mut p, 1, timeout_ms).unwrap();
    assert_eq!(n, usize::from(p.revents != 0));
    p.revents
}

/// A field of /proc/PID/status.
pub fn proc_status(pid: i32, key: &str) -> String {
    let text = slurp(&format!("/proc/{pid}/status"));
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in /proc/{pid}/status")).trim().to_string()
}

/// Waits until `pid` is in one of the `states` of /proc/PID/stat.
#[track_caller]
pub fn wait_state(pid: i32, states: &str) {
    for _ in 0..500 {
        let text = slurp(&format!("/proc/{pid}/stat"));
        let state = text.rsplit_once(") ").and_then(|(_, r)| r.chars().next());
        if state.is_some_and(|s| states.contains(s)) {
            return;
        }
        nap(10);
    }
    panic!("process {pid} never reached state {states}");
}

/// Becomes user and group 1000, for good.
pub fn drop_root() {
    sys!(SYS_setgroups, 0, 0).unwrap();
    sys!(SYS_setresgid, 1000, 1000, 1000).unwrap();
    sys!(SYS_setresuid, 1000, 1000, 1000).unwrap();
}

/// Bytes set to a value that the kernel should not write, for "nothing was touched" checks.
pub const BAD: usize = 0xdead_0000_0000_0000;

/// Numbers that look random: xorshift.
pub struct Random(pub u64);

impl Random {
    /// The next one, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}
