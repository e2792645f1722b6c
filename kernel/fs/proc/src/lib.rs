//! proc: processes and the state of the system as files (proc(5)).
//!
//! ```text
//! root ─┬─ static entries   `system`: one table of names with functions that make their text
//!       ├─ sys/             `sysctl`: tables of tunables
//!       ├─ self, thread-self
//!       └─ PID/             `pid`: tables again; each function gets the task
//!            ├─ fd/ fdinfo/ task/ ns/ ...
//! ```
//!
//! Nothing is stored: directories are looked up in tables and in the process table, and text is made when it is
//! read ([`vfs::text`]). An inode of a process remembers which one it meant; once that is gone, everything behind the
//! inode answers `ESRCH`, and its directory entry is dropped at the next look-up, even when the number is in use again.
//! Files that show an address space keep to the one of the time they were opened, so that a descriptor does not see
//! the program that is executed later (with other rights, maybe).
//!
//! # Locks
//!
//! None of its own. Functions run in process context and may sleep.
//!
//! Sources: proc(5) and its pages, Documentation/filesystems/proc.rst; formats as shown by Linux 7.2.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dir;
mod extra;
mod node;
mod pid;
mod root;
mod super_ops;
mod sysctl;
mod system;

use abi::Result;

pub use extra::{Extra, provide};

/// Makes "proc" known to mount(2). Call once at boot.
pub fn register() -> Result<()> {
    super_ops::register()
}
