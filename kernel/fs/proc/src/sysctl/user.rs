//! /proc/sys/user: how many namespaces there may be (namespaces(7)).

use security::{MAX_NAMESPACES, NsKind};

use crate::node::{Entry, Kind};

const fn max(name: &'static str, kind: NsKind) -> Entry {
    Entry { name, kind: Kind::Number32(&MAX_NAMESPACES[kind as usize], 0..=i32::MAX as u32) }
}

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    max("max_cgroup_namespaces", NsKind::Cgroup),
    max("max_ipc_namespaces", NsKind::Ipc),
    max("max_mnt_namespaces", NsKind::Mnt),
    max("max_net_namespaces", NsKind::Net),
    max("max_pid_namespaces", NsKind::Pid),
    max("max_time_namespaces", NsKind::Time),
    max("max_user_namespaces", NsKind::User),
    max("max_uts_namespaces", NsKind::Uts),
];
