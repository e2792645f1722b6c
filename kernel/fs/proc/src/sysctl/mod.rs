//! /proc/sys: tunables (proc_sys(5)). Each is a row of a table that names who keeps the value.
//!
//! What cannot change here yet shows its fixed value and cannot be written, so that nobody believes that it did.

mod fs;
mod ipc;
mod kernel;
mod user;
mod vm;

use crate::node::{Entry, dir, fixed};

/// What is in /proc/sys.
pub(crate) static ENTRIES: &[Entry] = &[
    dir("abi", &[fixed("vsyscall32", "0")]),
    dir("debug", &[fixed("exception-trace", "0")]),
    dir("dev", &[dir("tty", &[fixed("ldisc_autoload", "0"), fixed("legacy_tiocsti", "0")])]),
    dir("fs", fs::ENTRIES),
    dir("kernel", kernel::ENTRIES),
    dir(
        "net",
        &[
            dir(
                "core",
                &[
                    fixed("rmem_default", "212992"),
                    fixed("rmem_max", "212992"),
                    fixed("somaxconn", "4096"),
                    fixed("wmem_default", "212992"),
                    fixed("wmem_max", "212992"),
                ],
            ),
            dir("unix", &[fixed("max_dgram_qlen", "10")]),
        ],
    ),
    dir("user", user::ENTRIES),
    dir("vm", vm::ENTRIES),
];
