//! Who the signals about open files go to ([`vfs::sigio`]).
//!
//! Source: fcntl(2), sigaction(2).

use alloc::sync::Arc;

use abi::signal::{SIGIO, SigInfo};
use process::signal::{Target, send_kernel};
use process::{Task, ThreadGroup, pid};
use vfs::sigio::{Owner, Reason, Sender};

pub(crate) struct Signals;

/// `si_code` of a signal other than SIGIO whose own codes mean something else.
const SI_SIGIO: i32 = -5;

/// The siginfo for `owner`: with details when it chose a signal (fcntl(2) `F_SETSIG`).
fn info(owner: &Owner, fd: i32, reason: Reason) -> SigInfo {
    let Some(signal) = u32::try_from(owner.signal).ok().filter(|&signal| signal != 0) else {
        return SigInfo::kernel(SIGIO);
    };
    // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGCHLD, SIGSYS have codes of their own.
    let is_specific = matches!(signal, 4 | 5 | 7 | 8 | 11 | 17 | 31);
    let mut info = SigInfo::new(signal, if is_specific { SI_SIGIO } else { reason.code() });
    info.fields[0] = u64::from(reason.band().bits());
    info.fields[1] = u64::from(fd as u32);
    info
}

/// Whether who chose the owner may signal `task`.
fn may_signal(owner: &Owner, task: &Task) -> bool {
    let cred = task.cred();
    let matches = |id: u32| id == cred.suid || id == cred.uid;
    owner.euid == 0 || matches(owner.uid) || matches(owner.euid)
}

fn signal_group(owner: &Owner, group: &Arc<ThreadGroup>, info: SigInfo) {
    if group.live_task().is_some_and(|task| may_signal(owner, &task)) {
        send_kernel(Target::Group(group), info);
    }
}

impl Sender for Signals {
    fn send(&self, owner: &Owner, fd: i32, reason: Reason) {
        let info = info(owner, fd, reason);
        let id = owner.pid as u32;
        match owner.kind {
            0 => {
                if let Some(task) = pid::find_task_global(id).filter(|task| may_signal(owner, task)) {
                    send_kernel(Target::Thread(&task), info);
                }
            }
            1 => {
                if let Some(group) = pid::find_process_global(id) {
                    signal_group(owner, &group, info);
                }
            }
            _ => {
                let members = pid::find_pgrp_global(id).map(|pgrp| pgrp.members()).unwrap_or_default();
                members.iter().for_each(|group| signal_group(owner, group, info));
            }
        }
    }

    fn own_process(&self) -> i32 {
        process::current().pid() as i32
    }
}
