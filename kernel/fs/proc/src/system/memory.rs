//! Memory of the whole system (proc_meminfo(5), proc_vmstat(5)).

use abi::Result;
use mm::counters::{MemInfo, OOM_KILL, PGFAULT, PGMAJFAULT, collect_meminfo};
use mm::{compact, hugetlb, offline, reclaim, swap, thp};
use vfs::put;
use vfs::text::Text;

/// Kilobytes in a page.
const KB: u64 = hal::PAGE_SIZE as u64 / 1024;

/// /proc/meminfo. What Keel does not have (a pool of huge pages, ...) is 0.
pub(super) fn meminfo(out: &mut Text) -> Result<()> {
    let info = collect_meminfo();
    let heap_kb = info.heap_bytes / 1024;
    let file_kb = info.cached.saturating_sub(info.shmem) * KB;
    let anon_kb = (info.anon + info.shmem) * KB;
    for (name, kb) in [
        ("MemTotal", info.total * KB),
        ("MemFree", info.free * KB),
        ("MemAvailable", info.available * KB),
        ("Buffers", 0),
        ("Cached", info.cached * KB),
        ("SwapCached", swap::nr_cached() as u64 * KB),
        ("Active", anon_kb + file_kb),
        ("Inactive", 0),
        ("Active(anon)", anon_kb),
        ("Inactive(anon)", 0),
        ("Active(file)", file_kb),
        ("Inactive(file)", 0),
        ("Unevictable", info.mlocked * KB),
        ("Mlocked", info.mlocked * KB),
        ("SwapTotal", swap::TOTAL.get() * KB),
        ("SwapFree", swap::TOTAL.get().saturating_sub(swap::USED.get()) * KB),
        ("Dirty", info.dirty * KB),
        ("Writeback", 0),
        ("AnonPages", info.anon * KB),
        ("Mapped", info.mapped * KB),
        ("Shmem", info.shmem * KB),
        ("KReclaimable", 0),
        ("Slab", heap_kb),
        ("SReclaimable", 0),
        ("SUnreclaim", heap_kb),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", info.commit_limit * KB),
        ("Committed_AS", info.committed * KB),
        ("VmallocTotal", VMALLOC_KB),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("HardwareCorrupted", offline::WITHDRAWN.get() * KB),
        ("AnonHugePages", info.anon_huge * KB),
        ("ShmemHugePages", info.shmem_huge * KB),
        ("ShmemPmdMapped", info.shmem_huge_mapped * KB),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ] {
        let name = alloc::format!("{name}:");
        put!(out, "{name:<16}{kb:8} kB\n");
    }
    let pool = hugetlb::stats();
    for (name, nr) in [("Total", pool.nr), ("Free", pool.free), ("Rsvd", pool.resv), ("Surp", pool.surplus)] {
        let name = alloc::format!("HugePages_{name}:");
        put!(out, "{name:<16}{nr:8}\n");
    }
    let kb = hugetlb::SIZE / 1024;
    put!(out, "Hugepagesize:   {kb:8} kB\nHugetlb:        {:8} kB\n", pool.nr * kb);
    Ok(())
}

/// Size of the kernel's part of the address space for mappings of its own, 32 TiB, as Linux tells it.
const VMALLOC_KB: u64 = 34_359_738_367;

/// /proc/vmstat.
pub(super) fn vmstat(out: &mut Text) -> Result<()> {
    let info = collect_meminfo();
    let heap_pages = info.heap_bytes / hal::PAGE_SIZE as u64;
    let file = info.cached.saturating_sub(info.shmem);
    for (name, value) in [
        ("nr_free_pages", info.free),
        ("nr_zone_active_anon", info.anon + info.shmem),
        ("nr_zone_active_file", file),
        ("nr_zone_write_pending", info.dirty),
        ("nr_mlock", info.mlocked),
        ("nr_inactive_anon", 0),
        ("nr_active_anon", info.anon + info.shmem),
        ("nr_inactive_file", 0),
        ("nr_active_file", file),
        ("nr_unevictable", info.mlocked),
        ("nr_slab_reclaimable", 0),
        ("nr_slab_unreclaimable", heap_pages),
        ("nr_anon_pages", info.anon),
        ("nr_anon_transparent_hugepages", info.anon_huge / 512),
        ("nr_mapped", info.mapped),
        ("nr_file_pages", info.cached),
        ("nr_dirty", info.dirty),
        ("nr_writeback", 0),
        ("nr_shmem", info.shmem),
        ("nr_shmem_hugepages", info.shmem_huge / 512),
        ("nr_shmem_pmdmapped", info.shmem_huge_mapped / 512),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", swap::PSWPIN.get()),
        ("pswpout", swap::PSWPOUT.get()),
        ("pageoutrun", reclaim::RUNS.get()),
        ("allocstall_normal", reclaim::STALLS.get()),
        ("pgscan_kswapd", reclaim::SCANNED.get()),
        ("pgsteal_kswapd", reclaim::STOLEN.get()),
        ("pgfault", PGFAULT.get()),
        ("pgmajfault", PGMAJFAULT.get()),
        ("oom_kill", OOM_KILL.get()),
        ("pgmigrate_success", compact::MOVED.get()),
        ("compact_isolated", compact::ISOLATED.get()),
        ("compact_stall", compact::STALLS.get()),
        ("compact_fail", compact::FAILURES.get()),
        ("compact_success", compact::SUCCESSES.get()),
        ("compact_daemon_wake", compact::daemon::WAKES.get()),
        ("thp_fault_alloc", thp::FAULT_ALLOC.get()),
        ("thp_fault_fallback", thp::FAULT_FALLBACK.get()),
        ("thp_collapse_alloc", thp::collapse::ALLOC.get()),
        ("thp_collapse_alloc_failed", thp::collapse::ALLOC_FAILED.get()),
        ("thp_file_alloc", thp::sizes::FILE_ALLOC.get()),
        ("thp_file_fallback", thp::sizes::FILE_FALLBACK.get()),
        ("thp_scan_exceed_none_pte", thp::collapse::EXCEED_NONE.get()),
        ("thp_scan_exceed_swap_pte", thp::collapse::EXCEED_SWAP.get()),
        ("thp_scan_exceed_share_pte", thp::collapse::EXCEED_SHARED.get()),
        ("thp_zero_page_alloc", thp::ZERO_ALLOC.get()),
        ("thp_zero_page_alloc_failed", thp::ZERO_FAILED.get()),
        ("swap_ra", swap::AHEAD.get()),
        ("swap_ra_hit", swap::HITS.get()),
    ] {
        put!(out, "{name} {value}\n");
    }
    Ok(())
}

/// /proc/zoneinfo: all memory is one zone.
pub(super) fn zoneinfo(out: &mut Text) -> Result<()> {
    let info: MemInfo = collect_meminfo();
    put!(out, "Node 0, zone   Normal\n");
    put!(out, "  pages free     {}\n", info.free);
    let marks = reclaim::marks();
    for (name, mark) in [("boost", 0), ("min", marks.min), ("low", marks.low), ("high", marks.high)] {
        put!(out, "        {name:<8} {mark}\n");
    }
    for name in ["spanned", "present", "managed"] {
        put!(out, "        {name:<8} {}\n", info.total);
    }
    put!(out, "      nr_free_pages {}\n", info.free);
    Ok(())
}

/// /proc/pagetypeinfo: pages are not kept apart by whether they can move, so all are of one type, and each block.
pub(super) fn pagetypeinfo(out: &mut Text) -> Result<()> {
    const TYPES: [&str; 3] = ["Unmovable", "Movable", "Reclaimable"];
    let (order, pages) = (hal::frame::HUGE_ORDER, hal::frame::HUGE_FRAMES);
    put!(out, "Page block order: {order}\nPages per block:  {pages}\n\n");
    put!(out, "{:<43}", "Free pages count per migrate type at order");
    let runs = hal::frame::free_runs();
    (0..runs.len()).for_each(|order| put!(out, " {order:6}"));
    out.push(b"\n");
    for kind in TYPES {
        put!(out, "Node    0, zone   Normal, type {kind:>12} ");
        runs.iter().for_each(|n| put!(out, "{:6} ", if kind == "Movable" { *n } else { 0 }));
        out.push(b"\n");
    }
    put!(out, "\n{:<23}", "Number of blocks type");
    TYPES.iter().for_each(|kind| put!(out, "{kind:>12} "));
    put!(out, "\nNode 0, zone   Normal ");
    let blocks = hal::frame::stats().total / pages;
    TYPES.iter().for_each(|kind| put!(out, "{:12} ", if *kind == "Movable" { blocks } else { 0 }));
    out.push(b"\n");
    Ok(())
}

/// /proc/buddyinfo: free blocks by size. Pages that CPUs have at hand are in none.
pub(super) fn buddyinfo(out: &mut Text) -> Result<()> {
    put!(out, "Node 0, zone   Normal ");
    hal::frame::free_runs().iter().for_each(|runs| put!(out, "{runs:6} "));
    out.push(b"\n");
    Ok(())
}

/// /proc/swaps.
pub(super) fn swaps(out: &mut Text) -> Result<()> {
    out.push(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    for area in swap::areas() {
        let start = out.len();
        out.push_escaped(&area.path, b" \t\n\\");
        out.pad_to(start, 40);
        let kind = if area.is_partition { "partition" } else { "file\t" };
        put!(out, "{kind}\t{}\t\t{}\t\t{}\n", area.size * KB, area.used * KB, area.priority);
    }
    Ok(())
}

/// /proc/slabinfo: a headline, as the heap's size classes are not caches of objects.
pub(super) fn slabinfo(out: &mut Text) -> Result<()> {
    out.push(b"slabinfo - version: 2.1\n");
    out.push(
        b"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> \
          <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
    );
    Ok(())
}
