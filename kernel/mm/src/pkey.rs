//! Protection keys of an address space: pkey_alloc(2), pkey_free(2), and the key behind memory that can only be executed.
//!
//! The CPU reads whatever it may execute, unless the page has a key that the thread may not access data with. So
//! `PROT_EXEC` alone takes a key aside for the address space, and the thread that asks loses its right to it; others do
//! not have it from the start ([`hal::pkey::INITIAL`]).
//!
//! Sources: pkeys(7), pkey_alloc(2), pkey_mprotect(2).

use abi::mman::Prot;
use abi::{Errno, Result};
use hal::pkey::{self, NO_ACCESS, NO_WRITE, NR_KEYS};

use crate::space::Mm;
use crate::vma::{VmFlags, VmaAttr};

/// Which protection keys of an address space are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// A bit a key. Key 0 is taken from the start.
    taken: u16,
    /// The key of memory that can only be executed. It is taken, but not the program's.
    execute_only: Option<u8>,
}

impl Default for Keys {
    fn default() -> Self {
        Self { taken: 1, execute_only: None }
    }
}

impl Keys {
    /// Takes the lowest free key.
    fn take(&mut self) -> Option<u8> {
        let key = self.taken.trailing_ones() as u8;
        if key >= NR_KEYS {
            return None;
        }
        self.taken |= 1 << key;
        Some(key)
    }

    /// Whether the program may use `key`.
    pub fn has(&self, key: i32) -> bool {
        (0..i32::from(NR_KEYS)).contains(&key)
            && self.taken & 1 << key != 0
            && self.execute_only.map(i32::from) != Some(key)
    }

    fn give_back(&mut self, key: i32) -> Result<()> {
        if !self.has(key) {
            return Err(Errno::EINVAL);
        }
        self.taken &= !(1 << key);
        Ok(())
    }

    /// The key for a mapping with `prot` that asks for none: one that forbids to read what can only be executed, while
    /// there are keys. The calling thread loses its right to it.
    pub fn for_prot(&mut self, prot: Prot) -> Option<u8> {
        let access = prot & (Prot::READ | Prot::WRITE | Prot::EXEC);
        if access != Prot::EXEC || !pkey::is_supported() {
            return None;
        }
        if self.execute_only.is_none() {
            self.execute_only = self.take();
        }
        let key = self.execute_only?;
        pkey::set_rights(pkey::with_key(pkey::rights(), key, NO_ACCESS));
        Some(key)
    }

    /// The key that a mapping with `attr` keeps when mprotect(2) names none and it does not become executable only.
    pub fn kept(&self, attr: &VmaAttr) -> u8 {
        let only_executed = attr.flags & VmFlags::ACCESS == VmFlags::EXEC;
        if only_executed && self.execute_only == Some(attr.pkey) { 0 } else { attr.pkey }
    }
}

/// Whether the calling thread's rights let it write to pages with `key`.
pub(crate) fn allows_writes(key: u8) -> bool {
    pkey::rights() >> (2 * u32::from(key % NR_KEYS)) & (NO_ACCESS | NO_WRITE) == 0
}

impl Mm {
    /// pkey_alloc(2) for the calling thread, whose rights over the key become `rights` (two bits). May sleep.
    ///
    /// `ENOSPC`: all are in use, or the machine has none.
    pub fn alloc_key(&self, rights: u32) -> Result<u8> {
        if !pkey::is_supported() {
            return Err(Errno::ENOSPC);
        }
        let key = self.space.edit().keys.take().ok_or(Errno::ENOSPC)?;
        pkey::set_rights(pkey::with_key(pkey::rights(), key, rights));
        Ok(key)
    }

    /// pkey_free(2): what carries the key keeps it. May sleep. `EINVAL`: it was not allocated.
    pub fn free_key(&self, key: i32) -> Result<()> {
        self.space.edit().keys.give_back(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_lowest_first_and_given_back_once() {
        let mut keys = Keys::default();
        assert_eq!((keys.has(0), keys.has(1), keys.has(-1), keys.has(16)), (true, false, false, false));
        assert_eq!((keys.take(), keys.take()), (Some(1), Some(2)));
        assert_eq!(keys.give_back(1), Ok(()));
        assert_eq!(keys.give_back(1), Err(Errno::EINVAL));
        assert_eq!(keys.take(), Some(1));
        assert_eq!((3..16).filter_map(|_| keys.take()).count(), 13);
        assert_eq!(keys.take(), None);
    }

    #[test]
    fn the_key_of_executable_memory_is_not_the_programs() {
        let mut keys = Keys::default();
        pkey::set_rights(0);
        assert_eq!(keys.for_prot(Prot::READ | Prot::EXEC), None);
        assert_eq!(keys.for_prot(Prot::EXEC), Some(1));
        assert_eq!(keys.for_prot(Prot::EXEC), Some(1));
        assert_eq!(pkey::rights(), 4);
        assert!(!keys.has(1));
        assert_eq!(keys.give_back(1), Err(Errno::EINVAL));
        pkey::set_rights(pkey::INITIAL);
    }
}
