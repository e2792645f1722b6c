//! Counters of a block device, as /proc/diskstats shows them (Linux: Documentation/admin-guide/iostats.rst).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::bio::Op;

/// The four kinds of work that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Direction {
    /// Reads.
    Read,
    /// Writes and zeroing.
    Write,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
}

impl From<Op> for Direction {
    fn from(op: Op) -> Direction {
        match op {
            Op::Read => Direction::Read,
            Op::Write | Op::WriteZeroes => Direction::Write,
            Op::Discard => Direction::Discard,
            Op::Flush => Direction::Flush,
        }
    }
}

/// The counters of one kind.
#[derive(Debug, Default)]
struct Group {
    ios: AtomicU64,
    merges: AtomicU64,
    sectors: AtomicU64,
    ns: AtomicU64,
}

/// The counters of one kind at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Requests completed.
    pub ios: u64,
    /// Bios that were merged into others.
    pub merges: u64,
    /// Sectors moved.
    pub sectors: u64,
    /// Sum of the requests' times.
    pub ms: u64,
}

/// All counters at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By [`Direction`].
    pub groups: [GroupSnapshot; 4],
    /// Requests begun and not finished.
    pub in_flight: [u64; 2],
    /// Time during which there were some.
    pub busy_ms: u64,
}

/// The counters of a device.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    groups: [Group; 4],
    in_flight: [AtomicU64; 2],
    busy_ns: AtomicU64,
    /// When `busy_ns` was brought up to date.
    stamp_ns: AtomicU64,
}

impl Stats {
    fn touch(&self, now_ns: u64, is_busy: bool) {
        let before = self.stamp_ns.fetch_max(now_ns, Relaxed);
        if is_busy && now_ns > before {
            self.busy_ns.fetch_add(now_ns - before, Relaxed);
        }
    }

    fn nr_in_flight(&self) -> u64 {
        self.in_flight.iter().map(|n| n.load(Relaxed)).sum()
    }

    /// A request begins.
    pub fn start(&self, op: Op, now_ns: u64) {
        self.touch(now_ns, self.nr_in_flight() > 0);
        self.in_flight[usize::from(op != Op::Read)].fetch_add(1, Relaxed);
    }

    /// A bio joined a request.
    pub fn merged(&self, op: Op) {
        self.groups[Direction::from(op) as usize].merges.fetch_add(1, Relaxed);
    }

    /// A request that began at `start_ns` ends.
    pub fn end(&self, op: Op, sectors: u64, start_ns: u64, now_ns: u64) {
        self.touch(now_ns, true);
        self.in_flight[usize::from(op != Op::Read)].fetch_sub(1, Relaxed);
        let group = &self.groups[Direction::from(op) as usize];
        group.ios.fetch_add(1, Relaxed);
        group.sectors.fetch_add(sectors, Relaxed);
        group.ns.fetch_add(now_ns.saturating_sub(start_ns), Relaxed);
    }

    /// The numbers now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |group: &Group| GroupSnapshot {
            ios: group.ios.load(Relaxed),
            merges: group.merges.load(Relaxed),
            sectors: group.sectors.load(Relaxed),
            ms: group.ns.load(Relaxed) / 1_000_000,
        };
        Snapshot {
            groups: [0, 1, 2, 3].map(|idx: usize| read(&self.groups[idx])),
            in_flight: [0, 1].map(|idx: usize| self.in_flight[idx].load(Relaxed)),
            busy_ms: self.busy_ns.load(Relaxed) / 1_000_000,
        }
    }
}
