//! `kernel/mm/hugepages` and `devices/system/node/node0/hugepages`: the pool of huge pages.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use abi::{Errno, Result};
use mm::hugetlb::{self, PoolStats};
use vfs::put;
use vfs::text::Text;

use crate::place::{Item, Items, Place, attribute, setting, subdir};

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A directory of pools: there is one.
    Pools(Whose),
    /// The pool of pages of 2 MiB.
    Pool(Whose),
}

/// Whose pages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The machine's.
    Machine,
    /// Those of the one node.
    Node,
}

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::Pools(whose) => Vec::from([subdir("hugepages-2048kB", Place::HugePages(Part::Pool(whose)))]),
        Part::Pool(whose) => {
            let mut items = Vec::from([
                number("free_hugepages", |pool| pool.free),
                setting("nr_hugepages", |out| show(out, |pool| pool.nr), set_nr),
                number("surplus_hugepages", |pool| pool.surplus),
            ]);
            if whose == Whose::Machine {
                items.extend([
                    setting("nr_hugepages_mempolicy", |out| show(out, |pool| pool.nr), set_nr),
                    setting(
                        "nr_overcommit_hugepages",
                        |out| show(out, |pool| pool.overcommit),
                        set_overcommit,
                    ),
                    number("resv_hugepages", |pool| pool.resv),
                ]);
            }
            items
        }
    }
}

fn show(out: &mut Text, which: fn(&PoolStats) -> u64) -> Result<()> {
    put!(out, "{}\n", which(&hugetlb::stats()));
    Ok(())
}

fn number(name: &'static str, which: fn(&PoolStats) -> u64) -> (Cow<'static, str>, Item) {
    attribute(name, move |out| show(out, which))
}

/// `EINVAL`: no number.
fn parse(bytes: &[u8]) -> Result<u64> {
    core::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

fn set_nr(bytes: &[u8]) -> Result<()> {
    hugetlb::set_nr(parse(bytes)?);
    Ok(())
}

fn set_overcommit(bytes: &[u8]) -> Result<()> {
    hugetlb::set_overcommit(parse(bytes)?);
    Ok(())
}
