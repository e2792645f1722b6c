//! When an event counts, and for how long: the arithmetic of one event, without any machine.
//!
//! ```text
//! on_cpu      ....██████......██████████.....     its task is on a CPU
//! is_enabled  ██████████████████████.........     so are it and the leader of its group
//! enabled_ns      ██████      ██████              both
//! running_ns      ██████                          ... on the CPU it was opened for
//! ```

use crate::sources::Source;

/// What a read gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events, or nanoseconds.
    pub value: u64,
    /// Time that it was enabled, in nanoseconds.
    pub enabled_ns: u64,
    /// Time that it really counted.
    pub running_ns: u64,
}

impl Totals {
    /// Adds those of another event of the same family.
    pub fn add(&mut self, other: &Totals) {
        self.value = self.value.wrapping_add(other.value);
        self.enabled_ns = self.enabled_ns.wrapping_add(other.enabled_ns);
        self.running_ns = self.running_ns.wrapping_add(other.running_ns);
    }
}

/// The state of one event.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    source: Source,
    totals: Totals,
    /// It was enabled itself.
    pub(crate) is_on: bool,
    /// The leader of its group is enabled, or it has none.
    pub(crate) is_led: bool,
    /// Since when its task is on a CPU, or when that was settled last.
    since: Option<u64>,
    /// That CPU is the one it was opened for.
    is_placed: bool,
}

impl Counts {
    /// An event that counts `source` as soon as it is enabled and its task runs.
    pub fn new(source: Source, is_on: bool, is_led: bool) -> Self {
        Self { source, totals: Totals::default(), is_on, is_led, since: None, is_placed: false }
    }

    fn is_enabled(&self) -> bool {
        self.is_on && self.is_led
    }

    /// Whether what happens now is counted.
    pub fn counts(&self) -> bool {
        self.is_enabled() && self.since.is_some() && self.is_placed
    }

    /// Counts the time until `now`.
    pub fn settle(&mut self, now: u64) {
        let Some(since) = self.since else { return };
        let ns = now.saturating_sub(since);
        self.since = Some(since.max(now));
        if !self.is_enabled() {
            return;
        }
        self.totals.enabled_ns += ns;
        if self.is_placed {
            self.totals.running_ns += ns;
            if self.source == Source::Clock {
                self.totals.value = self.totals.value.wrapping_add(ns);
            }
        }
    }

    /// Its task comes to a CPU, which is the one it was opened for, or not.
    pub fn start(&mut self, now: u64, is_placed: bool) {
        self.settle(now);
        self.since = Some(now);
        self.is_placed = is_placed;
    }

    /// Its task leaves the CPU.
    pub fn stop(&mut self, now: u64) {
        self.settle(now);
        self.since = None;
    }

    /// Changes whether it is enabled itself.
    pub fn turn(&mut self, now: u64, is_on: bool) {
        self.settle(now);
        self.is_on = is_on;
    }

    /// Changes whether its leader is.
    pub fn lead(&mut self, now: u64, is_led: bool) {
        self.settle(now);
        self.is_led = is_led;
    }

    /// `nr` events happened.
    pub fn add(&mut self, nr: u64) {
        if self.counts() {
            self.totals.value = self.totals.value.wrapping_add(nr);
        }
    }

    /// Counts from 0 again; the times go on (`PERF_EVENT_IOC_RESET`).
    pub fn reset(&mut self, now: u64) {
        self.settle(now);
        self.totals.value = 0;
    }

    /// What it has counted until `now`.
    pub fn read(&mut self, now: u64) -> Totals {
        self.settle(now);
        self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Counts {
        Counts::new(Source::Clock, true, true)
    }

    #[test]
    fn time_counts_while_the_task_is_on_a_cpu() {
        let mut counts = clock();
        assert_eq!(counts.read(50), Totals::default());
        counts.start(100, true);
        counts.stop(130);
        counts.start(200, true);
        assert_eq!(counts.read(205), Totals { value: 35, enabled_ns: 35, running_ns: 35 });
    }

    #[test]
    fn on_another_cpu_it_is_enabled_but_does_not_run() {
        let mut counts = clock();
        counts.start(0, false);
        counts.add(3);
        counts.stop(10);
        assert_eq!(counts.read(20), Totals { value: 0, enabled_ns: 10, running_ns: 0 });
    }

    #[test]
    fn neither_counts_without_its_leader() {
        let mut counts = Counts::new(Source::Faults, true, false);
        counts.start(0, true);
        counts.add(1);
        counts.lead(10, true);
        counts.add(1);
        counts.turn(15, false);
        counts.add(1);
        assert_eq!(counts.read(99), Totals { value: 1, enabled_ns: 5, running_ns: 5 });
    }

    #[test]
    fn a_reset_keeps_the_times() {
        let mut counts = clock();
        counts.start(0, true);
        counts.reset(10);
        assert_eq!(counts.read(12), Totals { value: 2, enabled_ns: 12, running_ns: 12 });
    }

    #[test]
    fn a_clock_that_steps_back_counts_nothing() {
        let mut counts = clock();
        counts.start(10, true);
        assert_eq!(counts.read(5).value, 0);
        assert_eq!(counts.read(12).value, 2);
    }
}
