//! The end of the machine: power-off and reboot, asked for by the job's end or by a signal.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::complain;

/// The last signal that asked for an end; 0 while there was none.
static REQUEST: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: i32) {
    if signal != Signal::SIGCHLD as i32 {
        REQUEST.store(signal, Ordering::Relaxed); // pairs with nothing: one flag, read by the same thread
    }
}

/// Installs handlers for the signals by which busybox's `halt`, `poweroff` and `reboot` ask PID 1, and
/// one for SIGCHLD, so that a wait in ppoll(2) ends when a child does.
///
/// SIGCHLD stays blocked outside of ppoll: a child that ends between two waits is not missed.
pub fn install_handlers() {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGCHLD] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        if let Err(error) = unsafe { sigaction(signal, &action) } {
            complain(format_args!("sigaction {signal}: {error}"));
        }
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGCHLD);
    if let Err(error) = blocked.thread_block() {
        complain(format_args!("block SIGCHLD: {error}"));
    }
}

/// Whether a signal has asked for an end.
pub fn is_requested() -> bool {
    REQUEST.load(Ordering::Relaxed) != 0
}

/// Ends the machine as the last request says, by default with power-off; never returns (I1).
pub fn off() -> ! {
    nix::unistd::sync();
    let mode = if REQUEST.load(Ordering::Relaxed) == Signal::SIGTERM as i32 {
        RebootMode::RB_AUTOBOOT
    } else {
        RebootMode::RB_POWER_OFF
    };
    let Err(error) = reboot(mode);
    complain(format_args!("reboot(2): {error}"));
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
