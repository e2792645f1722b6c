//! `kernel` and `fs`: what there is without any device.

use alloc::vec::Vec;

use crate::hugepages::{self, Whose};
use crate::place::{Items, Place, subdir, value};
use crate::thp;

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `kernel`.
    Top,
    /// `kernel/mm`.
    Mm,
    /// `fs`.
    Fs,
}

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
            subdir("hugepages", Place::HugePages(hugepages::Part::Pools(Whose::Machine))),
            subdir("ksm", Place::Ksm),
            subdir("transparent_hugepage", Place::Thp(thp::Part::Top)),
        ]),
        Part::Fs => Vec::from([subdir("cgroup", Place::Empty)]),
    }
}
