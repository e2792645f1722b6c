//! CPUs, their time, interrupts and load (proc_stat(5), proc_cpuinfo(5), proc_loadavg(5)).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use abi::Result;
use hal::cpu::CpuId;
use hal::irq::IrqInfo;
use process::usage::ticks;
use sched::stats;
use vfs::put;
use vfs::text::Text;

/// Times of one CPU or of all, in nanoseconds.
#[derive(Clone, Copy, Default)]
struct Times {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    irq: u64,
}

impl Times {
    fn of(cpu: CpuId) -> Self {
        let stat = stats::cpu_stat(cpu);
        let busy = stat.user_ns + stat.nice_ns + stat.system_ns + stat.irq_ns;
        // A CPU that sleeps has not counted the present sleep yet.
        let since_boot = hal::time::now_ns().saturating_sub(busy);
        let idle = if stat.nr_running == 0 { stat.idle_ns.max(since_boot) } else { stat.idle_ns };
        Self { user: stat.user_ns, nice: stat.nice_ns, system: stat.system_ns, idle, irq: stat.irq_ns }
    }

    fn all() -> Self {
        hal::cpu::online().iter().map(Self::of).fold(Self::default(), |sum, cpu| Self {
            user: sum.user + cpu.user,
            nice: sum.nice + cpu.nice,
            system: sum.system + cpu.system,
            idle: sum.idle + cpu.idle,
            irq: sum.irq + cpu.irq,
        })
    }

    fn put(&self, out: &mut Text) {
        put!(out, " {} {} {}", ticks(self.user), ticks(self.nice), ticks(self.system));
        put!(out, " {} 0 {} 0 0 0 0\n", ticks(self.idle), ticks(self.irq));
    }
}

/// When the machine was started, in seconds of the wall clock, as the caller's time namespace has it.
fn boot_time() -> i64 {
    let now = hal::time::now_ns();
    let inside = process::nsproxy::clock_inside(abi::time::clock::BOOTTIME, now);
    let offset = inside.wrapping_sub(now) as i64;
    hal::time::wall_base_ns().saturating_sub(offset) / 1_000_000_000
}

/// /proc/stat.
pub(super) fn stat(out: &mut Text) -> Result<()> {
    out.push(b"cpu ");
    Times::all().put(out);
    for cpu in hal::cpu::online().iter() {
        put!(out, "cpu{}", cpu.0);
        Times::of(cpu).put(out);
    }
    put_interrupt_counts(out);
    put!(out, "ctxt {}\n", stats::nr_switches());
    put!(out, "btime {}\n", boot_time());
    put!(out, "processes {}\n", stats::nr_created());
    put!(out, "procs_running {}\n", stats::nr_running().max(1));
    put!(out, "procs_blocked {}\n", stats::nr_uninterruptible());
    put!(out, "softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    Ok(())
}

/// The lines of /proc/interrupts: numbered ones first, ascending, with the handlers that share a line joined. Each
/// handler counts every interrupt of its line.
fn interrupt_lines() -> Vec<IrqInfo> {
    let mut lines: Vec<IrqInfo> = Vec::new();
    for info in hal::irq::collect_counts() {
        match lines.iter_mut().find(|line| line.label == info.label) {
            Some(line) => {
                line.name.push_str(", ");
                line.name.push_str(&info.name);
            }
            None => lines.push(info),
        }
    }
    let number = |line: &IrqInfo| line.label.parse::<u32>().unwrap_or(u32::MAX);
    let mut sorted = BTreeMap::new();
    sorted.extend(lines.into_iter().enumerate().map(|(at, line)| ((number(&line), at), line)));
    sorted.into_values().collect()
}

/// The `intr` line: the sum of all, and the count of each numbered line.
fn put_interrupt_counts(out: &mut Text) {
    let infos = interrupt_lines();
    let count = |info: &IrqInfo| info.counts.iter().sum::<u64>();
    put!(out, "intr {}", infos.iter().map(count).sum::<u64>());
    let number = |info: &IrqInfo| info.label.parse::<usize>().ok();
    let lines = infos.iter().filter_map(number).max().map_or(0, |max| max.min(255) + 1);
    for line in 0..lines {
        let sum: u64 = infos.iter().filter(|info| number(info) == Some(line)).map(count).sum();
        put!(out, " {sum}");
    }
    out.push(b"\n");
}

/// /proc/interrupts.
pub(super) fn interrupts(out: &mut Text) -> Result<()> {
    let infos = interrupt_lines();
    let width = infos.iter().map(|info| info.label.len()).max().unwrap_or(0).max(3) + 1;
    let indent = width + 8;
    put!(out, "{:indent$}", "");
    hal::cpu::online().iter().for_each(|cpu| put!(out, "CPU{:<8}", cpu.0));
    out.push(b"\n");
    for info in &infos {
        put!(out, "{:>width$}:", info.label);
        for idx in 0..hal::cpu::nr_cpus() {
            put!(out, " {:10}", info.counts.get(idx).copied().unwrap_or(0));
        }
        if info.label.parse::<u32>().is_ok() {
            put!(out, "  IO-APIC  {:>3}-edge     ", info.label);
        }
        put!(out, "  {}\n", info.name);
    }
    Ok(())
}

/// /proc/softirqs. There are none: what Linux does in them, work queues and timers do here.
pub(super) fn softirqs(out: &mut Text) -> Result<()> {
    put!(out, "{:>20}", "");
    hal::cpu::online().iter().for_each(|cpu| put!(out, "CPU{:<8}", cpu.0));
    out.push(b"\n");
    Ok(())
}

/// /proc/uptime: since boot, and idle of all CPUs together; in seconds.
pub(super) fn uptime(out: &mut Text) -> Result<()> {
    const CENTI: u64 = 10_000_000;
    let (up, idle) = (
        process::nsproxy::clock_inside(abi::time::clock::BOOTTIME, hal::time::now_ns()) / CENTI,
        Times::all().idle / CENTI,
    );
    put!(out, "{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100);
    Ok(())
}

/// /proc/loadavg.
pub(super) fn loadavg(out: &mut Text) -> Result<()> {
    const ONE: u64 = 1 << stats::LOAD_SHIFT;
    for load in stats::load_average() {
        // Rounded to hundredths.
        let load = load + ONE / 200;
        put!(out, "{}.{:02} ", load >> stats::LOAD_SHIFT, ((load & (ONE - 1)) * 100) >> stats::LOAD_SHIFT);
    }
    let threads: u64 = process::pid::processes().map(|group| u64::from(group.nr_threads())).sum();
    let last = process::try_current().map_or(0, |me| me.group().pid_ns().last());
    put!(out, "{}/{threads} {last}\n", stats::nr_running().max(1));
    Ok(())
}

/// Bytes of a cache line.
const CACHE_LINE: u32 = 64;

/// /proc/cpuinfo.
pub(super) fn cpuinfo(out: &mut Text) -> Result<()> {
    for cpu in hal::cpu::online().iter() {
        put_cpu(out, cpu);
    }
    Ok(())
}

fn put_cpu(out: &mut Text, cpu: CpuId) {
    let info = hal::cpu::info(cpu);
    let (family, model, stepping) = info.family_model_stepping;
    put!(out, "processor\t: {}\nvendor_id\t: {}\n", cpu.0, info.vendor);
    put!(out, "cpu family\t: {family}\nmodel\t\t: {model}\n");
    put!(out, "model name\t: {}\nstepping\t: {stepping}\n", info.model_name);
    put!(out, "cpu MHz\t\t: {}.{:03}\n", info.khz / 1000, info.khz % 1000);
    if info.cache_kib != 0 {
        put!(out, "cache size\t: {} KB\n", info.cache_kib);
    }
    // All CPUs are taken for cores of one package: how they are joined is not known.
    let cores = hal::cpu::nr_cpus();
    put!(out, "physical id\t: 0\nsiblings\t: {cores}\ncore id\t\t: {}\ncpu cores\t: {cores}\n", cpu.0);
    put!(out, "apicid\t\t: {0}\ninitial apicid\t: {0}\n", info.apic_id);
    put!(out, "fpu\t\t: yes\nfpu_exception\t: yes\nwp\t\t: yes\nflags\t\t:");
    info.flags.iter().for_each(|flag| put!(out, " {flag}"));
    // Two loops a clock tick, as on all CPUs with a constant TSC.
    let bogomips = info.khz * 2 / 10;
    put!(out, "\nbugs\t\t:\nbogomips\t: {}.{:02}\n", bogomips / 100, bogomips % 100);
    put!(out, "clflush size\t: {CACHE_LINE}\ncache_alignment\t: {CACHE_LINE}\n");
    let (physical, virt) = info.address_bits;
    put!(out, "address sizes\t: {physical} bits physical, {virt} bits virtual\npower management:\n\n");
}
