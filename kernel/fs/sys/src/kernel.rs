//! `kernel` and `fs`: what there is without any device.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use mm::swap;
use vfs::put;

use crate::hugepages::{self, Whose};
use crate::place::{Items, Place, attribute, setting, subdir, value};
use crate::thp;

/// Files of a control group that may be given away with it; `fs/cgroup2` knows them too.
const DELEGATE: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control";
/// Mount options of cgroup2.
const FEATURES: &str = "nsdelegate\nfavordynmods\nmemory_localevents\nmemory_recursiveprot\n\
    memory_hugetlb_accounting\npids_localevents";

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `kernel`.
    Top,
    /// `kernel/mm`.
    Mm,
    /// `kernel/mm/swap`.
    Swap,
    /// `kernel/cgroup`.
    Cgroup,
    /// `fs`.
    Fs,
}

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::Top => Vec::from([
            value("address_bits", "64"),
            subdir("cgroup", Place::Kernel(Part::Cgroup)),
            value("cpu_byteorder", "little"),
            value("kexec_crash_loaded", "0"),
            value("kexec_loaded", "0"),
            subdir("mm", Place::Kernel(Part::Mm)),
            attribute("oops_count", |out| {
                put!(out, "{}\n", hal::power::nr_oopses());
                Ok(())
            }),
            value("profiling", "0"),
            attribute("uevent_seqnum", |out| {
                put!(out, "{}\n", net_control::uevent::last_number());
                Ok(())
            }),
            // There are no bugs that are told and go on.
            value("warn_count", "0"),
        ]),
        Part::Mm => Vec::from([
            subdir("hugepages", Place::HugePages(hugepages::Part::Pools(Whose::Machine))),
            subdir("ksm", Place::Ksm),
            subdir("swap", Place::Kernel(Part::Swap)),
            subdir("transparent_hugepage", Place::Thp(thp::Part::Top)),
        ]),
        Part::Swap => Vec::from([setting(
            "vma_ra_enabled",
            |out| {
                put!(out, "{}\n", swap::BY_ADDRESS.load(Relaxed));
                Ok(())
            },
            |bytes| {
                swap::BY_ADDRESS.store(truth(bytes)?, Relaxed);
                Ok(())
            },
        )]),
        Part::Cgroup => Vec::from([value("delegate", DELEGATE), value("features", FEATURES)]),
        Part::Fs => Vec::from([subdir("cgroup", Place::Empty)]),
    }
}

/// What a program means by a word: its first letter tells, of `on` and `off` the second. `EINVAL`: something else.
fn truth(bytes: &[u8]) -> Result<bool> {
    let second = bytes.get(1).map(u8::to_ascii_lowercase);
    match bytes.first().map(u8::to_ascii_lowercase) {
        Some(b'y' | b't' | b'1') => Ok(true),
        Some(b'n' | b'f' | b'0') => Ok(false),
        Some(b'o') if second == Some(b'n') => Ok(true),
        Some(b'o') if second == Some(b'f') => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_yes_or_no() {
        for (text, expected) in [("1\n", true), ("true", true), ("Yes", true), ("on", true), ("ON", true)] {
            assert_eq!(truth(text.as_bytes()), Ok(expected));
        }
        for text in ["0", "false\n", "No", "off", "OFF\n"] {
            assert_eq!(truth(text.as_bytes()), Ok(false));
        }
        for text in ["", "o", "2", "-1", "ox"] {
            assert_eq!(truth(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
