//! `kernel/mm/transparent_hugepage`: huge pages of private memory (transhuge.rst).

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::frame::{HUGE_FRAMES, HUGE_ORDER, HUGE_SIZE};
use mm::thp::khugepaged;
use mm::thp::settings::{self, BACKGROUND, Choice, FIRST_SHMEM_ORDER, USE_ZERO_PAGE};
use vfs::put;
use vfs::text::Text;

use crate::place::{Item, Items, Place, attribute, setting, subdir, value};

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The whole.
    Top,
    /// `khugepaged`.
    Background,
    /// `hugepages-SIZEkB`, by order.
    Size(u32),
    /// `hugepages-SIZEkB/stats`.
    Stats(u32),
}

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::Top => top(),
        Part::Background => background(),
        Part::Size(order) => {
            let mut items = Vec::new();
            items.extend(settings::of_size(order).map(|size| choice("enabled", size)));
            items.extend(settings::shmem_of_size(order).map(|size| choice("shmem_enabled", size)));
            items.push(subdir("stats", Place::Thp(Part::Stats(order))));
            items
        }
        Part::Stats(order) => stats(order),
    }
}

fn top() -> Items {
    let mut items = Vec::from([
        choice("defrag", settings::defrag()),
        choice("enabled", settings::enabled()),
        value("hpage_pmd_size", format!("{HUGE_SIZE}")),
        subdir("khugepaged", Place::Thp(Part::Background)),
        choice("shmem_enabled", settings::shmem()),
        setting(
            "use_zero_page",
            |out| {
                put!(out, "{}\n", u8::from(USE_ZERO_PAGE.load(Relaxed)));
                Ok(())
            },
            |bytes| {
                USE_ZERO_PAGE.store(number(bytes, 0..=1)? == 1, Relaxed);
                Ok(())
            },
        ),
    ]);
    for order in FIRST_SHMEM_ORDER..=HUGE_ORDER {
        let kb = (hal::PAGE_SIZE << order) / 1024;
        items.push(subdir(format!("hugepages-{kb}kB"), Place::Thp(Part::Size(order))));
    }
    items
}

fn background() -> Items {
    let pages = HUGE_FRAMES as u64;
    Vec::from([
        tunable("alloc_sleep_millisecs", &BACKGROUND.alloc_sleep_millisecs, 0..=u64::from(u32::MAX)),
        tunable("defrag", &BACKGROUND.defrag, 0..=1),
        attribute("full_scans", |out| {
            put!(out, "{}\n", khugepaged::FULL_SCANS.get());
            Ok(())
        }),
        tunable("max_ptes_none", &BACKGROUND.max_ptes_none, 0..=pages - 1),
        tunable("max_ptes_shared", &BACKGROUND.max_ptes_shared, 0..=pages - 1),
        tunable("max_ptes_swap", &BACKGROUND.max_ptes_swap, 0..=pages - 1),
        attribute("pages_collapsed", |out| {
            put!(out, "{}\n", khugepaged::COLLAPSED.get());
            Ok(())
        }),
        tunable("pages_to_scan", &BACKGROUND.pages_to_scan, 1..=u64::from(u32::MAX)),
        tunable("scan_sleep_millisecs", &BACKGROUND.scan_sleep_millisecs, 0..=u64::from(u32::MAX)),
    ])
}

fn stats(order: u32) -> Items {
    let Some(stats) = settings::stats(order) else { return Vec::new() };
    let counters = [
        ("anon_fault_alloc", &stats.fault_alloc),
        ("anon_fault_fallback", &stats.fault_fallback),
        ("shmem_alloc", &stats.shmem_alloc),
        ("shmem_fallback", &stats.shmem_fallback),
    ];
    let item = |(name, counter): (&'static str, &'static mm::counters::Counter)| {
        attribute(name, move |out| {
            put!(out, "{}\n", counter.get());
            Ok(())
        })
    };
    counters.into_iter().map(item).collect()
}

/// A setting with named values: all of them, the one in force in brackets.
fn choice(name: &'static str, of: &'static Choice) -> (Cow<'static, str>, Item) {
    let show = move |out: &mut Text| {
        for (at, (name, is_in_force)) in of.names().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match is_in_force {
                true => put!(out, "{space}[{name}]"),
                false => put!(out, "{space}{name}"),
            }
        }
        out.push(b"\n");
        Ok(())
    };
    setting(name, show, move |bytes| of.set(word(bytes)?))
}

/// A number in `range`. `EINVAL`: it is not. Changing one ends the thread's sleep.
fn tunable(
    name: &'static str,
    of: &'static AtomicU64,
    range: RangeInclusive<u64>,
) -> (Cow<'static, str>, Item) {
    let show = |out: &mut Text| {
        put!(out, "{}\n", of.load(Relaxed));
        Ok(())
    };
    setting(name, show, move |bytes| {
        of.store(number(bytes, range.clone())?, Relaxed);
        khugepaged::wake();
        Ok(())
    })
}

/// What was written, up to a NUL, without one newline at its end. `EINVAL`: no text.
pub(crate) fn word(bytes: &[u8]) -> Result<&str> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    Ok(text.strip_suffix('\n').unwrap_or(text))
}

pub(crate) fn number(bytes: &[u8], range: RangeInclusive<u64>) -> Result<u64> {
    let number: u64 = word(bytes)?.parse().map_err(|_| Errno::EINVAL)?;
    if range.contains(&number) { Ok(number) } else { Err(Errno::EINVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_ends_at_a_nul_or_a_newline() {
        assert_eq!(word(b"always\0"), Ok("always"));
        assert_eq!(word(b"never\n"), Ok("never"));
        assert_eq!(number(b"511\n\0", 0..=511), Ok(511));
        assert_eq!(number(b"512", 0..=511), Err(Errno::EINVAL));
        assert_eq!(number(b"", 0..=511), Err(Errno::EINVAL));
    }
}
