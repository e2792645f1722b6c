#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod core_sched;
pub mod eevdf;
#[cfg(not(target_os = "none"))]
mod hosted;
mod locks;
pub mod policy;
pub mod poll;
mod reaper;
pub mod roster;
mod rq;
pub mod rt;
pub mod stats;
mod thread;
mod timer;
mod wait;
pub mod workqueue;

#[cfg(not(target_os = "none"))]
pub use core_sched::share_cpus;
pub use core_sched::{
    exit_thread, nr_active, reschedule_ipi, run_idle, schedule, thread_started, timer_interrupt, yield_now,
};
pub use locks::{Completion, Mutex, MutexGuard, RwSem, RwSemReadGuard, RwSemWriteGuard, Semaphore};
pub use policy::{Attributes, Policy};
pub use poll::{PollTable, Poller};
pub use thread::{
    CpuTimes, Current, Interrupted, Interruptible, Kill, Notices, Placement, State, SwitchWatcher, Thread,
    current, new_kernel_thread, new_user_thread, spawn, start, without_waiting,
};
pub use timer::{Timer, sleep_until};
pub use wait::{Observer, ObserverHandle, Share, WaitError, WaitQueue};
