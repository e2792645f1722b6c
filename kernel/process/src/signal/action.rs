//! Signal actions: what a process does when a signal arrives (sigaction(2)).
//!
//! # Locking
//!
//! `SigHand::actions` is a leaf lock, taken below a process's signal lock. Threads share one `SigHand`, and so do
//! processes made with `CLONE_SIGHAND`.

use alloc::vec::Vec;

use abi::signal::{
    NSIG, SIG_DFL, SIG_IGN, SIGABRT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSTOP,
    SIGSYS, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH, SIGXCPU, SIGXFSZ, SaFlags, SigAction,
    SigSet,
};
use abi::{Errno, Result};
use hal::sync::IrqLock;

/// The signals that stop a process by default.
pub(crate) const STOPS: SigSet =
    SigSet::of(SIGSTOP).union(SigSet::of(SIGTSTP)).union(SigSet::of(SIGTTIN)).union(SigSet::of(SIGTTOU));

/// The signals that do nothing by default.
const IGNORED: SigSet =
    SigSet::of(SIGCONT).union(SigSet::of(SIGCHLD)).union(SigSet::of(SIGWINCH)).union(SigSet::of(SIGURG));

/// The signals that dump core by default.
const CORE: SigSet = SigSet::of(SIGQUIT)
    .union(SigSet::of(SIGILL))
    .union(SigSet::of(SIGTRAP))
    .union(SigSet::of(SIGABRT))
    .union(SigSet::of(SIGFPE))
    .union(SigSet::of(SIGSEGV))
    .union(SigSet::of(SIGBUS))
    .union(SigSet::of(SIGSYS))
    .union(SigSet::of(SIGXCPU))
    .union(SigSet::of(SIGXFSZ));

/// What happens by default (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// Nothing.
    Ignore,
    /// The process stops.
    Stop,
    /// The process ends.
    Terminate,
    /// The process ends with a core dump.
    Core,
}

/// The default action of `sig`.
#[inline]
pub(crate) fn default_action(sig: u32) -> Default {
    if IGNORED.has(sig) {
        Default::Ignore
    } else if STOPS.has(sig) {
        Default::Stop
    } else if CORE.has(sig) {
        Default::Core
    } else {
        Default::Terminate
    }
}

/// How many signals there are.
const NR_SIGNALS: usize = NSIG as usize;

/// The actions of all signals.
pub struct SigHand {
    /// Of signal 1 first. 2 KiB, too much for a stack: it is made where it stays.
    actions: IrqLock<Vec<SigAction>>,
}

impl SigHand {
    /// Every signal has its default action. `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Self::all(DEFAULT)
    }

    /// Every signal is ignored, even those that no program can ignore. `ENOMEM`.
    pub(crate) fn ignoring() -> Result<Self> {
        Self::all(SigAction { handler: SIG_IGN, ..DEFAULT })
    }

    /// Every signal has `action`.
    fn all(action: SigAction) -> Result<Self> {
        let mut actions = room()?;
        actions.resize(NR_SIGNALS, action);
        Ok(Self { actions: IrqLock::new("process.sighand", actions) })
    }

    /// Every signal has its default action, and none can be given another; needs no memory.
    pub(crate) const fn fixed() -> Self {
        Self { actions: IrqLock::new("process.sighand", Vec::new()) }
    }

    /// A copy for a child. With `clear`, handlers become the default action, but ignored signals stay ignored
    /// (`CLONE_CLEAR_SIGHAND`, execve(2)). `ENOMEM`.
    pub(crate) fn fork(&self, clear: Clear) -> Result<Self> {
        // Before the lock: this may sleep.
        let mut actions = room()?;
        actions.extend_from_slice(&self.actions.lock());
        if clear == Clear::Handlers {
            actions.iter_mut().for_each(reset);
        }
        Ok(Self { actions: IrqLock::new("process.sighand", actions) })
    }

    /// Resets caught signals to their default action: the new program has no such handlers.
    pub(crate) fn clear_handlers(&self) {
        self.actions.lock().iter_mut().for_each(reset);
    }

    /// The action of `sig`.
    #[inline]
    pub fn get(&self, sig: u32) -> SigAction {
        self.actions.lock().get(idx(sig)).copied().unwrap_or(DEFAULT)
    }

    /// Sets the action of `sig` and gives the old one.
    #[inline]
    pub(crate) fn set(&self, sig: u32, mut action: SigAction) -> SigAction {
        action.mask = action.mask.minus(SigSet::UNBLOCKABLE);
        let mut actions = self.actions.lock();
        actions.get_mut(idx(sig)).map_or(DEFAULT, |slot| core::mem::replace(slot, action))
    }

    /// Gives the action of `sig` for a delivery; a `SA_RESETHAND` action is reset.
    #[inline]
    pub(crate) fn take_for_delivery(&self, sig: u32) -> SigAction {
        let mut actions = self.actions.lock();
        let Some(slot) = actions.get_mut(idx(sig)) else { return DEFAULT };
        let action = *slot;
        let is_caught = action.handler != SIG_DFL && action.handler != SIG_IGN;
        if is_caught && action.flags & SaFlags::RESETHAND.bits() != 0 {
            slot.handler = SIG_DFL;
        }
        action
    }

    /// Sets the handler of `sig` to the default, keeping flags and mask (forced signals).
    #[inline]
    pub(crate) fn set_default(&self, sig: u32) {
        if let Some(slot) = self.actions.lock().get_mut(idx(sig)) {
            slot.handler = SIG_DFL;
        }
    }

    /// The sets of ignored and of caught signals, for /proc/PID/status.
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let actions = self.actions.lock();
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for (sig, action) in (1..).zip(actions.iter()) {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => ignored = ignored.union(SigSet::of(sig)),
                _ => caught = caught.union(SigSet::of(sig)),
            }
        }
        (ignored, caught)
    }
}

/// Whether a copy of actions keeps the handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// All stays.
    Nothing,
    /// Handlers become the default action.
    Handlers,
}

/// The default action as a structure.
const DEFAULT: SigAction = SigAction { handler: SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };

/// Forgets a handler, but not that a signal is ignored.
fn reset(action: &mut SigAction) {
    let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
    *action = SigAction { handler, ..DEFAULT };
}

/// An empty table with room for all signals. `ENOMEM`.
fn room() -> Result<Vec<SigAction>> {
    let mut actions = Vec::new();
    actions.try_reserve_exact(NR_SIGNALS).map_err(|_| Errno::ENOMEM)?;
    Ok(actions)
}

/// The index of `sig` in the table; beyond its end when `sig` is no signal.
fn idx(sig: u32) -> usize {
    (sig as usize).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::signal::{SIGINT, SIGKILL, SIGUSR1};

    #[test]
    fn default_actions_are_those_of_the_manual() {
        assert_eq!(default_action(SIGCHLD), Default::Ignore);
        assert_eq!(default_action(SIGTSTP), Default::Stop);
        assert_eq!(default_action(SIGSEGV), Default::Core);
        assert_eq!(default_action(SIGUSR1), Default::Terminate);
        assert_eq!(default_action(34), Default::Terminate);
    }

    #[test]
    fn exec_forgets_handlers_but_not_ignored_signals() {
        let hand = SigHand::new().unwrap();
        hand.set(SIGINT, SigAction { handler: SIG_IGN, ..DEFAULT });
        hand.set(SIGUSR1, SigAction { handler: 0x1000, mask: SigSet::of(SIGKILL), ..DEFAULT });
        assert!(hand.get(SIGUSR1).mask.is_empty(), "SIGKILL cannot be masked");
        assert_eq!(hand.ignored_and_caught(), (SigSet::of(SIGINT), SigSet::of(SIGUSR1)));
        let copy = hand.fork(Clear::Handlers).unwrap();
        assert_eq!(copy.ignored_and_caught(), (SigSet::of(SIGINT), SigSet::EMPTY));
        assert_eq!(hand.get(SIGUSR1).handler, 0x1000);
    }

    #[test]
    fn kernel_threads_ignore_what_programs_cannot() {
        let (ignored, caught) = SigHand::ignoring().unwrap().ignored_and_caught();
        assert_eq!((ignored.0, caught), (u64::MAX, SigSet::EMPTY));
    }

    #[test]
    fn a_one_shot_handler_runs_once() {
        let hand = SigHand::new().unwrap();
        let flags = SaFlags::RESETHAND.bits();
        hand.set(SIGUSR1, SigAction { handler: 0x1000, flags, ..DEFAULT });
        assert_eq!(hand.take_for_delivery(SIGUSR1).handler, 0x1000);
        assert_eq!(hand.take_for_delivery(SIGUSR1).handler, SIG_DFL);
    }

    #[test]
    fn fixed_actions_are_the_defaults() {
        let hand = SigHand::fixed();
        assert_eq!(hand.set(SIGINT, SigAction { handler: SIG_IGN, ..DEFAULT }).handler, SIG_DFL);
        assert_eq!(hand.get(SIGINT).handler, SIG_DFL);
        assert_eq!(hand.ignored_and_caught(), (SigSet::EMPTY, SigSet::EMPTY));
    }

    #[test]
    fn numbers_that_are_no_signals_do_nothing() {
        let hand = SigHand::new().unwrap();
        assert_eq!(hand.get(0).handler, SIG_DFL);
        assert_eq!(hand.set(65, SigAction { handler: 5, ..DEFAULT }).handler, SIG_DFL);
    }
}
