//! Numbers of tasks and processes that only /proc asks for.

use core::sync::atomic::Ordering::Relaxed;

use limits::UserResource;

use crate::{Task, ThreadGroup};

impl Task {
    /// The persona set by personality(2).
    pub fn personality(&self) -> u32 {
        self.personality.load(Relaxed)
    }

    /// What the thread ended with; 0 while it runs.
    pub fn exit_code(&self) -> i32 {
        self.exit_code.load(Relaxed)
    }

    /// The slack of its timers in nanoseconds.
    pub fn timer_slack_ns(&self) -> u64 {
        self.timer_slack.load(Relaxed)
    }

    /// How many signals are queued for all processes of its user.
    pub fn queued_signals(&self) -> u64 {
        self.user().map_or(0, |user| user.get(UserResource::Sigpending))
    }
}

impl ThreadGroup {
    /// The signal that its end sends to the parent; 0 for none.
    pub fn exit_signal(&self) -> u32 {
        self.exit_signal.load(Relaxed)
    }
}
