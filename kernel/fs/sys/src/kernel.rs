//! `kernel` and `fs`: what there is without any device.

use alloc::vec::Vec;

use crate::hugepages::{self, Whose};
use crate::place::{Items, Place, subdir, value};
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
            value("profiling", "0"),
            value("uevent_seqnum", "0"),
        ]),
        Part::Mm => Vec::from([
            subdir("hugepages", Place::HugePages(hugepages::Part::Pools(Whose::Machine))),
            subdir("ksm", Place::Ksm),
            subdir("transparent_hugepage", Place::Thp(thp::Part::Top)),
        ]),
        Part::Cgroup => Vec::from([value("delegate", DELEGATE), value("features", FEATURES)]),
        Part::Fs => Vec::from([subdir("cgroup", Place::Empty)]),
    }
}
