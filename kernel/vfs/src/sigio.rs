//! Signals about open files: SIGIO, or what fcntl(2) `F_SETSIG` chose, to whom `F_SETOWN` named.
//!
//! Processes are above this crate: whoever knows them registers a [`Sender`] at boot.
//!
//! Sources: fcntl(2), sigaction(2) (`si_code` of SIGIO).

use abi::poll::PollEvents;
use hal::sync::Once;
use security::Cred;

use crate::file::File;

/// Who gets the signals of an open file description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_TID` 0, `F_OWNER_PID` 1, `F_OWNER_PGRP` 2.
    pub kind: i32,
    /// Id of that kind, as the initial pid namespace has it; 0 for nobody.
    pub pid: i32,
    /// The signal instead of SIGIO, or 0.
    pub signal: i32,
    /// Real and effective user of who chose: they must be allowed to signal the owner.
    pub uid: u32,
    /// See `uid`.
    pub euid: u32,
}

impl Owner {
    /// Makes a thread, process or group the owner, on behalf of `cred`.
    pub fn choose(&mut self, kind: i32, pid: i32, cred: &Cred) {
        (self.kind, self.pid, self.uid, self.euid) = (kind, pid, cred.uid, cred.euid);
    }
}

/// Why a signal is sent (`si_code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `POLL_MSG`: a lease is to be given up, or a directory changed.
    Message,
}

impl Reason {
    /// `si_code`.
    pub fn code(self) -> i32 {
        match self {
            Reason::Message => 3,
        }
    }

    /// `si_band`.
    pub fn band(self) -> PollEvents {
        match self {
            Reason::Message => PollEvents::IN | PollEvents::RDNORM | PollEvents::MSG,
        }
    }
}

/// Sends signals.
pub trait Sender: Send + Sync {
    /// Signals `owner` about descriptor `fd`. May be called with locks of files held; does not sleep.
    fn send(&self, owner: &Owner, fd: i32, reason: Reason);
    /// The caller's process, as the initial pid namespace has it.
    fn own_process(&self) -> i32;
}

static SENDER: Once<&'static dyn Sender> = Once::new();

/// Says who sends signals. Only the first call counts.
pub fn set_sender(sender: &'static dyn Sender) {
    SENDER.call_once(|| sender);
}

/// Signals the owner of `file` about its descriptor `fd`.
pub(crate) fn send(file: &File, fd: i32, reason: Reason) {
    let owner = file.owner();
    if owner.pid != 0
        && let Some(sender) = SENDER.get()
    {
        sender.send(&owner, fd, reason);
    }
}

/// Makes the caller's process the owner of `file`, unless there is one.
pub(crate) fn own(file: &File, cred: &Cred) {
    let Some(sender) = SENDER.get() else { return };
    let pid = sender.own_process();
    file.update_owner(|owner| {
        if owner.pid == 0 {
            owner.choose(1, pid, cred);
        }
    });
}
