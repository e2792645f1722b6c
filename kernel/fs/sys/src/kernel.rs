//! `kernel` and `fs`: what there is without any device.

use alloc::vec::Vec;

use abi::{Errno, Result};
use mm::thp::Enabled;
use vfs::put;
use vfs::text::Text;

use crate::place::{Items, Place, setting, subdir, value};

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `kernel`.
    Top,
    /// `kernel/mm`.
    Mm,
    /// `kernel/mm/transparent_hugepage`.
    HugePages,
    /// `fs`.
    Fs,
}

/// Bytes of a huge page of x86-64.
const HUGE_PAGE_BYTES: &str = "2097152";

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::Top => Vec::from([
            value("address_bits", "64"),
            value("cpu_byteorder", "little"),
            value("kexec_crash_loaded", "0"),
            value("kexec_loaded", "0"),
            subdir("mm", Place::Kernel(Part::Mm)),
            value("profiling", "0"),
            value("uevent_seqnum", "0"),
        ]),
        Part::Mm => Vec::from([
            subdir("hugepages", Place::Empty),
            subdir("transparent_hugepage", Place::Kernel(Part::HugePages)),
        ]),
        Part::HugePages => Vec::from([
            value("defrag", "always defer defer+madvise madvise [never]"),
            setting("enabled", show_enabled, store_enabled),
            value("hpage_pmd_size", HUGE_PAGE_BYTES),
            value("shmem_enabled", "always within_size advise [never] deny force"),
            value("use_zero_page", "0"),
        ]),
        Part::Fs => Vec::from([subdir("cgroup", Place::Empty)]),
    }
}

/// All settings, the one that holds in brackets.
fn show_enabled(out: &mut Text) -> Result<()> {
    let names = Enabled::ALL.iter().enumerate();
    for (at, (setting, name)) in names {
        let space = if at == 0 { "" } else { " " };
        if *setting == Enabled::get() {
            put!(out, "{space}[{name}]");
        } else {
            put!(out, "{space}{name}");
        }
    }
    out.push(b"\n");
    Ok(())
}

/// `EINVAL`: no such setting.
fn store_enabled(bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    Enabled::set_by_name(text.trim())
}
