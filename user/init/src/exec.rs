//! One command, its two outputs carried to serial ports of their own, its status reported on a third.
//!
//! The command writes to pipes, as under `ssh host COMMAND`: its outputs are no terminals, and no byte of
//! them is changed. PID 1 copies the pipes to ttyS1 and ttyS2, whose terminals are set raw.
//!
//! ```text
//!   command --pipe--> PID 1 --ttyS1--> host's standard output
//!           --pipe-->       --ttyS2--> host's standard error
//!                           --ttyS3--> "start\n", then "exit N\n" after both outputs have drained
//! ```
//! N is the exit status, or 128 plus the number of the signal that ended the command, as sh(1) counts.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::termios::{self, SetArg};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, pipe2, setsid};

use crate::children::{self, Look};
use crate::{complain, mounts, power};

/// A wait never lasts longer: the safety net where signals do not work yet.
const LONGEST_WAIT_S: i64 = 1;

/// One pipe from the command and the port that it is copied to.
struct Stream {
    pipe: Option<File>,
    port: Port,
}

/// A raw serial port, or the console when the port cannot be had.
struct Port(Option<File>);

impl Port {
    fn open(name: &str) -> Port {
        let tty = mounts::open_tty(name).inspect_err(|e| complain(format_args!("/dev/{name}: {e}"))).ok();
        if let Some(tty) = &tty
            && let Ok(mut settings) = termios::tcgetattr(tty)
        {
            termios::cfmakeraw(&mut settings);
            if let Err(error) = termios::tcsetattr(tty, SetArg::TCSANOW, &settings) {
                complain(format_args!("/dev/{name}: cannot be set raw: {error}"));
            }
        }
        Port(tty)
    }

    fn send(&mut self, bytes: &[u8]) {
        let result = match &mut self.0 {
            Some(tty) => tty.write_all(bytes),
            None => io::stderr().write_all(bytes),
        };
        if let Err(error) = result {
            complain(format_args!("serial port: {error}"));
        }
    }

    fn drain(&self) {
        if let Some(tty) = &self.0 {
            let _ = termios::tcdrain(tty);
        }
    }
}

/// Runs `command` by `sh -c` and reports its status.
pub fn run(command: &OsStr) {
    let mut control = Port::open("ttyS3");
    let mut streams =
        [Stream { pipe: None, port: Port::open("ttyS1") }, Stream { pipe: None, port: Port::open("ttyS2") }];
    control.send(b"start\n");
    let status = match spawn(command, &mut streams) {
        Ok(pid) => carry(pid, &mut streams),
        Err(error) => {
            streams[1].port.send(format!("init: cannot run sh: {error}\n").as_bytes());
            127
        }
    };
    for stream in &streams {
        stream.port.drain();
    }
    control.send(format!("exit {status}\n").as_bytes());
    control.drain();
}

/// Makes a fresh child leader of its own session, with no signal blocked.
///
/// Without the second, SIGCHLD would stay blocked in all that it runs: a mask is inherited through execve(2).
pub fn begin_session() -> nix::Result<()> {
    setsid()?;
    SigSet::empty().thread_set_mask()
}

/// The environment of a login as root.
pub fn environment(term: &str) -> [(&'static str, OsString); 7] {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOME", "/root".into()),
        ("USER", "root".into()),
        ("LOGNAME", "root".into()),
        ("SHELL", "/bin/sh".into()),
        ("LANG", "C.UTF-8".into()),
        ("TERM", term.into()),
    ]
}

/// The folder to begin in.
pub fn home() -> &'static str {
    if std::path::Path::new("/root").is_dir() { "/root" } else { "/" }
}

fn spawn(command: &OsStr, streams: &mut [Stream; 2]) -> io::Result<Pid> {
    let mut writers = Vec::new();
    for stream in streams {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        stream.pipe = Some(File::from(reader));
        writers.push(writer);
    }
    let mut take = || writers.remove(0);
    let (stdout, stderr): (OwnedFd, OwnedFd) = (take(), take());
    let mut sh = Command::new("/bin/sh");
    sh.arg("-c").arg(command).env_clear().envs(environment("dumb")).current_dir(home());
    sh.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // SAFETY: setsid(2) and sigprocmask(2) are async-signal-safe and touch no shared memory.
    unsafe { sh.pre_exec(|| begin_session().map_err(io::Error::from)) };
    let child = sh.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Copies both streams until the command `pid` has ended and what it wrote has been copied.
///
/// Does not wait for the end of the pipes: a daemon that the command left behind may hold them open.
fn carry(pid: Pid, streams: &mut [Stream; 2]) -> i32 {
    loop {
        let ended = reap(pid, streams.iter().all(|s| s.pipe.is_none()));
        for stream in streams.iter_mut() {
            copy(stream);
        }
        if let Some(status) = ended {
            return status;
        }
        if power::is_requested() {
            return 128 + nix::libc::SIGTERM;
        }
        wait_for_input(streams);
    }
}

/// Reaps what has ended (I2); the status of `pid` when that was among it.
fn reap(pid: Pid, may_sleep: bool) -> Option<i32> {
    loop {
        match children::reap(may_sleep) {
            Ok(Look::Ended(who, status)) if who == pid => return Some(status),
            Ok(Look::Ended(..)) => {}
            Ok(Look::Nobody) | Err(Errno::EINTR) => return None,
            Err(error) => {
                complain(format_args!("waitpid: {error}"));
                return Some(126);
            }
        }
    }
}

/// Copies all that lies in the pipe; closes it at its end.
fn copy(stream: &mut Stream) {
    let mut buffer = [0; 16384];
    while let Some(pipe) = &mut stream.pipe {
        match pipe.read(&mut buffer) {
            Ok(0) => stream.pipe = None,
            Ok(len) => stream.port.send(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                complain(format_args!("pipe: {error}"));
                stream.pipe = None;
            }
        }
    }
}

fn wait_for_input(streams: &[Stream; 2]) {
    let mut fds: Vec<PollFd<'_>> = streams
        .iter()
        .filter_map(|s| s.pipe.as_ref())
        .map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN))
        .collect();
    if fds.is_empty() {
        return;
    }
    match nix::poll::ppoll(&mut fds, Some(TimeSpec::new(LONGEST_WAIT_S, 0)), Some(SigSet::empty())) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => {
            complain(format_args!("ppoll: {error}"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
