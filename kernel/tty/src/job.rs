//! Job control: which session a terminal controls, and which process group may use it.
//!
//! Sources: credentials(7), tcsetpgrp(3), ioctl_tty(2); POSIX.1-2024, 11.1.

use alloc::sync::Arc;

use abi::signal::{SIG_IGN, SIGCONT, SIGHUP, SIGTTIN, SIGTTOU, SIGWINCH, SigInfo};
use abi::termios::Winsize;
use abi::{Errno, Result};
use process::pgrp::{self, ControllingTty, ProcessGroup, Session};
use security::Cap;

use crate::tty::{Tty, TtyFlags};

/// The session that a terminal controls and its foreground process group.
#[derive(Default)]
pub(crate) struct Job {
    session: Option<Arc<Session>>,
    foreground: Option<Arc<ProcessGroup>>,
}

fn own_pgrp() -> Result<Arc<ProcessGroup>> {
    process::current().group().pgrp().ok_or(Errno::EIO)
}

impl Tty {
    /// Sends `info` to the foreground process group. Usable in interrupts.
    pub(crate) fn signal_foreground(&self, info: SigInfo) {
        let group = self.job.lock().foreground.clone();
        if let Some(group) = group {
            group.signal(info);
        }
    }

    /// Whether this terminal controls the caller's session.
    pub(crate) fn is_controlling(&self) -> bool {
        let Ok(own) = own_pgrp() else { return false };
        self.job.lock().session.as_ref().is_some_and(|session| Arc::ptr_eq(session, own.session()))
    }

    /// Stops a background process that uses the terminal: sends `signal` to its group.
    ///
    /// `ERESTARTSYS`: the signal was sent. `EIO`: the group is orphaned, or for `SIGTTIN` the signal would
    /// not be noticed. A writer that ignores or blocks `SIGTTOU` may go on.
    fn check_background(&self, signal: u32) -> Result<()> {
        if !self.is_controlling() {
            return Ok(());
        }
        let own = own_pgrp()?;
        {
            let job = self.job.lock();
            let Some(foreground) = &job.foreground else { return Ok(()) };
            if Arc::ptr_eq(foreground, &own) {
                return Ok(());
            }
        }
        let task = process::current();
        let is_unnoticed =
            task.blocked().has(signal) || task.group().with_hand(|hand| hand.get(signal).handler == SIG_IGN);
        if is_unnoticed {
            return if signal == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if own.is_orphaned() {
            return Err(Errno::EIO);
        }
        own.signal(SigInfo::kernel(signal));
        Err(Errno::ERESTARTSYS)
    }

    /// Checks that the caller may read.
    pub(crate) fn check_read(&self) -> Result<()> {
        self.check_background(SIGTTIN)
    }

    /// Checks that the caller may write, which matters with TOSTOP only.
    pub(crate) fn check_write(&self) -> Result<()> {
        let matters = self.ldisc.lock().stops_background_writers();
        if matters { self.check_background(SIGTTOU) } else { Ok(()) }
    }

    /// Checks that the caller may change the terminal.
    pub(crate) fn check_change(&self) -> Result<()> {
        self.check_background(SIGTTOU)
    }

    /// Makes this the controlling terminal if a session leader without one opened it.
    pub(crate) fn adopt_session(self: &Arc<Self>) {
        let task = process::current();
        if pgrp::is_session_leader(&task) && self.job.lock().session.is_none() {
            // A leader that has a terminal keeps it.
            let _ = self.take_session();
        }
    }

    fn take_session(self: &Arc<Self>) -> Result<()> {
        let own = own_pgrp()?;
        let session = own.session().clone();
        session.set_tty(self.clone())?;
        let old = {
            let mut job = self.job.lock();
            core::mem::replace(&mut *job, Job { session: Some(session), foreground: Some(own) })
        };
        drop(old);
        Ok(())
    }

    /// `TIOCSCTTY`. `EPERM`: the caller leads no session, has a terminal, or this one is taken.
    pub(crate) fn set_controlling(self: &Arc<Self>, steal: usize) -> Result<()> {
        let task = process::current();
        let is_leader = pgrp::is_session_leader(&task);
        if is_leader && self.is_controlling() {
            return Ok(());
        }
        let own = own_pgrp()?;
        if !is_leader || own.session().tty().is_some() {
            return Err(Errno::EPERM);
        }
        let taken_by = self.job.lock().session.clone();
        if let Some(other) = taken_by {
            if steal != 1 || !task.with_cred(|cred| security::capable(cred, Cap::SYS_ADMIN)) {
                return Err(Errno::EPERM);
            }
            other.clear_tty();
        }
        self.take_session()
    }

    /// `TIOCNOTTY`: gives the terminal up. `ENOTTY`: it is not the caller's.
    pub(crate) fn give_up(&self) -> Result<()> {
        if !self.is_controlling() {
            return Err(Errno::ENOTTY);
        }
        if pgrp::is_session_leader(&process::current()) {
            let session = own_pgrp()?.session().clone();
            session.clear_tty();
            self.leave_session();
        }
        Ok(())
    }

    /// Ends the tie to the session and tells the foreground group.
    fn leave_session(&self) {
        let old = core::mem::take(&mut *self.job.lock());
        if let Some(group) = old.foreground {
            group.signal(SigInfo::kernel(SIGHUP));
            group.signal(SigInfo::kernel(SIGCONT));
        }
    }

    /// The line is gone: hangs up and ends the session's tie, with SIGHUP to its leader's group.
    pub fn hang_up_session(&self) {
        self.hang_up();
        let session = self.job.lock().session.clone();
        if let Some(session) = session {
            session.clear_tty();
            if let Some(leader) = process::pid::find_process_global(session.id()) {
                process::signal::send_kernel(
                    process::signal::Target::Group(&leader),
                    SigInfo::kernel(SIGHUP),
                );
                process::signal::send_kernel(
                    process::signal::Target::Group(&leader),
                    SigInfo::kernel(SIGCONT),
                );
            }
        }
        self.leave_session();
    }

    /// The foreground process group's id; 0 for none.
    pub(crate) fn foreground_id(&self) -> u32 {
        self.job.lock().foreground.as_ref().map_or(0, |group| group.id())
    }

    /// The id of the session that this terminal controls.
    pub(crate) fn session_id(&self) -> Option<u32> {
        self.job.lock().session.as_ref().map(|session| session.id())
    }

    /// `TIOCSPGRP`. `ENOTTY`: not the caller's terminal. `EINVAL`, `ESRCH`, `EPERM`: no such group there.
    pub(crate) fn set_foreground(&self, pgid: i32) -> Result<()> {
        self.check_change()?;
        if !self.is_controlling() {
            return Err(Errno::ENOTTY);
        }
        let pgid = u32::try_from(pgid).map_err(|_| Errno::EINVAL)?;
        let group = process::pid::find_pgrp(pgid).ok_or(Errno::ESRCH)?;
        if !Arc::ptr_eq(group.session(), own_pgrp()?.session()) {
            return Err(Errno::EPERM);
        }
        let old = self.job.lock().foreground.replace(group);
        drop(old);
        Ok(())
    }

    /// `TIOCSWINSZ`: a changed size is told to the foreground group.
    pub fn set_winsize(&self, size: Winsize) {
        if self.replace_winsize(size) {
            self.signal_foreground(SigInfo::kernel(SIGWINCH));
        }
    }
}

impl ControllingTty for Tty {
    fn device(&self) -> u64 {
        self.device_number()
    }

    fn foreground_pgid(&self) -> u32 {
        self.foreground_id()
    }

    fn session_leader_exit(&self, session: &Arc<Session>) {
        let is_ours = self.job.lock().session.as_ref().is_some_and(|own| Arc::ptr_eq(own, session));
        if is_ours {
            self.clear_flags(TtyFlags::STOPPED);
            self.leave_session();
        }
    }
}
