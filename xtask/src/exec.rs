//! One command in a guest: its output passed through as it comes, its status returned.
//!
//! The guest has four serial ports, each a FIFO on the host (see `user/init/src/exec.rs` for the other end):
//!
//! ```text
//!   ttyS0  console: kernel messages             to the log file, with --verbose also to standard error
//!   ttyS1  the command's standard output        to the sink
//!   ttyS2  the command's standard error         to the sink
//!   ttyS3  control: "start", then "exit N"      the outcome
//! ```
//! The FIFOs are as large as the system allows and read at once, so that a guest under --icount never
//! waits for the host and its time stays exact.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::guest::{GuestArgs, Job};
use crate::{paths, qemu, stuck};

/// A guest that has not reached PID 1 by then hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Time from the last word of the guest to the end of QEMU.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// Time for a panicking kernel to finish its report.
const PANIC_LIMIT: Duration = Duration::from_secs(3);
/// How much of the log an error shows.
const LOG_TAIL_LINES: usize = 40;
/// What a kernel prints when it gives up.
const PANIC_MARKS: [&str; 1] = ["Kernel panic"];
/// The size asked for each FIFO.
const FIFO_SIZE: usize = 1 << 20;

/// Where bytes of the guest go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Kernel messages.
    Console,
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
    /// Messages of PID 1 to this program.
    Control,
}

/// The ports in the order of the guest's ttyS0 to ttyS3.
const PORTS: [Port; 4] = [Port::Console, Port::Stdout, Port::Stderr, Port::Control];

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended with this status.
    Exited(i32),
    /// The guest panicked, hung, ran out of time or ended early: why, and the end of its log.
    Failed(String),
}

/// A run's result with what is known about it.
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Everything that the kernel printed.
    pub log: PathBuf,
    /// Wall time from the start of QEMU.
    pub seconds: f64,
}

/// When to give up.
#[derive(Clone, Copy)]
pub struct Limits {
    /// After so long in all.
    pub total: Duration,
    /// When the command has been silent for so long.
    pub idle: Option<Duration>,
}

impl From<Duration> for Limits {
    fn from(total: Duration) -> Limits {
        Limits { total, idle: None }
    }
}

/// Boots the guest, runs `command` in it, hands its output to `sink`, and waits for the end.
pub fn run(
    args: &GuestArgs,
    command: &str,
    limits: impl Into<Limits>,
    sink: &mut dyn FnMut(Port, &[u8]),
) -> Result<Report> {
    let limits = limits.into();
    qemu::check_installed()?;
    let guest = args.prepare(&Job::Exec(command.to_owned()))?;
    let ports = Ports::open()?;
    let mut qemu = guest.machine.command();
    qemu.args(ports.arguments());
    let elf = guest.machine.kernel.clone();
    let log_path = log_path()?;
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    writeln!(log, "# {qemu:?}")?;
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?);
    let start = Instant::now();
    let child = qemu.spawn().context("cannot start QEMU")?;
    let mut session = Session {
        ports,
        child,
        log,
        start,
        deadline: start + limits.total,
        idle: limits.idle,
        heard: start,
        state: State::Booting,
        control: String::new(),
        tail: Tail::default(),
    };
    let ended = session.pump(sink);
    let places = if matches!(ended, Ok(End::Broken(_))) { session.places(&elf) } else { String::new() };
    session.stop();
    let outcome = match ended? {
        End::Status(status) => Outcome::Exited(status),
        End::Broken(reason) => Outcome::Failed(format!("{reason}\n{places}{}", end_of_log(&log_path))),
    };
    Ok(Report { outcome, log: log_path, seconds: start.elapsed().as_secs_f64() })
}

/// The four FIFOs, deleted on drop.
struct Ports {
    dir: PathBuf,
    readers: [Option<File>; 4],
}

impl Ports {
    fn open() -> Result<Ports> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("keel-ports-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        paths::make_dir(&dir)?;
        let mut ports = Ports { dir, readers: Default::default() };
        for idx in 0..PORTS.len() {
            let path = ports.path(idx);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                Mode::RUSR | Mode::WUSR,
                0,
            )
            .with_context(|| format!("cannot make the FIFO {}", path.display()))?;
            let fd =
                rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
            let _ = rustix::pipe::fcntl_setpipe_size(&fd, FIFO_SIZE); // smaller is slower, not wrong
            ports.readers[idx] = Some(File::from(fd));
        }
        Ok(ports)
    }

    fn path(&self, idx: usize) -> PathBuf {
        self.dir.join(format!("ttyS{idx}"))
    }

    fn arguments(&self) -> Vec<String> {
        let chardev = |idx| format!("file,id=port{idx},path={}", qemu::escape(&self.path(idx)));
        let ports = (0..PORTS.len()).flat_map(|idx| {
            ["-chardev".to_owned(), chardev(idx), "-serial".to_owned(), format!("chardev:port{idx}")]
        });
        let monitor = format!("unix:{},server=on,wait=off", qemu::escape(&self.monitor()));
        ports.chain(["-monitor".to_owned(), monitor]).collect()
    }

    /// QEMU's monitor: a socket.
    fn monitor(&self) -> PathBuf {
        self.dir.join("monitor")
    }

    fn are_closed(&self) -> bool {
        self.readers.iter().all(Option::is_none)
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// How far the guest has come; only forward.
enum State {
    /// PID 1 has not spoken yet.
    Booting,
    /// The command runs.
    Running,
    /// The command ended with this status.
    Done(i32),
    /// The kernel printed a panic.
    Panicked,
}

/// Why the pump stopped.
enum End {
    Status(i32),
    Broken(String),
}

/// One running QEMU.
struct Session {
    ports: Ports,
    child: Child,
    log: File,
    start: Instant,
    deadline: Instant,
    idle: Option<Duration>,
    /// When the command last wrote something.
    heard: Instant,
    state: State,
    control: String,
    tail: Tail,
}

impl Session {
    /// Moves bytes until the guest has ended or a limit has passed.
    fn pump(&mut self, sink: &mut dyn FnMut(Port, &[u8])) -> Result<End> {
        let mut limit = (self.start + BOOT_LIMIT).min(self.deadline);
        loop {
            let before = std::mem::discriminant(&self.state);
            let ended = self.child.try_wait()?;
            self.read_ports(limit, sink)?;
            if std::mem::discriminant(&self.state) != before {
                limit = match self.state {
                    State::Booting | State::Running => self.deadline,
                    State::Done(_) => Instant::now() + POWER_OFF_LIMIT,
                    State::Panicked => Instant::now() + PANIC_LIMIT,
                };
            }
            // `ended` was asked before the last read: nothing that QEMU wrote is left behind.
            let silent = matches!(self.state, State::Running)
                && self.idle.is_some_and(|idle| self.heard.elapsed() >= idle);
            let late = silent || Instant::now() >= limit;
            if let Some(end) = self.judge(ended.is_some(), late) {
                return Ok(end);
            }
        }
    }

    fn judge(&self, ended: bool, late: bool) -> Option<End> {
        if !ended && !late {
            return None;
        }
        let broken = |reason: String| Some(End::Broken(reason));
        match self.state {
            State::Done(status) => Some(End::Status(status)),
            State::Panicked => broken("the kernel panicked".to_owned()),
            State::Booting if ended => broken("the guest ended before /init started".to_owned()),
            State::Running if ended => broken("the guest ended before the command did".to_owned()),
            State::Booting => broken(format!(
                "the guest hung: /init did not start within {:.0} s",
                self.start.elapsed().as_secs_f64()
            )),
            State::Running => {
                let silence = self.heard.elapsed().as_secs();
                broken(format!(
                    "the command ran out of time: {:.0} s, silent for the last {silence} s",
                    self.start.elapsed().as_secs_f64()
                ))
            }
        }
    }

    /// Waits a moment for input, and passes on all there is.
    fn read_ports(&mut self, limit: Instant, sink: &mut dyn FnMut(Port, &[u8])) -> Result<()> {
        let nap = limit.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
        if self.ports.are_closed() {
            std::thread::sleep(nap.min(Duration::from_millis(5)));
            return Ok(());
        }
        let mut fds: Vec<PollFd<'_>> = self
            .ports
            .readers
            .iter()
            .flatten()
            .map(|f| PollFd::from_borrowed_fd(f.as_fd(), PollFlags::IN))
            .collect();
        let nap = Timespec { tv_sec: 0, tv_nsec: nap.subsec_nanos().into() };
        match poll(&mut fds, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let mut hung_up =
            fds.iter().map(|fd| fd.revents().contains(PollFlags::HUP)).collect::<Vec<_>>().into_iter();
        for (idx, port) in PORTS.into_iter().enumerate() {
            if self.ports.readers[idx].is_some() {
                self.read_port(idx, port, hung_up.next().unwrap_or(false), sink)?;
            }
        }
        Ok(())
    }

    fn read_port(
        &mut self,
        idx: usize,
        port: Port,
        hung_up: bool,
        sink: &mut dyn FnMut(Port, &[u8]),
    ) -> Result<()> {
        let mut buffer = [0; 65536];
        while let Some(file) = &mut self.ports.readers[idx] {
            match file.read(&mut buffer) {
                // No writer: QEMU has not opened the FIFO yet, or it has ended.
                Ok(0) => {
                    if hung_up {
                        self.ports.readers[idx] = None;
                    }
                    return Ok(());
                }
                Ok(len) => self.take(port, &buffer[..len], sink)?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading from QEMU"),
            }
        }
        Ok(())
    }

    fn take(&mut self, port: Port, bytes: &[u8], sink: &mut dyn FnMut(Port, &[u8])) -> Result<()> {
        match port {
            Port::Control => self.obey(bytes),
            Port::Console => {
                self.log.write_all(bytes)?;
                if self.tail.holds_panic(bytes) && !matches!(self.state, State::Done(_)) {
                    self.state = State::Panicked;
                }
                sink(port, bytes);
            }
            Port::Stdout | Port::Stderr => {
                self.heard = Instant::now();
                sink(port, bytes);
            }
        }
        Ok(())
    }

    /// Acts on whole lines from PID 1.
    fn obey(&mut self, bytes: &[u8]) {
        self.control.push_str(&String::from_utf8_lossy(bytes));
        while let Some((line, rest)) = self.control.split_once('\n') {
            match line.trim().split_once(' ') {
                Some(("exit", status)) => self.state = State::Done(status.parse().unwrap_or(125)),
                _ if line.trim() == "start" => {
                    self.state = State::Running;
                    self.heard = Instant::now();
                }
                _ => {}
            }
            self.control = rest.to_owned();
        }
    }

    /// Where the CPUs of a guest are that did not end by itself; empty when there is none any more, or it is not Keel.
    fn places(&mut self, elf: &Path) -> String {
        let is_there = matches!(self.child.try_wait(), Ok(None)) && !matches!(self.state, State::Panicked);
        if !is_there {
            return String::new();
        }
        let places = stuck::describe(&self.ports.monitor(), elf).unwrap_or_default();
        // Also for who reads the log of a guest whose end was expected.
        let _ = self.log.write_all(places.as_bytes());
        places
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line of the console, for words that are cut in two by a read.
#[derive(Default)]
struct Tail(String);

impl Tail {
    fn holds_panic(&mut self, bytes: &[u8]) -> bool {
        self.0.push_str(&String::from_utf8_lossy(bytes));
        let found = PANIC_MARKS.iter().any(|mark| self.0.contains(mark));
        let keep = self.0.rfind('\n').map_or(0, |at| at + 1);
        self.0.drain(..keep);
        found
    }
}

fn log_path() -> Result<PathBuf> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = paths::logs()?;
    remove_old_logs(&dir);
    Ok(dir.join(format!("guest-{}-{number}.log", std::process::id())))
}

/// Logs older than a day go.
fn remove_old_logs(dir: &Path) {
    let day = Duration::from_secs(86400);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age > day) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn end_of_log(path: &Path) -> String {
    let text = fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    format!("---- the end of {} ----\n{}", path.display(), tail.join("\n"))
}
