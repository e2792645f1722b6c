//! `devices/system`: CPUs, memory and its one node, the clock; and `bus/cpu`.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::cpu::{CpuId, CpuMask, MAX_CPUS};
use mm::counters::{Counter, collect_meminfo};
use vfs::put;
use vfs::text::{put_cpu_list, put_cpu_mask};

use crate::place::{Item, Items, Place, attribute, link, setting, subdir, value};
use crate::topology::{self, Cache};
use crate::{events, hugepages};

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `devices/system`.
    System,
    /// `devices/system/cpu`.
    Cpus,
    /// `devices/system/cpu/cpuN`.
    Cpu(CpuId),
    /// `devices/system/cpu/cpuN/topology`.
    Topology(CpuId),
    /// `devices/system/cpu/cpuN/cache`.
    Caches(CpuId),
    /// `devices/system/cpu/cpuN/cache/indexM`.
    Cache(CpuId, Cache),
    /// `devices/system/cpu/smt`.
    Smt,
    /// `devices/system/memory`.
    Memory,
    /// `devices/system/node`.
    Nodes,
    /// `devices/system/node/node0`.
    Node0,
    /// `devices/system/node/node0/memory_failure`.
    Failures,
    /// `devices/system/clocksource`.
    Clocks,
    /// `devices/system/clocksource/clocksource0`.
    Clock0,
    /// `bus`.
    Bus,
    /// `bus/cpu`.
    BusCpu,
    /// `bus/cpu/devices`.
    BusCpuDevices,
}

fn sub(name: &'static str, part: Part) -> (alloc::borrow::Cow<'static, str>, crate::place::Item) {
    subdir(name, Place::System(part))
}

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::System => Vec::from([
            sub("clocksource", Part::Clocks),
            sub("cpu", Part::Cpus),
            sub("memory", Part::Memory),
            sub("node", Part::Nodes),
        ]),
        Part::Cpus => cpus(),
        Part::Cpu(cpu) => one_cpu(cpu),
        Part::Topology(cpu) => topology(cpu),
        Part::Caches(cpu) => caches(cpu),
        Part::Cache(cpu, cache) => cache_items(cpu, &cache),
        Part::Smt => Vec::from([value("active", "0"), value("control", "notsupported")]),
        Part::Memory => memory(),
        Part::Nodes => nodes(),
        Part::Node0 => node0(),
        Part::Failures => failures(),
        Part::Clocks => Vec::from([sub("clocksource0", Part::Clock0)]),
        Part::Clock0 => clock_sources(),
        Part::Bus => Vec::from([
            sub("cpu", Part::BusCpu),
            subdir("event_source", Place::Events(events::Part::Bus)),
            subdir("pci", Place::PciBus),
        ]),
        Part::BusCpu => Vec::from([sub("devices", Part::BusCpuDevices)]),
        Part::BusCpuDevices => online()
            .map(|cpu| {
                let name = format!("cpu{}", cpu.0);
                let target = format!("../../../devices/system/cpu/{name}");
                link(name, target)
            })
            .collect(),
    }
}

/// What can be asked of physical memory. Blocks of it do not come and go.
#[inline(never)]
fn memory() -> Items {
    /// `EINVAL`: no number.
    fn address(bytes: &[u8]) -> Result<u64> {
        let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim_end();
        let addr = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        addr.map_err(|_| Errno::EINVAL)
    }
    let hard = |bytes: &[u8]| mm::failure::fail_page(address(bytes)?);
    let soft = |bytes: &[u8]| mm::offline::soft_offline_page(address(bytes)?);
    Vec::from([
        ("hard_offline_page".into(), Item::Trigger(Arc::new(hard))),
        ("soft_offline_page".into(), Item::Trigger(Arc::new(soft))),
    ])
}

/// What became of pages that have failed.
fn failures() -> Items {
    let counter = |name: &'static str, count: &'static Counter| {
        attribute(name, |out| {
            put!(out, "{}\n", count.get());
            Ok(())
        })
    };
    Vec::from([
        // None is left for later.
        value("delayed", "0"),
        counter("failed", &mm::failure::FAILED),
        counter("ignored", &mm::failure::IGNORED),
        counter("recovered", &mm::failure::RECOVERED),
        counter("total", &mm::failure::TOTAL),
    ])
}

/// The sources of the clock: those that there are, and the one that is read, which can be changed.
fn clock_sources() -> Items {
    /// Longest name that is looked at, with its newline.
    const MAX_NAME: usize = 32;
    let current = setting(
        "current_clocksource",
        |out| {
            put!(out, "{}\n", hal::time::clock_source());
            Ok(())
        },
        |bytes| {
            if bytes.is_empty() || bytes.len() >= MAX_NAME {
                return Err(Errno::EINVAL);
            }
            hal::time::choose_clock_source(bytes.strip_suffix(b"\n").unwrap_or(bytes));
            Ok(())
        },
    );
    let available = attribute("available_clocksource", |out| {
        for name in hal::time::clock_sources() {
            put!(out, "{name} ");
        }
        out.push(b"\n");
        Ok(())
    });
    Vec::from([available, current])
}

fn online() -> impl Iterator<Item = CpuId> {
    hal::cpu::online().iter()
}

/// An attribute that shows a set of CPUs as ranges.
fn list(name: &'static str, mask: CpuMask) -> (alloc::borrow::Cow<'static, str>, crate::place::Item) {
    attribute(name, move |out| {
        put_cpu_list(out, mask);
        out.push(b"\n");
        Ok(())
    })
}

/// An attribute that shows a set of CPUs as a mask.
fn mask(name: &'static str, mask: CpuMask) -> (alloc::borrow::Cow<'static, str>, crate::place::Item) {
    attribute(name, move |out| {
        put_cpu_mask(out, mask, hal::cpu::nr_cpus());
        out.push(b"\n");
        Ok(())
    })
}

fn cpus() -> Items {
    let all = hal::cpu::online();
    let mut items = Vec::from([
        value("isolated", ""),
        value("kernel_max", format!("{}", MAX_CPUS - 1)),
        list("offline", CpuMask::NONE),
        list("online", all),
        list("possible", all),
        list("present", all),
        sub("smt", Part::Smt),
    ]);
    items.extend(online().map(|cpu| subdir(format!("cpu{}", cpu.0), Place::System(Part::Cpu(cpu)))));
    items
}

#[inline(never)]
fn one_cpu(cpu: CpuId) -> Items {
    let mut items = Vec::from([
        link("node0", alloc::string::String::from("../../node/node0")),
        link("subsystem", alloc::string::String::from("../../../../bus/cpu")),
        sub("topology", Part::Topology(cpu)),
    ]);
    if !topology::caches(&hal::cpu::cpuid).is_empty() {
        items.push(sub("cache", Part::Caches(cpu)));
    }
    // The first CPU cannot be switched off, so it has no switch.
    if cpu != CpuId::BOOT {
        items.push(value("online", "1"));
    }
    items
}

/// The directory of each cache, numbered as CPUID lists them.
fn caches(cpu: CpuId) -> Items {
    let all = topology::caches(&hal::cpu::cpuid).into_iter().enumerate();
    all.map(|(index, cache)| subdir(format!("index{index}"), Place::System(Part::Cache(cpu, cache))))
        .collect()
}

#[inline(never)]
fn cache_items(cpu: CpuId, cache: &Cache) -> Items {
    let shared = topology::sharing(cpu, |apic_id| (cache.id(apic_id), 0));
    let number = |number: u32| format!("{number}");
    Vec::from([
        value("coherency_line_size", number(cache.line_bytes)),
        value("id", number(cache.id(topology::apic_id(cpu)))),
        value("level", number(cache.level)),
        value("number_of_sets", number(cache.sets)),
        value("physical_line_partition", number(cache.partitions)),
        list("shared_cpu_list", shared),
        mask("shared_cpu_map", shared),
        value("size", format!("{}K", cache.kib())),
        value("type", cache.kind.name()),
        value("ways_of_associativity", number(cache.ways)),
    ])
}

/// Where the CPU is among the others. Dies and clusters within a package are not known.
#[inline(never)]
fn topology(cpu: CpuId) -> Items {
    /// What Linux shows where there are no clusters.
    const NO_CLUSTER: &str = "65535";
    let layout = topology::layout(&hal::cpu::cpuid);
    let core = topology::sharing(cpu, |apic_id| (layout.package(apic_id), layout.core(apic_id)));
    let package = topology::sharing(cpu, |apic_id| (layout.package(apic_id), 0));
    let apic_id = topology::apic_id(cpu);
    let mut items = Vec::from([
        value("cluster_id", NO_CLUSTER),
        value("core_id", format!("{}", layout.core(apic_id))),
        value("die_id", "0"),
        value("physical_package_id", format!("{}", layout.package(apic_id))),
    ]);
    let sets = [
        ("cluster_cpus", "cluster_cpus_list", core),
        ("core_cpus", "core_cpus_list", core),
        ("core_siblings", "core_siblings_list", package),
        ("die_cpus", "die_cpus_list", package),
        ("package_cpus", "package_cpus_list", package),
        ("thread_siblings", "thread_siblings_list", core),
    ];
    for (name, as_list, cpus) in sets {
        items.push(mask(name, cpus));
        items.push(list(as_list, cpus));
    }
    items
}

fn nodes() -> Items {
    Vec::from([
        value("has_cpu", "0"),
        value("has_memory", "0"),
        value("has_normal_memory", "0"),
        sub("node0", Part::Node0),
        value("online", "0"),
        value("possible", "0"),
    ])
}

#[inline(never)]
fn node0() -> Items {
    let all = hal::cpu::online();
    let mut items = Vec::from([
        list("cpulist", all),
        mask("cpumap", all),
        value("distance", "10"),
        subdir("hugepages", Place::HugePages(hugepages::Part::Pools(hugepages::Whose::Node))),
        sub("memory_failure", Part::Failures),
        attribute("meminfo", |out| {
            let info = collect_meminfo();
            const KB: u64 = hal::PAGE_SIZE as u64 / 1024;
            for (name, pages) in [
                ("MemTotal:", info.total),
                ("MemFree:", info.free),
                ("MemUsed:", info.total.saturating_sub(info.free)),
                ("FilePages:", info.cached),
                ("Mapped:", info.mapped),
                ("AnonPages:", info.anon),
                ("Shmem:", info.shmem),
            ] {
                put!(out, "Node 0 {name:<15} {:8} kB\n", pages * KB);
            }
            let pool = mm::hugetlb::stats();
            for (name, nr) in [("Total", pool.nr), ("Free", pool.free), ("Surp", pool.surplus)] {
                put!(out, "Node 0 HugePages_{name}: {nr:5}\n");
            }
            Ok(())
        }),
    ]);
    items.extend(online().map(|cpu| {
        let name = format!("cpu{}", cpu.0);
        let target = format!("../../cpu/{name}");
        link(name, target)
    }));
    items
}
