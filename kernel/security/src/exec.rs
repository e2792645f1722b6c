//! What execve(2) does to credentials.
//!
//! ```text
//! file owner 0, mode 4755, caller uid 1000:    uid 1000, euid 0, permitted = bounding, AT_SECURE = 1
//! the same with no_new_privs or on nosuid:     uid 1000, euid 1000, permitted = ambient, AT_SECURE = 0
//! ```
//!
//! Sources: execve(2), capabilities(7) "Transformation of capabilities during execve()" and "Capabilities and
//! execution of programs by root".

use abi::{Errno, Result};
use bitflags::bitflags;

use crate::{Cap, CapSet, Cred, FileCaps, IdKind, SecureBits};

/// Mode bit: run as the file's owner.
const S_ISUID: u32 = 0o4000;
/// Mode bit: run as the file's group.
const S_ISGID: u32 = 0o2000;
/// Mode bit: the group may execute. Without it, `S_ISGID` means something else.
const S_IXGRP: u32 = 0o010;

/// What matters of the executed file.
#[derive(Clone, Copy, Debug)]
pub struct ExecFile {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode with its set-id bits.
    pub mode: u32,
    /// The file is on a mount with `MS_NOSUID`.
    pub is_nosuid: bool,
    /// Its capabilities, if it has the attribute `security.capability`.
    pub caps: Option<FileCaps>,
}

bitflags! {
    /// Reasons not to trust a program with new rights.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExecUnsafe: u32 {
        /// Another process shares the root or working directory (`CLONE_FS`).
        const SHARED_FS = 1;
        /// A tracer without `CAP_SYS_PTRACE` watches.
        const TRACED = 2;
    }
}

/// The result of [`Cred::exec`].
#[derive(Clone, Debug)]
pub struct ExecOutcome {
    /// The new program's credentials.
    pub cred: Cred,
    /// The program got rights that its caller lacks: `AT_SECURE`, and the process is not dumpable.
    pub is_secure: bool,
}

impl Cred {
    /// The credentials after this task has executed `file`.
    ///
    /// `EPERM`: the file needs capabilities in effect that the bounding set withholds.
    pub fn exec(&self, file: &ExecFile, risk: ExecUnsafe) -> Result<ExecOutcome> {
        let mut new = self.clone();
        if !file.is_nosuid && !self.no_new_privs {
            // Owners without a number in the caller's namespace give no rights (Linux: bprm_fill_uid).
            let is_known = self.user_ns.from_global(IdKind::User, file.uid).is_some()
                && self.user_ns.from_global(IdKind::Group, file.gid).is_some();
            if is_known && file.mode & S_ISUID != 0 {
                new.euid = file.uid;
            }
            if is_known && file.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                new.egid = file.gid;
            }
        }
        let mut gets_effective = false;
        new.permitted = CapSet::EMPTY;
        let root = self.root_uid();
        let caps = file.caps.filter(|caps| !file.is_nosuid && caps.is_for(&self.user_ns));
        if let Some(caps) = caps {
            new.permitted = (caps.permitted & self.bounding) | (caps.inheritable & self.inheritable);
            gets_effective = caps.is_effective;
            if gets_effective && !caps.permitted.is_subset(new.permitted) {
                return Err(Errno::EPERM);
            }
        }
        // A file that is both set-user-ID root and has capabilities gives just these.
        let is_mixed = caps.is_some() && Some(new.euid) == root && Some(new.uid) != root;
        if !self.securebits.contains(SecureBits::NOROOT) && !is_mixed {
            if Some(new.euid) == root || Some(new.uid) == root {
                new.permitted = self.bounding | self.inheritable;
            }
            gets_effective |= Some(new.euid) == root;
        }
        let is_set_id = new.euid != self.uid || new.egid != self.gid;
        let gains = !new.permitted.is_subset(self.permitted);
        if (is_set_id || gains) && (!risk.is_empty() || self.no_new_privs) {
            if !self.own_capable(Cap::SETUID) || self.no_new_privs {
                new.euid = new.uid;
                new.egid = new.gid;
            }
            new.permitted = new.permitted & self.permitted;
        }
        new.suid = new.euid;
        new.fsuid = new.euid;
        new.sgid = new.egid;
        new.fsgid = new.egid;
        if is_set_id || caps.is_some() {
            new.ambient = CapSet::EMPTY;
        }
        new.permitted = new.permitted | new.ambient;
        new.effective = if gets_effective { new.permitted } else { new.ambient };
        new.securebits.remove(SecureBits::KEEP_CAPS);
        let grew = !new.permitted.is_subset(new.ambient);
        let is_secure = is_set_id || (Some(new.uid) != root && (gets_effective || grew));
        Ok(ExecOutcome { cred: new, is_secure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETUID_ROOT: ExecFile = ExecFile { uid: 0, gid: 0, mode: 0o4755, is_nosuid: false, caps: None };
    const PLAIN: ExecFile = ExecFile { mode: 0o755, ..SETUID_ROOT };

    fn user() -> Cred {
        Cred::root().setgid(1000).unwrap().setuid(1000).unwrap()
    }

    #[test]
    fn a_setuid_root_file_gives_everything() {
        let out = user().exec(&SETUID_ROOT, ExecUnsafe::empty()).unwrap();
        assert!(out.is_secure);
        assert_eq!((out.cred.uid, out.cred.euid, out.cred.suid, out.cred.fsuid), (1000, 0, 0, 0));
        assert_eq!(out.cred.effective, CapSet::FULL);
    }

    #[test]
    fn nosuid_no_new_privs_and_sharing_take_it_back() {
        let nosuid = ExecFile { is_nosuid: true, ..SETUID_ROOT };
        let mut careful = user();
        careful.no_new_privs = true;
        for out in [
            user().exec(&nosuid, ExecUnsafe::empty()).unwrap(),
            careful.exec(&SETUID_ROOT, ExecUnsafe::empty()).unwrap(),
            user().exec(&SETUID_ROOT, ExecUnsafe::SHARED_FS).unwrap(),
        ] {
            assert_eq!(out.cred.euid, 1000);
            assert!(out.cred.permitted.is_empty() && out.cred.effective.is_empty());
        }
    }

    #[test]
    fn root_keeps_its_rights_within_the_bounding_set() {
        let out =
            Cred::root().drop_bounding(Cap::SYS_BOOT).unwrap().exec(&PLAIN, ExecUnsafe::empty()).unwrap();
        assert!(!out.is_secure);
        assert_eq!(out.cred.effective, CapSet::FULL.without(Cap::SYS_BOOT));
    }

    #[test]
    fn ambient_capabilities_survive_a_plain_file_but_not_a_setid_one() {
        let few = CapSet::EMPTY.with(Cap::KILL);
        let mut cred = user();
        (cred.permitted, cred.inheritable, cred.ambient) = (few, few, few);
        let out = cred.exec(&PLAIN, ExecUnsafe::empty()).unwrap();
        assert_eq!((out.cred.permitted, out.cred.effective), (few, few));
        let other = ExecFile { uid: 7, mode: 0o4755, ..PLAIN };
        let out = cred.exec(&other, ExecUnsafe::empty()).unwrap();
        assert!(out.cred.permitted.is_empty() && out.is_secure);
    }

    #[test]
    fn setgid_without_group_execute_is_no_setgid() {
        let file = ExecFile { gid: 9, mode: 0o2745, ..PLAIN };
        assert_eq!(user().exec(&file, ExecUnsafe::empty()).unwrap().cred.egid, 1000);
    }

    const NET_RAW: FileCaps = FileCaps {
        permitted: CapSet::EMPTY.with(Cap::NET_RAW),
        inheritable: CapSet::EMPTY,
        is_effective: true,
        root: 0,
    };

    #[test]
    fn a_file_with_capabilities_gives_them_within_the_bounding_set() {
        let file = ExecFile { caps: Some(NET_RAW), ..PLAIN };
        let out = user().exec(&file, ExecUnsafe::empty()).unwrap();
        assert_eq!((out.cred.permitted, out.cred.effective), (NET_RAW.permitted, NET_RAW.permitted));
        assert!(out.is_secure);
        let mut narrow = user();
        narrow.bounding = CapSet::EMPTY;
        assert_eq!(narrow.exec(&file, ExecUnsafe::empty()).map(drop), Err(Errno::EPERM));
        let lazy = ExecFile { caps: Some(FileCaps { is_effective: false, ..NET_RAW }), ..PLAIN };
        let out = narrow.exec(&lazy, ExecUnsafe::empty()).unwrap();
        assert!(out.cred.permitted.is_empty());
        let foreign = ExecFile { caps: Some(FileCaps { root: 1000, ..NET_RAW }), ..PLAIN };
        let out = user().exec(&foreign, ExecUnsafe::empty()).unwrap();
        assert!(out.cred.permitted.is_empty(), "for the root of another namespace");
        let nosuid = ExecFile { is_nosuid: true, ..file };
        assert!(user().exec(&nosuid, ExecUnsafe::empty()).unwrap().cred.permitted.is_empty());
        let mut careful = user();
        careful.no_new_privs = true;
        assert!(careful.exec(&file, ExecUnsafe::empty()).unwrap().cred.permitted.is_empty());
    }
}
