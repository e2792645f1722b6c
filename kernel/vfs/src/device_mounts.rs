//! File systems on devices: a device that is mounted twice shows one file system.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::{Interruptible, Mutex};

use crate::dentry::Dentry;
use crate::params::Value;
use crate::superblock::{SbFlags, SuperBlock};

/// How often and how long a mount waits for the last user of an earlier one to go.
const RETRIES: u32 = 100;
const RETRY_NS: u64 = 10_000_000;

/// What is to be mounted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The device's number.
    pub rdev: u64,
    /// The name of the file system's type.
    pub fs_type: &'a str,
    /// Flags of the superblock.
    pub flags: SbFlags,
}

struct Mounted {
    rdev: u64,
    sb: Weak<SuperBlock>,
    root: Weak<Dentry>,
}

/// The mounted file systems of one driver.
pub struct DeviceMounts {
    mounted: Mutex<Vec<Mounted>>,
}

impl DeviceMounts {
    /// None yet; `name` is that of the lock, which is held while a file system is opened.
    pub const fn new(name: &'static str) -> Self {
        Self { mounted: Mutex::new(name, Vec::new()) }
    }

    /// The root of what is mounted from the device, or of what `open` makes of it with the `claim` to it. May sleep, a
    /// second at most for an earlier mount to end.
    ///
    /// `EBUSY`: it is mounted with another type, or read-only instead of writable or the reverse. `ENOMEM`. Errors of
    /// `claim` and `open`.
    pub fn mount<C>(
        &self,
        wanted: Wanted<'_>,
        claim: impl Fn() -> Result<C>,
        open: impl FnOnce(C) -> Result<Arc<Dentry>>,
    ) -> Result<Arc<Dentry>> {
        let mut attempt = 0;
        let (mut mounted, claimed) = loop {
            let mut mounted = self.mounted.lock();
            mounted.retain(|one| one.sb.strong_count() > 0);
            let there = mounted.iter().find(|one| one.rdev == wanted.rdev).and_then(|one| one.root.upgrade());
            if let Some(root) = there {
                let is_same = root.sb().is_readonly() == wanted.flags.contains(SbFlags::RDONLY)
                    && root.sb().fs_type().name() == wanted.fs_type;
                return if is_same { Ok(root) } else { Err(Errno::EBUSY) };
            }
            match claim() {
                Ok(claimed) => break (mounted, claimed),
                Err(errno) if attempt >= RETRIES => return Err(errno),
                Err(_) => attempt += 1,
            }
            drop(mounted);
            let _ = sched::sleep_until(hal::time::now_ns() + RETRY_NS, Interruptible::No);
        };
        mounted.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let root = open(claimed)?;
        mounted.push(Mounted {
            rdev: wanted.rdev,
            sb: Arc::downgrade(root.sb()),
            root: Arc::downgrade(&root),
        });
        Ok(root)
    }
}

/// What follows when damage is found on a device: the option "errors=".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Nothing but a line in the log.
    Continue,
    /// Nothing is written any more.
    RemountReadOnly,
    /// The machine stops.
    Panic,
}

impl OnError {
    /// The words that the option takes.
    pub const WORDS: &'static [&'static str] = &["continue", "remount-ro", "panic"];

    /// What `value` says, which is one of [`WORDS`](Self::WORDS).
    pub fn parse(value: Value<'_>) -> Self {
        match value {
            Value::Text(b"continue") => Self::Continue,
            Value::Text(b"panic") => Self::Panic,
            _ => Self::RemountReadOnly,
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::RemountReadOnly => "remount-ro",
            Self::Panic => "panic",
        }
    }
}
