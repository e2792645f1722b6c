//! An interactive session: a login shell that owns the console as its controlling terminal.
//!
//! The shell's end is the session's end: the machine is powered off, as a terminal window closes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use crate::children::{self, Look};
use crate::exec::{begin_session, environment, home};
use crate::job::Terminal;
use crate::{complain, mounts, power};

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(set_controlling_tty, nix::libc::TIOCSCTTY);

/// Runs a login shell on `terminal` until it ends or a signal asks for the machine's end.
pub fn run(terminal: &Terminal) {
    match spawn(terminal) {
        Ok(pid) => wait_for(pid),
        Err(error) => complain(format_args!("cannot start a shell on /dev/{}: {error}", terminal.tty)),
    }
}

fn spawn(terminal: &Terminal) -> io::Result<Pid> {
    let tty = mounts::open_tty(&terminal.tty)?;
    resize(&tty, terminal);
    let program = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let mut shell = Command::new(program);
    shell.arg0(format!("-{}", program.trim_start_matches("/bin/")));
    shell.env_clear().envs(environment(&terminal.term)).env("SHELL", program).current_dir(home());
    shell.stdin(Stdio::from(tty.try_clone()?)).stdout(Stdio::from(tty.try_clone()?)).stderr(Stdio::from(tty));
    // SAFETY: setsid(2), sigprocmask(2) and ioctl(2) are async-signal-safe; TIOCSCTTY takes an integer, not a pointer.
    unsafe {
        shell.pre_exec(|| {
            begin_session()?;
            set_controlling_tty(io::stdin().as_raw_fd(), 0)?;
            Ok(())
        });
    }
    Ok(Pid::from_raw(shell.spawn()?.id().cast_signed()))
}

fn resize(tty: &File, terminal: &Terminal) {
    if terminal.rows == 0 || terminal.columns == 0 {
        return;
    }
    let size = Winsize { ws_row: terminal.rows, ws_col: terminal.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `Winsize`, which lives until the call returns.
    if let Err(error) = unsafe { set_window_size(tty.as_raw_fd(), &size) } {
        complain(format_args!("TIOCSWINSZ: {error}"));
    }
}

/// Reaps children (I2) until `pid` has ended.
fn wait_for(pid: Pid) {
    while !power::is_requested() {
        match children::reap(false) {
            Ok(Look::Ended(who, _)) if who == pid => return,
            Ok(Look::Nobody) => {
                // SIGCHLD is unblocked only here, so that no child's end falls between the look and the sleep.
                let _ = nix::poll::ppoll(&mut [], None, Some(SigSet::empty()));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return complain(format_args!("waitpid: {error}")),
        }
    }
}
