//! What has happened before: the start of the system, and the memory that it takes.
//!
//! The time-stamp counter counts from the machine's reset, firmware and kernel included; under `-icount` its unit is
//! an instruction, and elsewhere these rows mean nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;

use crate::sys::{Res, counter};
use crate::{Op, Unit};

pub const OPS: &[Op] = &[
    Op { group: "start", name: "reset-to-init", unit: Unit::Ns, rounds: 1, run: |_| init() },
    Op { group: "start", name: "reset-to-command", unit: Unit::Ns, rounds: 1, run: |_| command() },
    Op { group: "start", name: "memory-in-use", unit: Unit::Kib, rounds: 1, run: |_| memory() },
];

/// What the counter and the memory were as this program began.
static COMMAND: AtomicU64 = AtomicU64::new(0);
static MEMORY: AtomicU64 = AtomicU64::new(0);

/// Called first of all.
pub fn begin() {
    COMMAND.store(counter(), Relaxed);
    MEMORY.store(in_use().unwrap_or(0), Relaxed);
}

/// PID 1 wrote the counter's value down as it began.
fn init() -> Res<u64> {
    let text = std::fs::read_to_string("/.keel/started").map_err(|_| Errno::ENOENT)?;
    text.trim().parse().map_err(|_| Errno::EINVAL)
}

fn command() -> Res<u64> {
    Ok(COMMAND.load(Relaxed))
}

fn memory() -> Res<u64> {
    match MEMORY.load(Relaxed) {
        0 => Err(Errno::ENOENT),
        kib => Ok(kib),
    }
}

/// The machine's memory less what is free. A kernel hides what it took at boot from `MemTotal`; the
/// machine has a multiple of 64 MiB.
fn in_use() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(value("MemTotal:")?.next_multiple_of(64 << 10) - value("MemFree:")?)
}
