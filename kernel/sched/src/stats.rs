//! What the scheduler counts: time per CPU, switches, and the load average.

use core::sync::atomic::{AtomicU64, Ordering};

use hal::cpu::CpuId;

use crate::core_sched::{CPUS, NR_UNINTERRUPTIBLE};
use crate::thread::Thread;

/// Ticks between attempts to even the queues out.
const BALANCE_TICKS: u64 = 16;

/// Counters of one CPU. Only the CPU itself writes, so plain loads and stores do.
#[derive(Default)]
pub(crate) struct CpuCounters {
    user_ns: AtomicU64,
    nice_ns: AtomicU64,
    system_ns: AtomicU64,
    idle_ns: AtomicU64,
    /// Until when time is attributed.
    sampled_ns: AtomicU64,
    switches: AtomicU64,
    migrations: AtomicU64,
    ticks: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl CpuCounters {
    pub(crate) fn switched(&self, prev: &Thread, blocked: bool) {
        add(&self.switches, 1);
        add(if blocked { &prev.voluntary_switches } else { &prev.involuntary_switches }, 1);
    }

    pub(crate) fn migrated(&self) {
        add(&self.migrations, 1);
    }

    /// Attributes the time since the last sample to what the tick interrupted.
    pub(crate) fn tick(&self, current: Option<&Thread>, now: u64) {
        add(&self.ticks, 1);
        let delta = now.saturating_sub(self.sampled_ns.swap(now, Ordering::Relaxed));
        let Some(current) = current.filter(|t| !t.is_idle.load(Ordering::Relaxed)) else { return };
        if hal::trap::interrupted_user_mode() {
            add(&current.user_ticks, 1);
            add(if current.attributes().nice > 0 { &self.nice_ns } else { &self.user_ns }, delta);
        } else {
            add(&current.system_ticks, 1);
            add(&self.system_ns, delta);
        }
    }

    /// Counts time in idle. What ran before since the last sample counts as system time.
    pub(crate) fn idled(&self, ns: u64) {
        let now = hal::time::now_ns();
        let since = now.saturating_sub(self.sampled_ns.swap(now, Ordering::Relaxed));
        add(&self.idle_ns, ns);
        add(&self.system_ns, since.saturating_sub(ns));
    }

    pub(crate) fn is_time_to_balance(&self) -> bool {
        self.ticks.load(Ordering::Relaxed).is_multiple_of(BALANCE_TICKS)
    }
}

/// Times of one CPU for /proc/stat, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// User mode, nice 0 and below.
    pub user_ns: u64,
    /// User mode, nice above 0.
    pub nice_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Idle.
    pub idle_ns: u64,
    /// In interrupt handlers.
    pub irq_ns: u64,
    /// Switches between threads.
    pub switches: u64,
    /// Threads that came here from another CPU's queue.
    pub migrations: u64,
    /// Threads that wanted this CPU at the moment.
    pub nr_running: usize,
}

/// The counters of one CPU.
pub fn cpu_stat(cpu: CpuId) -> CpuStat {
    let this = CPUS.get_on(cpu);
    let counters = &this.counters;
    CpuStat {
        user_ns: counters.user_ns.load(Ordering::Relaxed),
        nice_ns: counters.nice_ns.load(Ordering::Relaxed),
        system_ns: counters.system_ns.load(Ordering::Relaxed),
        idle_ns: counters.idle_ns.load(Ordering::Relaxed),
        irq_ns: 0,
        switches: counters.switches.load(Ordering::Relaxed),
        migrations: counters.migrations.load(Ordering::Relaxed),
        nr_running: this.nr_running.load(Ordering::Relaxed),
    }
}

/// Switches between threads on all CPUs since boot.
pub fn nr_switches() -> u64 {
    hal::cpu::online().iter().map(|cpu| CPUS.get_on(cpu).counters.switches.load(Ordering::Relaxed)).sum()
}

/// Threads that run or want to.
pub fn nr_running() -> usize {
    hal::cpu::online().iter().map(|cpu| CPUS.get_on(cpu).nr_running.load(Ordering::Relaxed)).sum()
}

/// Threads in uninterruptible sleep.
pub fn nr_uninterruptible() -> u64 {
    NR_UNINTERRUPTIBLE.load(Ordering::Relaxed).max(0) as u64
}

static CREATED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn count_created() {
    CREATED.fetch_add(1, Ordering::Relaxed);
}

/// Threads started since boot (the `processes` line of /proc/stat).
pub fn nr_created() -> u64 {
    CREATED.load(Ordering::Relaxed)
}

/// Fixed point of the load averages: 11 fractional bits, as sysinfo(2)'s 16 are derived from (proc_loadavg(5)).
pub const LOAD_SHIFT: u32 = 11;
const LOAD_ONE: u64 = 1 << LOAD_SHIFT;
const LOAD_PERIOD_NS: u64 = 5_000_000_000;
/// exp(-5s/1min), exp(-5s/5min), exp(-5s/15min) in that fixed point.
const LOAD_DECAY: [u64; 3] = [1884, 2014, 2037];

static LOAD: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static LOAD_NEXT_NS: AtomicU64 = AtomicU64::new(LOAD_PERIOD_NS);

/// Adds samples to the load average if a period is over. Periods that all CPUs slept through count as idle,
/// so an idle machine needs no timer for this.
pub(crate) fn update_load(now: u64) {
    let due = LOAD_NEXT_NS.load(Ordering::Relaxed);
    if now < due {
        return;
    }
    let periods = (now - due) / LOAD_PERIOD_NS + 1;
    let next = due + periods * LOAD_PERIOD_NS;
    if LOAD_NEXT_NS.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let active = (nr_running() as u64 + nr_uninterruptible()) * LOAD_ONE;
    for (load, decay) in LOAD.iter().zip(LOAD_DECAY) {
        let mut value = load.load(Ordering::Relaxed);
        for period in 0..periods.min(1000) {
            let sample = if period + 1 == periods { active } else { 0 };
            value = (value * decay + sample * (LOAD_ONE - decay)).div_ceil(LOAD_ONE);
            if sample == 0 && value == 1 {
                value = 0;
            }
        }
        load.store(value, Ordering::Relaxed);
    }
}

/// The 1, 5 and 15 minute load averages, with [`LOAD_SHIFT`] fractional bits.
pub fn load_average() -> [u64; 3] {
    update_load(hal::time::now_ns());
    [0, 1, 2].map(|i| LOAD[i].load(Ordering::Relaxed))
}
