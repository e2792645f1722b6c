//! /proc/PID/smaps and /proc/PID/smaps_rollup (proc_pid_smaps(5)).

use alloc::vec::Vec;
use core::ops::ControlFlow;

use abi::Result;
use mm::watch::WatchModes;
use mm::{Mm, PageStats, VmFlags, VmaInfo};
use vfs::put;
use vfs::text::Text;

use super::maps;

const KB: u64 = hal::PAGE_SIZE as u64 / 1024;

/// Two letters for each flag, as `VmFlags:` lists them, in the order of the bits.
const FLAG_NAMES: &[(VmFlags, &str)] = &[
    (VmFlags::READ, "rd"),
    (VmFlags::WRITE, "wr"),
    (VmFlags::EXEC, "ex"),
    (VmFlags::SHARED, "sh"),
    (VmFlags::MAYREAD, "mr"),
    (VmFlags::MAYWRITE, "mw"),
    (VmFlags::MAYEXEC, "me"),
    (VmFlags::MAYSHARE, "ms"),
    (VmFlags::GROWSDOWN, "gd"),
    (VmFlags::PFNMAP, "pf"),
    (VmFlags::LOCKED, "lo"),
    (VmFlags::IO, "io"),
    (VmFlags::SEQ_READ, "sr"),
    (VmFlags::RAND_READ, "rr"),
    (VmFlags::DONTCOPY, "dc"),
    (VmFlags::DONTEXPAND, "de"),
    (VmFlags::LOCKONFAULT, "lf"),
    (VmFlags::ACCOUNT, "ac"),
    (VmFlags::NORESERVE, "nr"),
    (VmFlags::HUGETLB, "ht"),
    (VmFlags::WIPEONFORK, "wf"),
    (VmFlags::DONTDUMP, "dd"),
    (VmFlags::MAYBE_GUARD, "gu"),
    // Soft-dirty as a whole: the mark is missing.
    (VmFlags::SOFTCLEAN, "sd"),
    (VmFlags::HUGEPAGE, "hg"),
    (VmFlags::NOHUGEPAGE, "nh"),
    (VmFlags::MERGEABLE, "mg"),
    (VmFlags::SEALED, "sl"),
];

/// The same for the faults that user space makes good.
const WATCH_NAMES: &[(WatchModes, &str)] =
    &[(WatchModes::MISSING, "um"), (WatchModes::WP, "uw"), (WatchModes::MINOR, "ui")];

/// The mappings, copied so that no lock is held while their pages are counted.
pub(super) fn mappings(mm: &Mm) -> Vec<VmaInfo> {
    let mut list = Vec::new();
    mm.for_each_vma(0, |vma| {
        if list.try_reserve(1).is_err() {
            return ControlFlow::Break(());
        }
        list.push(vma.clone());
        ControlFlow::Continue(())
    });
    list
}

fn put_kb(out: &mut Text, name: &str, kb: u64) {
    put!(out, "{:<16}{kb:8} kB\n", name);
}

/// What the lines are about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// One mapping.
    Part,
    /// All.
    Sum,
}

/// The lines that a mapping and the sum have in common, and some of the sum's own.
fn put_stats(out: &mut Text, stats: &PageStats, locked: bool, whole: Whole) {
    let pss = stats.pss_bytes / 1024;
    put_kb(out, "Rss:", stats.rss * KB);
    put_kb(out, "Pss:", pss);
    put_kb(out, "Pss_Dirty:", stats.pss_dirty / 1024);
    if whole == Whole::Sum {
        put_kb(out, "Pss_Anon:", stats.pss_anon / 1024);
        let file = stats.pss_bytes.saturating_sub(stats.pss_anon + stats.pss_shmem);
        put_kb(out, "Pss_File:", file / 1024);
        put_kb(out, "Pss_Shmem:", stats.pss_shmem / 1024);
    }
    put_kb(out, "Shared_Clean:", stats.shared_clean * KB);
    put_kb(out, "Shared_Dirty:", stats.shared_dirty * KB);
    put_kb(out, "Private_Clean:", stats.private_clean * KB);
    put_kb(out, "Private_Dirty:", stats.private_dirty * KB);
    put_kb(out, "Referenced:", stats.referenced * KB);
    put_kb(out, "Anonymous:", stats.anonymous * KB);
    put_kb(out, "KSM:", stats.ksm * KB);
    put_kb(out, "LazyFree:", stats.lazy * KB);
    put_kb(out, "AnonHugePages:", stats.anon_huge * KB);
    put_kb(out, "ShmemPmdMapped:", stats.shmem_huge * KB);
    put_kb(out, "FilePmdMapped:", 0);
    put_kb(out, "Shared_Hugetlb:", stats.shared_hugetlb * KB);
    put_kb(out, "Private_Hugetlb:", stats.private_hugetlb * KB);
    put_kb(out, "Swap:", stats.swap * KB);
    put_kb(out, "SwapPss:", stats.swap_pss_bytes / 1024);
    put_kb(out, "Locked:", if locked { pss } else { 0 });
}

/// /proc/PID/smaps.
pub(super) fn show(mm: &Mm, out: &mut Text) -> Result<()> {
    for vma in mappings(mm) {
        maps::put_line(out, &vma);
        put_kb(out, "Size:", (vma.range.end - vma.range.start) / 1024);
        let is_huge = vma.flags.contains(VmFlags::HUGETLB);
        let page = if is_huge { mm::hugetlb::SIZE / 1024 } else { KB };
        put_kb(out, "KernelPageSize:", page);
        put_kb(out, "MMUPageSize:", page);
        let stats = mm.collect_page_stats(vma.range.clone());
        put_stats(out, &stats, vma.flags.contains(VmFlags::LOCKED), Whole::Part);
        put!(out, "THPeligible:    {:8}\n", u8::from(vma.huge_eligible));
        if hal::pkey::is_supported() {
            put!(out, "ProtectionKey:  {:8}\n", vma.pkey);
        }
        put!(out, "VmFlags: ");
        let soft_dirty = !vma.flags.contains(VmFlags::SOFTCLEAN);
        for (flag, name) in FLAG_NAMES {
            let is_set = if *name == "sd" { soft_dirty } else { vma.flags.contains(*flag) };
            if is_set {
                put!(out, "{name} ");
            }
        }
        for (mode, name) in WATCH_NAMES {
            if vma.watched.contains(*mode) {
                put!(out, "{name} ");
            }
        }
        out.push(b"\n");
    }
    Ok(())
}

/// /proc/PID/smaps_rollup; that of a process without mappings is from 0 to 0.
pub(super) fn show_rollup(mm: &Mm, out: &mut Text) -> Result<()> {
    let list = mappings(mm);
    let first = list.first().map_or(0, |vma| vma.range.start);
    let last = list.last().map_or(0, |vma| vma.range.end);
    let start = out.len();
    put!(out, "{first:08x}-{last:08x} ---p 00000000 00:00 0");
    out.pad_to(start, 73);
    out.push(b"[rollup]\n");
    let mut sum = PageStats::default();
    let mut locked_bytes = 0;
    for vma in &list {
        let stats = mm.collect_page_stats(vma.range.clone());
        sum.rss += stats.rss;
        sum.pss_bytes += stats.pss_bytes;
        sum.pss_anon += stats.pss_anon;
        sum.pss_shmem += stats.pss_shmem;
        sum.pss_dirty += stats.pss_dirty;
        sum.shared_clean += stats.shared_clean;
        sum.shared_dirty += stats.shared_dirty;
        sum.private_clean += stats.private_clean;
        sum.private_dirty += stats.private_dirty;
        sum.referenced += stats.referenced;
        sum.anonymous += stats.anonymous;
        sum.anon_huge += stats.anon_huge;
        sum.shmem_huge += stats.shmem_huge;
        sum.lazy += stats.lazy;
        sum.ksm += stats.ksm;
        sum.swap += stats.swap;
        sum.swap_pss_bytes += stats.swap_pss_bytes;
        sum.shared_hugetlb += stats.shared_hugetlb;
        sum.private_hugetlb += stats.private_hugetlb;
        locked_bytes += if vma.flags.contains(VmFlags::LOCKED) { stats.pss_bytes } else { 0 };
    }
    put_stats(out, &sum, locked_bytes > 0, Whole::Sum);
    Ok(())
}
