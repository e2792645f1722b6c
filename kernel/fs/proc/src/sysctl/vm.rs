//! /proc/sys/vm (proc_sys_vm(5)).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use mm::hugetlb;
use mm::mapping::writeback;
use mm::sysctl as tunables;
use security::Cap;
use vfs::put;
use vfs::text::Text;

use crate::node::{Entry, Kind, Show, Store, fixed, parse};

const fn number32(
    name: &'static str,
    value: &'static AtomicU32,
    range: core::ops::RangeInclusive<u32>,
) -> Entry {
    Entry { name, kind: Kind::Number32(value, range) }
}

const fn number64(
    name: &'static str,
    value: &'static AtomicU64,
    range: core::ops::RangeInclusive<u64>,
) -> Entry {
    Entry { name, kind: Kind::Number64(value, range) }
}

const fn tunable(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, kind: Kind::Tunable(show, store) }
}

/// Drops clean pages of files on disks (1) and dentries (2). `EINVAL`: not 1 to 4.
fn drop_caches(bytes: &[u8]) -> Result<()> {
    let what = parse(bytes)?;
    if !(1..=4).contains(&what) {
        return Err(Errno::EINVAL);
    }
    if what & 2 != 0 {
        vfs::shrink_dentries();
    }
    if what & 1 != 0 {
        writeback::drop_caches();
    }
    Ok(())
}

fn show_memfd_noexec(out: &mut Text) -> Result<()> {
    put!(out, "{}\n", process::current().group().pid_ns().memfd_noexec());
    Ok(())
}

/// For the caller's pid namespace. `EPERM`: the caller has no power over it.
fn set_memfd_noexec(bytes: &[u8]) -> Result<()> {
    let me = process::current();
    let ns = me.group().pid_ns();
    if !me.with_cred(|cred| cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    ns.set_memfd_noexec(u32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?)
}

/// A number of huge pages. `EINVAL`: it is none.
fn count(bytes: &[u8]) -> Result<u64> {
    u64::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)
}

/// Pages that were asked for: surplus ones are not among them.
fn show_hugepages(out: &mut Text) -> Result<()> {
    let stats = hugetlb::stats();
    put!(out, "{}\n", stats.nr - stats.surplus);
    Ok(())
}

fn set_hugepages(bytes: &[u8]) -> Result<()> {
    hugetlb::set_nr(count(bytes)?);
    Ok(())
}

/// A limit on dirty memory, in percent or in bytes: the one that is set last counts, and the other shows 0.
struct DirtyLimit {
    percent: &'static AtomicU32,
    bytes: &'static AtomicU64,
}

static DIRTY: DirtyLimit = DirtyLimit { percent: &writeback::RATIO, bytes: &writeback::BYTES };
static DIRTY_BACKGROUND: DirtyLimit =
    DirtyLimit { percent: &writeback::BACKGROUND_RATIO, bytes: &writeback::BACKGROUND_BYTES };

impl DirtyLimit {
    fn set_percent(&self, bytes: &[u8]) -> Result<()> {
        let percent = u32::try_from(parse(bytes)?).ok().filter(|percent| *percent <= 100);
        self.percent.store(percent.ok_or(Errno::EINVAL)?, Relaxed);
        self.bytes.store(0, Relaxed);
        writeback::refresh_limit();
        Ok(())
    }

    /// `EINVAL`: less than `least`.
    fn set_bytes(&self, bytes: &[u8], least: u64) -> Result<()> {
        let value = count(bytes)?;
        if value < least {
            return Err(Errno::EINVAL);
        }
        self.bytes.store(value, Relaxed);
        self.percent.store(0, Relaxed);
        writeback::refresh_limit();
        Ok(())
    }

    fn show_percent(&self, out: &mut Text) -> Result<()> {
        put!(out, "{}\n", self.percent.load(Relaxed));
        Ok(())
    }

    fn show_bytes(&self, out: &mut Text) -> Result<()> {
        put!(out, "{}\n", self.bytes.load(Relaxed));
        Ok(())
    }
}

/// The least that `vm.dirty_bytes` can be.
const MIN_DIRTY_BYTES: u64 = 2 * hal::PAGE_SIZE as u64;

/// `EINVAL`: no number of KiB.
fn store_reserve(bytes: &[u8], reserve: &'static AtomicU64) -> Result<()> {
    let kbytes = count(bytes)?;
    // LINUX: a number of pages must fit.
    reserve.store(kbytes.min(u64::MAX >> 12), Relaxed);
    Ok(())
}

fn show_reserve(out: &mut Text, reserve: &'static AtomicU64, most: u64) -> Result<()> {
    put!(out, "{}\n", tunables::reserve_kbytes(reserve, most));
    Ok(())
}

/// Compacts all of memory. LINUX: any other number than 1 is refused. `EINVAL`, `EINTR`.
fn compact_memory(bytes: &[u8]) -> Result<()> {
    if parse(bytes)? != 1 {
        return Err(Errno::EINVAL);
    }
    mm::compact::compact_all()
}

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    tunable(
        "admin_reserve_kbytes",
        |out| show_reserve(out, &tunables::ADMIN_RESERVE_KBYTES, 8 << 10),
        |bytes| store_reserve(bytes, &tunables::ADMIN_RESERVE_KBYTES),
    ),
    Entry { name: "compact_memory", kind: Kind::Trigger(compact_memory) },
    number32("compact_unevictable_allowed", &mm::compact::UNEVICTABLE_ALLOWED, 0..=1),
    tunable(
        "compaction_proactiveness",
        |out| {
            put!(out, "{}\n", mm::compact::daemon::proactiveness());
            Ok(())
        },
        |bytes| {
            let percent = u32::try_from(count(bytes)?).map_err(|_| Errno::EINVAL)?;
            mm::compact::daemon::set_proactiveness(percent)
        },
    ),
    tunable(
        "dirty_background_bytes",
        |out| DIRTY_BACKGROUND.show_bytes(out),
        |bytes| DIRTY_BACKGROUND.set_bytes(bytes, 1),
    ),
    tunable(
        "dirty_background_ratio",
        |out| DIRTY_BACKGROUND.show_percent(out),
        |bytes| DIRTY_BACKGROUND.set_percent(bytes),
    ),
    tunable("dirty_bytes", |out| DIRTY.show_bytes(out), |bytes| DIRTY.set_bytes(bytes, MIN_DIRTY_BYTES)),
    number32("dirty_expire_centisecs", &writeback::EXPIRE_CENTISECS, 0..=i32::MAX as u32),
    tunable("dirty_ratio", |out| DIRTY.show_percent(out), |bytes| DIRTY.set_percent(bytes)),
    number32("dirty_writeback_centisecs", &writeback::INTERVAL_CENTISECS, 0..=i32::MAX as u32),
    Entry { name: "drop_caches", kind: Kind::Trigger(drop_caches) },
    number32("enable_soft_offline", &mm::offline::ENABLED, 0..=1),
    number32("extfrag_threshold", &mm::compact::EXTFRAG_THRESHOLD, 0..=1000),
    number32("hugetlb_shm_group", &hugetlb::SHM_GROUP, 0..=u32::MAX),
    fixed("laptop_mode", "0"),
    number64("max_map_count", &tunables::MAX_MAP_COUNT, 0..=i32::MAX as u64),
    Entry { name: "memfd_noexec", kind: Kind::Tunable(show_memfd_noexec, set_memfd_noexec) },
    number64("min_free_kbytes", &mm::reclaim::MIN_FREE_KBYTES, 0..=i32::MAX as u64),
    number64("mmap_min_addr", &tunables::MMAP_MIN_ADDR, 0..=i64::MAX as u64),
    fixed("mmap_rnd_bits", "28"),
    Entry { name: "nr_hugepages", kind: Kind::Tunable(show_hugepages, set_hugepages) },
    Entry { name: "nr_hugepages_mempolicy", kind: Kind::Tunable(show_hugepages, set_hugepages) },
    Entry {
        name: "nr_overcommit_hugepages",
        kind: Kind::Tunable(
            |out| {
                put!(out, "{}\n", hugetlb::stats().overcommit);
                Ok(())
            },
            |bytes| {
                hugetlb::set_overcommit(count(bytes)?);
                Ok(())
            },
        ),
    },
    number32("oom_dump_tasks", &tunables::OOM_DUMP_TASKS, 0..=1),
    number32("oom_kill_allocating_task", &tunables::OOM_KILL_ALLOCATING_TASK, 0..=1),
    number64("overcommit_kbytes", &tunables::OVERCOMMIT_KBYTES, 0..=i64::MAX as u64),
    number32("overcommit_memory", &tunables::OVERCOMMIT_MEMORY, 0..=2),
    number64("overcommit_ratio", &tunables::OVERCOMMIT_RATIO, 0..=i32::MAX as u64),
    number32("page-cluster", &mm::swap::PAGE_CLUSTER, 0..=31),
    number32("panic_on_oom", &tunables::PANIC_ON_OOM, 0..=2),
    fixed("stat_interval", "1"),
    number32("swappiness", &mm::reclaim::SWAPPINESS, 0..=mm::reclaim::TURNS),
    number32("unprivileged_userfaultfd", &userfaultfd::UNPRIVILEGED, 0..=1),
    tunable(
        "user_reserve_kbytes",
        |out| show_reserve(out, &tunables::USER_RESERVE_KBYTES, 128 << 10),
        |bytes| store_reserve(bytes, &tunables::USER_RESERVE_KBYTES),
    ),
    number32("vfs_cache_pressure", &mm::reclaim::CACHE_PRESSURE, 0..=i32::MAX as u32),
    fixed("zone_reclaim_mode", "0"),
];
