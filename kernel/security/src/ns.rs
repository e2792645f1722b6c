//! What all kinds of namespaces have in common: number, owner, limit (namespaces(7), user_namespaces(7)).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};

use crate::UserNs;

/// The kinds, in the order of the inode numbers of the first ones (include/uapi/linux/nsfs.h, downwards).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum NsKind {
    /// System V objects and message queues.
    Ipc = 0,
    /// Host and domain name.
    Uts = 1,
    /// Ids and capabilities.
    User = 2,
    /// Process numbers.
    Pid = 3,
    /// Control groups.
    Cgroup = 4,
    /// Offsets of the clocks.
    Time = 5,
    /// The network.
    Net = 6,
    /// Mounts.
    Mnt = 7,
}

/// How many kinds there are.
pub const NR_KINDS: usize = 8;
/// Inode number of the first namespace of kind 0; the other kinds' follow downwards.
const FIRST_INO: u32 = 0xefff_ffff;
/// Inode numbers of later namespaces begin here (Linux: `PROC_DYNAMIC_FIRST`).
const DYNAMIC_INO: u32 = 0xf000_0000;

impl NsKind {
    /// All kinds.
    pub const ALL: [Self; NR_KINDS] =
        [Self::Ipc, Self::Uts, Self::User, Self::Pid, Self::Cgroup, Self::Time, Self::Net, Self::Mnt];

    /// The `CLONE_NEW*` flag that stands for it (`NS_GET_NSTYPE`).
    pub const fn clone_flag(self) -> u32 {
        match self {
            Self::Ipc => 0x0800_0000,
            Self::Uts => 0x0400_0000,
            Self::User => 0x1000_0000,
            Self::Pid => 0x2000_0000,
            Self::Cgroup => 0x0200_0000,
            Self::Time => 0x80,
            Self::Net => 0x4000_0000,
            Self::Mnt => 0x0002_0000,
        }
    }

    /// The word in `word:[inode]`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
            Self::Net => "net",
            Self::Mnt => "mnt",
        }
    }
}

/// Namespaces of each kind that exist beside the first.
static COUNTS: [AtomicU32; NR_KINDS] = [const { AtomicU32::new(0) }; NR_KINDS];
/// user.max_*_namespaces, in the order of [`NsKind`].
pub static MAX: [AtomicU32; NR_KINDS] = [const { AtomicU32::new(DEFAULT_MAX) }; NR_KINDS];
/// How many of a kind there may be unless told otherwise.
///
/// LINUX: half of kernel.threads-max, and counted per user instead of over all.
const DEFAULT_MAX: u32 = 7500;
/// The next number; the first eight are those of the first namespaces.
static NEXT_ID: AtomicU64 = AtomicU64::new(NR_KINDS as u64 + 1);

/// Number and owner of one namespace; dropped with it.
#[derive(Debug)]
pub struct NsId {
    kind: NsKind,
    ino: u32,
    id: u64,
    owner: UserNs,
    is_counted: bool,
}

impl NsId {
    /// That of the first namespace of `kind`.
    pub const fn initial(kind: NsKind) -> Self {
        let ino = FIRST_INO - kind as u32;
        Self { kind, ino, id: kind as u64 + 1, owner: UserNs::INITIAL, is_counted: false }
    }

    /// That of a new namespace. `ENOSPC`: there are too many.
    pub fn new(kind: NsKind, owner: &UserNs) -> Result<Self> {
        let max = MAX[kind as usize].load(Relaxed);
        let count = |count: u32| (count < max).then_some(count + 1);
        COUNTS[kind as usize].fetch_update(Relaxed, Relaxed, count).map_err(|_| Errno::ENOSPC)?;
        let id = NEXT_ID.fetch_add(1, Relaxed);
        // 28 bits: two namespaces alive at a time differ unless a quarter of a billion were made in between.
        let ino = DYNAMIC_INO | (id as u32 & 0x0fff_ffff);
        Ok(Self { kind, ino, id, owner: owner.clone(), is_counted: true })
    }

    /// Its kind.
    pub fn kind(&self) -> NsKind {
        self.kind
    }

    /// Its inode number in /proc/PID/ns.
    pub fn ino(&self) -> u32 {
        self.ino
    }

    /// Its number, never used again (`NS_GET_ID`).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The user namespace whose capabilities count for it.
    pub fn owner(&self) -> &UserNs {
        &self.owner
    }
}

impl Drop for NsId {
    fn drop(&mut self) {
        if self.is_counted {
            COUNTS[self.kind as usize].fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespaces_have_the_numbers_of_linux() {
        assert_eq!(NsId::initial(NsKind::Ipc).ino(), 0xefff_ffff);
        assert_eq!(NsId::initial(NsKind::Mnt).ino(), 0xefff_fff8);
        assert_eq!(NsId::initial(NsKind::Mnt).id(), 8);
    }

    #[test]
    fn later_ones_are_counted_and_limited() {
        let first = NsId::new(NsKind::Time, &UserNs::INITIAL).unwrap();
        MAX[NsKind::Time as usize].store(1, Relaxed);
        assert_eq!(NsId::new(NsKind::Time, &UserNs::INITIAL).unwrap_err(), Errno::ENOSPC);
        drop(first);
        let second = NsId::new(NsKind::Time, &UserNs::INITIAL).unwrap();
        assert!(second.ino() >= DYNAMIC_INO && second.id() > 8);
    }
}
