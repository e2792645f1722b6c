//! What identifies a futex.

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::UserAddr;
use mm::{Mapping, Mm};

/// Whether other address spaces may use the word (`FUTEX_PRIVATE_FLAG` is missing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Threads of one process.
    Private,
    /// Everyone who maps the memory.
    Shared,
}

/// The identity of a word that somebody waits on.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    /// In memory of one address space.
    Private {
        /// [`Mm::id`].
        mm: u64,
        addr: u64,
    },
    /// In a shared mapping. The reference keeps the address of the mapping from being used again.
    Shared { mapping: Arc<Mapping>, offset: u64 },
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Private { mm: a, addr: x }, Self::Private { mm: b, addr: y }) => a == b && x == y,
            (Self::Shared { mapping: a, offset: x }, Self::Shared { mapping: b, offset: y }) => {
                Arc::ptr_eq(a, b) && x == y
            }
            _ => false,
        }
    }
}

/// The identity of a [`Key`] as plain numbers, good while the key is kept.
pub(crate) type KeyId = (u64, u64, bool);

/// Where a key is in a hash table: its hash, and whether it is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub usize);

impl Slot {
    /// The slot of no key, for waiters that are not listed.
    pub const NONE: Self = Self(0);

    /// A number of 24 bits, spread over all of them.
    pub fn hash(self) -> usize {
        self.0 >> 1
    }

    /// Whether it is the key of private memory.
    pub fn is_private(self) -> bool {
        self.0 & 1 != 0
    }
}

impl Key {
    /// Its identity.
    pub fn id(&self) -> KeyId {
        match self {
            Self::Private { mm, addr } => (*mm, *addr, false),
            Self::Shared { mapping, offset } => (Arc::as_ptr(mapping) as usize as u64, *offset, true),
        }
    }

    /// The key of the word at `addr` of the current address space `mm`. May sleep when `scope` is shared.
    ///
    /// `EINVAL`: not a multiple of 4. `EFAULT`: not in user space, or nothing mapped there.
    pub fn new(mm: &Mm, addr: UserAddr, scope: Scope) -> Result<Self> {
        if !addr.as_u64().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if !addr.range_ok(4) {
            return Err(Errno::EFAULT);
        }
        if scope == Scope::Shared
            && let Some((mapping, offset)) = mm.shared_location(addr.as_u64())?
        {
            return Ok(Self::Shared { mapping, offset });
        }
        Ok(Self::Private { mm: mm.id(), addr: addr.as_u64() })
    }

    /// Its place in a hash table.
    pub fn slot(&self) -> Slot {
        let (a, b, is_private) = match self {
            Self::Private { mm, addr } => (*mm, *addr, 1),
            Self::Shared { mapping, offset } => (Arc::as_ptr(mapping) as usize as u64, *offset, 0),
        };
        // Fibonacci hashing: the golden ratio of 2^64 spreads neighbours.
        let mixed = (a.rotate_left(32) ^ (b >> 2)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Slot((mixed >> 40 << 1) as usize | is_private)
    }
}
