//! Waiting for events: poll(2), select(2), epoll(7), and the files that turn events into readiness: eventfd(2),
//! timerfd_create(2), signalfd(2), pidfd_open(2), inotify(7), fanotify(7). And asynchronous I/O, whose results are events too
//! ([`aio`]).
//!
//! All of them rest on `sched`'s observers: a file's `poll` registers an observer with the wait queues of the file,
//! and a wake-up tells it. poll and select observe for the time of one call, epoll for as long as an item exists.
//!
//! # Locks, outermost first
//!
//! ```text
//! epoll nesting
//!   Epoll::ctl
//!     Epoll::scan        one per level of nesting, outer set first
//!       Epoll::items
//!         a wait queue of any file
//!           Epoll ready list (irq-safe)
//!             Epoll wait queues, and so on outwards
//! Inotify::watches
//!   an inode's marks
//!     Inotify::queue
//! Fanotify::marks
//!   the marks of an inode, a mount, a file system, a namespace
//!     Fanotify::queue
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod aio;
pub mod epoll;
pub mod eventfd;
pub mod fanotify;
pub mod inotify;
pub mod pidfd;
pub mod poll;
pub mod select;
mod sigio;
pub mod signalfd;
pub mod timerfd;

use abi::Result;
use vfs::File;

/// Registers what other floors ask of this crate. Call it once at boot.
pub fn init() {
    limits::events::init(hal::frame::stats().total as u64 * hal::PAGE_SIZE as u64);
    vfs::sigio::set_sender(&sigio::Signals);
    process::hooks::register_pidfd(pidfd::for_clone);
}

/// The position of a file that has none to move: seeking does nothing, as Linux' `noop_llseek`.
pub(crate) fn seek_nowhere(file: &File) -> Result<u64> {
    Ok(file.pos())
}
