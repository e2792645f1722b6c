//! /proc/sys: tunables (proc_sys(5)). Each is a row of a table that names who keeps the value.
//!
//! What cannot change here yet shows its fixed value and cannot be written, so that nobody believes that it did.

mod fs;
mod ipc;
mod kernel;
mod net;
mod user;
mod vm;

use crate::node::{Entry, Kind, dir, fixed};

static TTY_ENTRIES: &[Entry] = &[
    fixed("ldisc_autoload", "0"),
    Entry { name: "legacy_tiocsti", kind: Kind::Number32(&tty::file::LEGACY_TIOCSTI, 0..=1) },
];

/// What is in /proc/sys.
pub(crate) static ENTRIES: &[Entry] = &[
    dir("abi", &[fixed("vsyscall32", "0")]),
    dir("debug", &[fixed("exception-trace", "0")]),
    dir("dev", &[dir("tty", TTY_ENTRIES)]),
    dir("fs", fs::ENTRIES),
    dir("kernel", kernel::ENTRIES),
    dir("net", net::ENTRIES),
    dir("user", user::ENTRIES),
    dir("vm", vm::ENTRIES),
];
