#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;
mod cputime;
mod freezer;
mod kind;
pub mod pids;
mod state;
mod tree;

pub use control::{Controllers, Options};
pub use cputime::Times;
pub use kind::Kind;
pub use state::Held;
pub use tree::{Cgroup, EventFile, Hierarchy, ID_STEP, NO_LIMIT, Node, lock};

#[cfg(test)]
mod testing {
    //! Threads of the hosted machine cannot wake each other, so tests that take the lock of the hierarchy do so in turn.

    use std::sync::{Mutex, MutexGuard, PoisonError};

    static TURN: Mutex<()> = Mutex::new(());

    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
