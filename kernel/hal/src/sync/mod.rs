//! Locks that never sleep, one-time initialisation, and sequence locks.
//!
//! | lock | off while held | for |
//! |---|---|---|
//! | [`SpinLock`] | preemption | data that interrupts never touch |
//! | [`IrqLock`] | interrupts | data that interrupt handlers touch too |
//! | [`FairLock`] | preemption | what is held long and wanted again at once |
//! | [`SeqLock`] | preemption (writers) | small `Copy` data with many readers |
//!
//! Sleeping locks live in `sched`. In debug builds each lock has a class (its name), and [`lockdep`] checks
//! the order in which classes are taken and that nothing sleeps in atomic context.

/// What [`protocol`] is made of.
mod atomic {
    pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

    pub use crate::cpu::relax;
}

pub mod cells;
pub mod lockdep;
mod once;
mod protocol;
mod rcucell;
mod seqlock;
mod spin;

pub use lockdep::might_sleep;
pub(crate) use protocol::GracePeriod;
pub use protocol::WaiterCount;

pub use once::{LazyLock, Once};
pub use rcucell::{ArcCell, RcuCell, WeakCell};
pub use seqlock::SeqLock;
pub use spin::{FairLock, FairLockGuard, IrqLock, IrqLockGuard, SpinLock, SpinLockGuard};
