//! Credentials and the set*id(2) rules.
//!
//! Every change is a function from the old [`Cred`] to a new one: check first, then build. The caller publishes the
//! new value (`Arc<Cred>`), so a check that already runs keeps seeing one consistent set of ids.
//!
//! Sources: credentials(7), capabilities(7) "Effect of user ID changes on capabilities", setuid(2), setreuid(2),
//! setresuid(2), setfsuid(2), setgroups(2).

use alloc::sync::Arc;

use abi::{Errno, Result};

use crate::{Cap, CapSet, SecureBits, UserNs};

/// The id that means "leave it as it is" to setreuid(2) and its relatives; never a valid id.
pub const KEEP_ID: u32 = u32::MAX;

/// The identity and the rights of one task.
#[derive(Clone, Debug)]
pub struct Cred {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Saved user id.
    pub suid: u32,
    /// User id for file access; follows `euid` unless setfsuid(2) changed it.
    pub fsuid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved group id.
    pub sgid: u32,
    /// Group id for file access.
    pub fsgid: u32,
    /// Supplementary groups, in ascending order (kept so by [`Cred::set_groups`]).
    groups: Arc<[u32]>,
    /// Capabilities that pass execve(2) together with the file's inheritable set.
    pub inheritable: CapSet,
    /// The most that the effective set may hold.
    pub permitted: CapSet,
    /// What [`crate::capable`] asks.
    pub effective: CapSet,
    /// The most that execve(2) may give.
    pub bounding: CapSet,
    /// Capabilities that pass execve(2) of an ordinary file; a subset of permitted and inheritable.
    pub ambient: CapSet,
    /// Flags that switch root's special treatment.
    pub securebits: SecureBits,
    /// execve(2) gives no new rights (`PR_SET_NO_NEW_PRIVS`); never cleared again.
    pub no_new_privs: bool,
    /// Where the capabilities count. All ids here are those of the first namespace.
    pub user_ns: UserNs,
}

impl Cred {
    /// The credentials of the first process: root with every capability.
    pub fn root() -> Self {
        Self {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Arc::from([]),
            inheritable: CapSet::EMPTY,
            permitted: CapSet::FULL,
            effective: CapSet::FULL,
            bounding: CapSet::FULL,
            ambient: CapSet::EMPTY,
            securebits: SecureBits::empty(),
            no_new_privs: false,
            user_ns: UserNs::INITIAL,
        }
    }

    /// Supplementary groups in ascending order.
    #[inline]
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Whether `cap` is effective for the whole machine: in the first user namespace.
    #[inline]
    pub fn capable(&self, cap: Cap) -> bool {
        self.effective.contains(cap) && self.user_ns.is_initial()
    }

    /// Whether `gid` is the file-system group or a supplementary one (Linux: `in_group_p`).
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether `gid` is the effective group or a supplementary one (Linux: `in_egroup_p`).
    pub fn in_egroup(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// setuid(2). `EINVAL`: not an id. `EPERM`: neither privileged nor one's own real or saved id.
    pub fn setuid(&self, uid: u32) -> Result<Self> {
        valid(uid)?;
        let mut new = self.clone();
        if self.own_capable(Cap::SETUID) {
            new.uid = uid;
            new.suid = uid;
        } else if uid != self.uid && uid != self.suid {
            return Err(Errno::EPERM);
        }
        new.euid = uid;
        new.fsuid = uid;
        Ok(new.with_caps_fixed(self))
    }

    /// setreuid(2); [`KEEP_ID`] keeps an id.
    pub fn setreuid(&self, ruid: u32, euid: u32) -> Result<Self> {
        let privileged = self.own_capable(Cap::SETUID);
        let mut new = self.clone();
        if ruid != KEEP_ID {
            if !privileged && ![self.uid, self.euid].contains(&ruid) {
                return Err(Errno::EPERM);
            }
            new.uid = ruid;
        }
        if euid != KEEP_ID {
            if !privileged && ![self.uid, self.euid, self.suid].contains(&euid) {
                return Err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid != KEEP_ID || (euid != KEEP_ID && euid != self.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(new.with_caps_fixed(self))
    }

    /// setresuid(2); [`KEEP_ID`] keeps an id.
    pub fn setresuid(&self, ruid: u32, euid: u32, suid: u32) -> Result<Self> {
        let own = [self.uid, self.euid, self.suid];
        if !self.own_capable(Cap::SETUID)
            && ![ruid, euid, suid].iter().all(|id| *id == KEEP_ID || own.contains(id))
        {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        replace(&mut new.uid, ruid);
        replace(&mut new.euid, euid);
        replace(&mut new.suid, suid);
        new.fsuid = new.euid;
        Ok(new.with_caps_fixed(self))
    }

    /// setfsuid(2). `None` when nothing changes: the call never fails, it just returns the old id.
    pub fn setfsuid(&self, uid: u32) -> Option<Self> {
        let allowed =
            [self.uid, self.euid, self.suid, self.fsuid].contains(&uid) || self.own_capable(Cap::SETUID);
        if uid == KEEP_ID || uid == self.fsuid || !allowed {
            return None;
        }
        let mut new = self.clone();
        new.fsuid = uid;
        if !self.securebits.contains(SecureBits::NO_SETUID_FIXUP) {
            let root = self.root_uid();
            if Some(self.fsuid) == root {
                new.effective = new.effective.minus(CapSet::FS);
            } else if Some(uid) == root {
                new.effective = new.effective | (CapSet::FS & new.permitted);
            }
        }
        Some(new)
    }

    /// setgid(2). `EINVAL`: not an id. `EPERM`: neither privileged nor one's own real or saved id.
    pub fn setgid(&self, gid: u32) -> Result<Self> {
        valid(gid)?;
        let mut new = self.clone();
        if self.own_capable(Cap::SETGID) {
            new.gid = gid;
            new.sgid = gid;
        } else if gid != self.gid && gid != self.sgid {
            return Err(Errno::EPERM);
        }
        new.egid = gid;
        new.fsgid = gid;
        Ok(new)
    }

    /// setregid(2); [`KEEP_ID`] keeps an id.
    pub fn setregid(&self, rgid: u32, egid: u32) -> Result<Self> {
        let privileged = self.own_capable(Cap::SETGID);
        let mut new = self.clone();
        if rgid != KEEP_ID {
            if !privileged && ![self.gid, self.egid].contains(&rgid) {
                return Err(Errno::EPERM);
            }
            new.gid = rgid;
        }
        if egid != KEEP_ID {
            if !privileged && ![self.gid, self.egid, self.sgid].contains(&egid) {
                return Err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid != KEEP_ID || (egid != KEEP_ID && egid != self.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setresgid(2); [`KEEP_ID`] keeps an id.
    pub fn setresgid(&self, rgid: u32, egid: u32, sgid: u32) -> Result<Self> {
        let own = [self.gid, self.egid, self.sgid];
        if !self.own_capable(Cap::SETGID)
            && ![rgid, egid, sgid].iter().all(|id| *id == KEEP_ID || own.contains(id))
        {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        replace(&mut new.gid, rgid);
        replace(&mut new.egid, egid);
        replace(&mut new.sgid, sgid);
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setfsgid(2). `None` when nothing changes.
    pub fn setfsgid(&self, gid: u32) -> Option<Self> {
        let allowed =
            [self.gid, self.egid, self.sgid, self.fsgid].contains(&gid) || self.own_capable(Cap::SETGID);
        if gid == KEEP_ID || gid == self.fsgid || !allowed {
            return None;
        }
        let mut new = self.clone();
        new.fsgid = gid;
        Some(new)
    }

    /// setgroups(2). `EPERM` without `CAP_SETGID`, or where the user namespace forbids it; `EINVAL` when an entry is not an id.
    ///
    /// The caller has checked the count against `NGROUPS_MAX`. Sorts `groups`, as lookups need it.
    pub fn set_groups(&self, groups: &mut [u32]) -> Result<Self> {
        if !self.own_capable(Cap::SETGID) || !self.user_ns.may_setgroups() {
            return Err(Errno::EPERM);
        }
        groups.iter().try_for_each(|gid| valid(*gid))?;
        groups.sort_unstable();
        let mut new = self.clone();
        new.groups = Arc::from(&*groups);
        Ok(new)
    }

    /// Whether a change from `old` to `self` must make the process undumpable and clear its
    /// parent-death signal (Linux: `commit_creds`).
    pub fn is_privilege_change(&self, old: &Self) -> bool {
        (self.euid, self.egid, self.fsuid, self.fsgid) != (old.euid, old.egid, old.fsuid, old.fsgid)
            || !self.permitted.is_subset(old.permitted)
    }

    /// Adjusts the capability sets after a change of user ids from `old`.
    fn with_caps_fixed(mut self, old: &Self) -> Self {
        if self.securebits.contains(SecureBits::NO_SETUID_FIXUP) {
            return self;
        }
        let root = old.root_uid();
        let is_root_uid = |uid: u32| Some(uid) == root;
        let was_root = [old.uid, old.euid, old.suid].into_iter().any(is_root_uid);
        let is_root = [self.uid, self.euid, self.suid].into_iter().any(is_root_uid);
        if was_root && !is_root {
            if !self.securebits.contains(SecureBits::KEEP_CAPS) {
                self.permitted = CapSet::EMPTY;
                self.effective = CapSet::EMPTY;
            }
            self.ambient = CapSet::EMPTY;
        }
        if is_root_uid(old.euid) && !is_root_uid(self.euid) {
            self.effective = CapSet::EMPTY;
        } else if !is_root_uid(old.euid) && is_root_uid(self.euid) {
            self.effective = self.permitted;
        }
        self
    }
}

/// `EINVAL` for the one number that is not an id.
fn valid(id: u32) -> Result<()> {
    if id == KEEP_ID { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Sets `*id` unless `new` is [`KEEP_ID`].
fn replace(id: &mut u32, new: u32) {
    if new != KEEP_ID {
        *id = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Cred {
        Cred::root().setgid(uid).unwrap().setuid(uid).unwrap()
    }

    #[test]
    fn root_that_calls_setuid_loses_every_right() {
        let cred = user(1000);
        assert_eq!((cred.uid, cred.euid, cred.suid, cred.fsuid), (1000, 1000, 1000, 1000));
        assert!(cred.permitted.is_empty() && cred.effective.is_empty());
        assert_eq!(cred.setuid(0).unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn keepcaps_keeps_permitted_but_not_effective() {
        let mut cred = Cred::root();
        cred.securebits |= SecureBits::KEEP_CAPS;
        let cred = cred.setuid(5).unwrap();
        assert_eq!(cred.permitted, CapSet::FULL);
        assert!(cred.effective.is_empty());
    }

    #[test]
    fn a_temporary_drop_with_seteuid_can_be_undone() {
        let dropped = Cred::root().setresuid(KEEP_ID, 1000, KEEP_ID).unwrap();
        assert!(dropped.effective.is_empty() && !dropped.permitted.is_empty());
        let back = dropped.setreuid(KEEP_ID, 0).unwrap();
        assert_eq!(back.effective, CapSet::FULL);
    }

    #[test]
    fn setreuid_updates_the_saved_id_only_as_the_manual_says() {
        let mut cred = user(1000);
        cred.suid = 2000;
        let swapped = cred.setreuid(KEEP_ID, 2000).unwrap();
        assert_eq!((swapped.uid, swapped.euid, swapped.suid), (1000, 2000, 2000));
        let kept = cred.setreuid(KEEP_ID, 1000).unwrap();
        assert_eq!(kept.suid, 2000);
        assert_eq!(cred.setreuid(2000, KEEP_ID).unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn setfsuid_moves_the_file_capabilities() {
        let cred = Cred::root().setfsuid(1000).unwrap();
        assert!(!cred.capable(Cap::DAC_OVERRIDE) && cred.capable(Cap::SYS_ADMIN));
        assert!(cred.setfsuid(0).unwrap().capable(Cap::DAC_OVERRIDE));
        assert!(user(7).setfsuid(8).is_none());
    }

    #[test]
    fn groups_are_found_whatever_their_order_was() {
        let cred = Cred::root().set_groups(&mut [30, 10, 20]).unwrap();
        assert!(cred.in_group(10) && cred.in_group(0) && !cred.in_group(11));
        assert_eq!(user(1).set_groups(&mut []).unwrap_err(), Errno::EPERM);
        assert_eq!(Cred::root().set_groups(&mut [KEEP_ID]).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn unprivileged_resuid_permutes_its_own_ids_only() {
        let mut cred = user(1);
        (cred.euid, cred.suid) = (2, 3);
        let new = cred.setresuid(3, 1, 2).unwrap();
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (3, 1, 2, 1));
        assert_eq!(cred.setresuid(KEEP_ID, 4, KEEP_ID).unwrap_err(), Errno::EPERM);
    }
}
