//! `kernel/mm/ksm`: merging of equal pages (Documentation/admin-guide/mm/ksm.rst).

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt::Display;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use mm::ksm::settings::{
    self, ADVISOR_MAX_CPU, ADVISOR_MAX_PAGES, ADVISOR_MIN_PAGES, ADVISOR_TARGET_SECS, PAGES_TO_SCAN,
    PRUNE_MILLISECS, SLEEP_MILLISECS, SMART_SCAN, USE_ZERO_PAGES,
};
use mm::ksm::{self, Run, Stats};
use vfs::put;

use crate::place::{Item, Items, attribute, setting};
use crate::thp::{number, word};

type Named = (Cow<'static, str>, Item);

/// The range of what is a `u32` on Linux.
const ANY: RangeInclusive<u64> = 0..=u32::MAX as u64;

pub(crate) fn items() -> Items {
    let mut items = Vec::from([
        tunable("advisor_max_cpu", &ADVISOR_MAX_CPU, ANY),
        tunable("advisor_max_pages_to_scan", &ADVISOR_MAX_PAGES, ANY),
        tunable("advisor_min_pages_to_scan", &ADVISOR_MIN_PAGES, ANY),
        advisor_mode(),
        tunable("advisor_target_scan_time", &ADVISOR_TARGET_SECS, 1..=u64::from(u32::MAX)),
        value("full_scans", ksm::full_scans),
        stat("general_profit", |stats| stats.general_profit),
        value("ksm_zero_pages", ksm::zero_pages),
        changed("max_page_sharing", ksm::max_page_sharing, |bytes| {
            ksm::set_max_page_sharing(number(bytes, ANY)?)
        }),
        changed(
            "merge_across_nodes",
            || u8::from(ksm::merge_across_nodes()),
            |bytes| ksm::set_merge_across_nodes(number(bytes, 0..=1)? == 1),
        ),
    ]);
    items.extend(more_items());
    items
}

/// The second half: both together take much of the stack.
#[inline(never)]
fn more_items() -> Items {
    Vec::from([
        value("pages_scanned", ksm::pages_scanned),
        stat("pages_shared", |stats| stats.pages_shared),
        stat("pages_sharing", |stats| stats.pages_sharing),
        value("pages_skipped", ksm::pages_skipped),
        changed(
            "pages_to_scan",
            || PAGES_TO_SCAN.load(Relaxed),
            |bytes| settings::set_pages_to_scan(number(bytes, ANY)?),
        ),
        stat("pages_unshared", |stats| stats.pages_unshared),
        stat("pages_volatile", |stats| stats.pages_volatile),
        changed(
            "run",
            || ksm::run() as u8,
            |bytes| {
                ksm::set_run(match number(bytes, 0..=2)? {
                    0 => Run::Stop,
                    1 => Run::Merge,
                    _ => Run::Unmerge,
                })
            },
        ),
        tunable("sleep_millisecs", &SLEEP_MILLISECS, ANY),
        switch("smart_scan", &SMART_SCAN),
        value("stable_node_chains", || ksm::chains().chains),
        tunable("stable_node_chains_prune_millisecs", &PRUNE_MILLISECS, ANY),
        value("stable_node_dups", || ksm::chains().dups),
        switch("use_zero_pages", &USE_ZERO_PAGES),
    ])
}

/// A number that can only be read.
fn value(name: &'static str, of: fn() -> u64) -> Named {
    attribute(name, move |out| {
        put!(out, "{}\n", of());
        Ok(())
    })
}

/// The same for one that takes a look at all stable pages.
fn stat<T: Display + 'static>(name: &'static str, of: fn(&Stats) -> T) -> Named {
    attribute(name, move |out| {
        put!(out, "{}\n", of(&ksm::stats()));
        Ok(())
    })
}

/// A number that `store` changes.
fn changed<T: Display + 'static>(
    name: &'static str,
    of: fn() -> T,
    store: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
) -> Named {
    let show = move |out: &mut vfs::text::Text| {
        put!(out, "{}\n", of());
        Ok(())
    };
    setting(name, show, store)
}

/// A number in `range`. `EINVAL`: it is not.
fn tunable(name: &'static str, of: &'static AtomicU64, range: RangeInclusive<u64>) -> Named {
    let show = |out: &mut vfs::text::Text| {
        put!(out, "{}\n", of.load(Relaxed));
        Ok(())
    };
    setting(name, show, move |bytes| {
        of.store(number(bytes, range.clone())?, Relaxed);
        ksm::wake();
        Ok(())
    })
}

fn switch(name: &'static str, of: &'static AtomicBool) -> Named {
    let show = |out: &mut vfs::text::Text| {
        put!(out, "{}\n", u8::from(of.load(Relaxed)));
        Ok(())
    };
    setting(name, show, |bytes| {
        of.store(number(bytes, 0..=1)? == 1, Relaxed);
        Ok(())
    })
}

fn advisor_mode() -> Named {
    let show = |out: &mut vfs::text::Text| {
        let line = if settings::is_advised() { "none [scan-time]\n" } else { "[none] scan-time\n" };
        put!(out, "{line}");
        Ok(())
    };
    setting("advisor_mode", show, |bytes| {
        settings::set_advised(match word(bytes)? {
            "none" => false,
            "scan-time" => true,
            _ => return Err(Errno::EINVAL),
        });
        Ok(())
    })
}
