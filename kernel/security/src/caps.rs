//! Capability numbers and sets of them.
//!
//! Sources: capabilities(7); numbers from include/uapi/linux/capability.h of Linux 7.2.

use core::fmt;
use core::ops::{BitAnd, BitOr};

/// One capability, a number below [`Cap::COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cap(u8);

macro_rules! caps {
    ($($name:ident = $number:literal: $what:literal),* $(,)?) => {
        impl Cap {
            $(#[doc = $what] pub const $name: Self = Self($number);)*
        }

        impl fmt::Debug for Cap {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self.0 {
                    $($number => concat!("CAP_", stringify!($name)),)*
                    _ => "CAP_?",
                })
            }
        }
    };
}

caps! {
    CHOWN = 0: "Change any file's owner and group.",
    DAC_OVERRIDE = 1: "Read, write and execute files against their mode.",
    DAC_READ_SEARCH = 2: "Read files and search directories against their mode.",
    FOWNER = 3: "Act as the owner of any file.",
    FSETID = 4: "Keep set-id bits when a file changes.",
    KILL = 5: "Signal any process.",
    SETGID = 6: "Choose any group ids.",
    SETUID = 7: "Choose any user ids.",
    SETPCAP = 8: "Drop from the bounding set, add from it to the inheritable set, set securebits.",
    LINUX_IMMUTABLE = 9: "Set the immutable and append-only attributes.",
    NET_BIND_SERVICE = 10: "Bind to ports below 1024.",
    NET_BROADCAST = 11: "Broadcast (unused).",
    NET_ADMIN = 12: "Configure the network.",
    NET_RAW = 13: "Open raw and packet sockets.",
    IPC_LOCK = 14: "Lock memory beyond the limit.",
    IPC_OWNER = 15: "Pass permission checks of System V IPC.",
    SYS_MODULE = 16: "Load kernel modules.",
    SYS_RAWIO = 17: "Access I/O ports and physical memory.",
    SYS_CHROOT = 18: "Call chroot(2).",
    SYS_PTRACE = 19: "Inspect and trace any process.",
    SYS_PACCT = 20: "Switch process accounting.",
    SYS_ADMIN = 21: "Mount and most other administration.",
    SYS_BOOT = 22: "Reboot.",
    SYS_NICE = 23: "Raise priorities, set policies and affinities of others.",
    SYS_RESOURCE = 24: "Exceed and raise resource limits.",
    SYS_TIME = 25: "Set the clocks.",
    SYS_TTY_CONFIG = 26: "Call vhangup(2) and configure terminals.",
    MKNOD = 27: "Make device nodes.",
    LEASE = 28: "Take leases on any file.",
    AUDIT_WRITE = 29: "Write to the audit log.",
    AUDIT_CONTROL = 30: "Configure auditing.",
    SETFCAP = 31: "Set file capabilities.",
    MAC_OVERRIDE = 32: "Override mandatory access control.",
    MAC_ADMIN = 33: "Configure mandatory access control.",
    SYSLOG = 34: "Read and clear the kernel log.",
    WAKE_ALARM = 35: "Set timers that wake the machine.",
    BLOCK_SUSPEND = 36: "Block suspend.",
    AUDIT_READ = 37: "Read the audit log.",
    PERFMON = 38: "Observe performance.",
    BPF = 39: "Load BPF programs.",
    CHECKPOINT_RESTORE = 40: "Checkpoint and restore processes.",
}

impl Cap {
    /// How many capabilities there are; the last is `CAP_CHECKPOINT_RESTORE`.
    pub const COUNT: u8 = 41;

    /// The capability with this number, or `None` when there is none.
    #[inline]
    pub const fn from_number(number: u64) -> Option<Self> {
        if number < Self::COUNT as u64 { Some(Self(number as u8)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A set of capabilities.
///
/// # Invariants
///
/// Only bits below [`Cap::COUNT`] are set.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(u64);

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Every capability.
    pub const FULL: Self = Self((1 << Cap::COUNT) - 1);
    /// The capabilities that follow the file-system user id (capabilities(7), "Effect of user ID changes").
    pub const FS: Self = Self::EMPTY
        .with(Cap::CHOWN)
        .with(Cap::DAC_OVERRIDE)
        .with(Cap::DAC_READ_SEARCH)
        .with(Cap::FOWNER)
        .with(Cap::FSETID)
        .with(Cap::LINUX_IMMUTABLE)
        .with(Cap::MAC_OVERRIDE)
        .with(Cap::MKNOD);

    /// The set whose members are the bits of `bits`; bits that name no capability are dropped.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::FULL.0)
    }

    /// The set as bits, as /proc/PID/status prints it.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cap` is a member.
    #[inline]
    pub const fn contains(self, cap: Cap) -> bool {
        self.0 >> cap.0 & 1 != 0
    }

    /// Whether every member of `self` is one of `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `self` and `cap`.
    #[must_use]
    #[inline]
    pub const fn with(self, cap: Cap) -> Self {
        Self(self.0 | 1 << cap.0)
    }

    /// `self` without `cap`.
    #[must_use]
    pub const fn without(self, cap: Cap) -> Self {
        Self(self.0 & !(1 << cap.0))
    }

    /// The members of `self` that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitAnd for CapSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for CapSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
