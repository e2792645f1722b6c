//! Changes of the capability sets: capset(2), the bounding and ambient sets, securebits.
//!
//! Sources: capset(2), capabilities(7), PR_CAPBSET_DROP(2const), PR_CAP_AMBIENT(2const), PR_SET_SECUREBITS(2const).

use abi::{Errno, Result};
use bitflags::bitflags;

use crate::{Cap, CapSet, Cred};

bitflags! {
    /// Flags of a thread that switch root's special treatment, each with its lock bit above it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SecureBits: u32 {
        /// User id 0 gets no capabilities at execve(2).
        const NOROOT = 1 << 0;
        /// `NOROOT` can no longer change.
        const NOROOT_LOCKED = 1 << 1;
        /// Changes of user ids leave the capability sets alone.
        const NO_SETUID_FIXUP = 1 << 2;
        /// `NO_SETUID_FIXUP` can no longer change.
        const NO_SETUID_FIXUP_LOCKED = 1 << 3;
        /// The permitted set survives the last drop of user id 0; cleared by execve(2).
        const KEEP_CAPS = 1 << 4;
        /// `KEEP_CAPS` can no longer change.
        const KEEP_CAPS_LOCKED = 1 << 5;
        /// The ambient set cannot grow.
        const NO_CAP_AMBIENT_RAISE = 1 << 6;
        /// `NO_CAP_AMBIENT_RAISE` can no longer change.
        const NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7;
        /// Script interpreters shall check files with execveat(2) and `AT_EXECVE_CHECK`.
        const EXEC_RESTRICT_FILE = 1 << 8;
        /// `EXEC_RESTRICT_FILE` can no longer change.
        const EXEC_RESTRICT_FILE_LOCKED = 1 << 9;
        /// Script interpreters shall not take code from a terminal or the command line.
        const EXEC_DENY_INTERACTIVE = 1 << 10;
        /// `EXEC_DENY_INTERACTIVE` can no longer change.
        const EXEC_DENY_INTERACTIVE_LOCKED = 1 << 11;
    }
}

impl SecureBits {
    /// All lock bits: the odd ones.
    const LOCKS: Self = Self::from_bits_truncate(0xaaa);
    /// What a task may change without `CAP_SETPCAP`.
    const UNPRIVILEGED: Self = Self::from_bits_truncate(0xf00);
}

impl Cred {
    /// capset(2). `EPERM`: a set would grow beyond what the caller may have.
    pub fn capset(&self, effective: CapSet, permitted: CapSet, inheritable: CapSet) -> Result<Self> {
        let may_inherit =
            if self.own_capable(Cap::SETPCAP) { CapSet::FULL } else { self.inheritable | self.permitted };
        let allowed = inheritable.is_subset(may_inherit)
            && inheritable.is_subset(self.inheritable | self.bounding)
            && permitted.is_subset(self.permitted)
            && effective.is_subset(permitted);
        if !allowed {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        new.effective = effective;
        new.permitted = permitted;
        new.inheritable = inheritable;
        new.ambient = new.ambient & permitted & inheritable;
        Ok(new)
    }

    /// `PR_CAPBSET_DROP`. `EPERM` without `CAP_SETPCAP`.
    pub fn drop_bounding(&self, cap: Cap) -> Result<Self> {
        if !self.own_capable(Cap::SETPCAP) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        new.bounding = new.bounding.without(cap);
        Ok(new)
    }

    /// `PR_CAP_AMBIENT_RAISE`. `EPERM`: not both permitted and inheritable, or switched off by securebits.
    pub fn raise_ambient(&self, cap: Cap) -> Result<Self> {
        if !(self.permitted & self.inheritable).contains(cap)
            || self.securebits.contains(SecureBits::NO_CAP_AMBIENT_RAISE)
        {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        new.ambient = new.ambient.with(cap);
        Ok(new)
    }

    /// `PR_CAP_AMBIENT_LOWER`, and with the full set `PR_CAP_AMBIENT_CLEAR_ALL`; always allowed.
    #[must_use]
    pub fn lower_ambient(&self, caps: CapSet) -> Self {
        let mut new = self.clone();
        new.ambient = new.ambient.minus(caps);
        new
    }

    /// `PR_SET_SECUREBITS`. `EPERM`: an unknown or locked bit, a lock taken back, or no `CAP_SETPCAP`.
    pub fn set_securebits(&self, bits: u64) -> Result<Self> {
        let known = u32::try_from(bits).ok().and_then(SecureBits::from_bits).ok_or(Errno::EPERM)?;
        let changed = self.securebits ^ known;
        let locks = self.securebits & SecureBits::LOCKS;
        let locked = SecureBits::from_bits_truncate(locks.bits() >> 1);
        if locked.intersects(changed) || !known.contains(locks) {
            return Err(Errno::EPERM);
        }
        if !self.own_capable(Cap::SETPCAP)
            && (changed.is_empty() || !SecureBits::UNPRIVILEGED.contains(changed))
        {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        new.securebits = known;
        Ok(new)
    }

    /// `PR_SET_KEEPCAPS`. `EPERM` when the flag is locked.
    pub fn set_keepcaps(&self, on: bool) -> Result<Self> {
        if self.securebits.contains(SecureBits::KEEP_CAPS_LOCKED) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        new.securebits.set(SecureBits::KEEP_CAPS, on);
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capset_never_raises_permitted() {
        let few = CapSet::EMPTY.with(Cap::KILL);
        let cred = Cred::root().capset(few, few, CapSet::EMPTY).unwrap();
        assert!(cred.capable(Cap::KILL) && !cred.capable(Cap::CHOWN));
        assert_eq!(cred.capset(few, CapSet::FULL, CapSet::EMPTY).unwrap_err(), Errno::EPERM);
        assert_eq!(cred.capset(CapSet::FULL, few, CapSet::EMPTY).unwrap_err(), Errno::EPERM);
        assert_eq!(cred.capset(few, few, few.with(Cap::CHOWN)).unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn ambient_follows_permitted_and_inheritable() {
        let few = CapSet::EMPTY.with(Cap::KILL);
        let cred = Cred::root();
        assert_eq!(cred.raise_ambient(Cap::KILL).unwrap_err(), Errno::EPERM);
        let cred = cred.capset(few, few, few).unwrap().raise_ambient(Cap::KILL).unwrap();
        assert_eq!(cred.ambient, few);
        assert!(cred.capset(few, few, CapSet::EMPTY).unwrap().ambient.is_empty());
    }

    #[test]
    fn a_locked_securebit_stays() {
        let locked = Cred::root().set_securebits(0b11).unwrap();
        assert_eq!(locked.set_securebits(0b10).unwrap_err(), Errno::EPERM);
        assert_eq!(locked.set_securebits(0b01).unwrap_err(), Errno::EPERM);
        assert!(locked.set_securebits(0b111).is_ok());
        assert_eq!(Cred::root().set_securebits(1 << 20).unwrap_err(), Errno::EPERM);
    }
}
