//! Permission checks: may this subject do that to this object?
//!
//! Sources: path_resolution(7) "Permissions", kill(2), ptrace(2) "Ptrace access mode checking".

use abi::{Errno, Result};
use bitflags::bitflags;

use crate::{Cap, Cred, IdKind};

bitflags! {
    /// What a subject wants to do with an inode.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Execute a file, search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// The owner of an object and its mode.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `st_mode`: file type and permission bits.
    pub mode: u32,
}

/// The type bits of `st_mode`.
const S_IFMT: u32 = 0o170000;
/// A directory.
const S_IFDIR: u32 = 0o040000;
/// A directory whose entries only their owners may remove.
const S_ISVTX: u32 = 0o1000;
/// Any execute bit.
const S_IXUGO: u32 = 0o111;

/// Checks `wanted` against the mode bits of `inode`, then against the capabilities that override them.
///
/// `EACCES`: refused. Read-only mounts, immutable files and ACLs are the caller's to check.
#[inline]
pub fn inode_permission(cred: &Cred, inode: &Ids, wanted: Access) -> Result<()> {
    let mut granted = inode.mode;
    if cred.fsuid == inode.uid {
        granted >>= 6;
    } else if granted >> 3 & 7 != granted & 7 && cred.in_group(inode.gid) {
        // Groups are searched only when the answer matters.
        granted >>= 3;
    }
    if wanted.bits() & !granted == 0 {
        return Ok(());
    }
    overridden(cred, inode, wanted)
}

/// The slow half of [`inode_permission`]: capabilities.
#[inline]
pub(crate) fn overridden(cred: &Cred, inode: &Ids, wanted: Access) -> Result<()> {
    let is_dir = inode.mode & S_IFMT == S_IFDIR;
    let only_reads = if is_dir { !wanted.contains(Access::WRITE) } else { wanted == Access::READ };
    if only_reads && cred.inode_capable(inode.uid, inode.gid, Cap::DAC_READ_SEARCH) {
        return Ok(());
    }
    let executes_nothing = !wanted.contains(Access::EXEC) || is_dir || inode.mode & S_IXUGO != 0;
    if executes_nothing && cred.inode_capable(inode.uid, inode.gid, Cap::DAC_OVERRIDE) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Whether `cred` owns an object of `uid` or may act as its owner.
#[inline]
pub fn owner_or_capable(cred: &Cred, uid: u32) -> bool {
    cred.fsuid == uid
        || (cred.own_capable(Cap::FOWNER) && cred.user_ns.from_global(IdKind::User, uid).is_some())
}

/// Whether the sticky bit of `dir` lets `cred` remove an entry that leads to an inode of `victim_uid`.
#[inline]
pub fn may_delete_sticky(cred: &Cred, dir: &Ids, victim_uid: u32) -> bool {
    dir.mode & S_ISVTX == 0 || cred.fsuid == dir.uid || owner_or_capable(cred, victim_uid)
}

/// Whether a task with `sender` may signal one with `target` (session rules for `SIGCONT` aside).
pub fn may_kill(sender: &Cred, target: &Cred) -> bool {
    [target.uid, target.suid].iter().any(|id| [sender.euid, sender.uid].contains(id))
        || sender.ns_capable(&target.user_ns, Cap::KILL)
}

/// Which ids of the caller count in [`may_observe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObserveIdentity {
    /// The file-system ids: reads through /proc.
    File,
    /// The real ids: ptrace(2), process_vm_readv(2), kcmp(2).
    Real,
}

/// Who looks into another process.
#[derive(Clone, Copy, Debug)]
pub struct Accessor<'a> {
    /// Its credentials.
    pub cred: &'a Cred,
    /// Which of its ids count.
    pub identity: ObserveIdentity,
}

/// Whether `accessor` may look into a process with `target` (Linux: `ptrace_may_access`).
///
/// `is_dumpable` is the target's `PR_GET_DUMPABLE` being 1. The caller answers for threads of one process, which may
/// always look.
pub fn may_observe(accessor: Accessor<'_>, target: &Cred, is_dumpable: bool) -> bool {
    let cred = accessor.cred;
    let (uid, gid) = match accessor.identity {
        ObserveIdentity::File => (cred.fsuid, cred.fsgid),
        ObserveIdentity::Real => (cred.uid, cred.gid),
    };
    if cred.ns_capable(&target.user_ns, Cap::SYS_PTRACE) {
        return true;
    }
    let same_ids = [target.uid, target.euid, target.suid].iter().all(|id| *id == uid)
        && [target.gid, target.egid, target.sgid].iter().all(|id| *id == gid);
    same_ids && is_dumpable && cred.user_ns == target.user_ns && target.permitted.is_subset(cred.permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Cred {
        Cred::root().set_groups(&mut [50]).unwrap().setgid(uid).unwrap().setuid(uid).unwrap()
    }

    #[track_caller]
    fn check(cred: &Cred, mode: u32, wanted: Access, allowed: bool) {
        let inode = Ids { uid: 1, gid: 50, mode };
        assert_eq!(inode_permission(cred, &inode, wanted).is_ok(), allowed);
    }

    #[test]
    fn the_first_class_that_matches_decides() {
        check(&user(1), 0o100077, Access::READ, false);
        check(&user(2), 0o100707, Access::READ, false);
        check(&user(2), 0o100070, Access::READ | Access::WRITE, true);
        check(&user(1), 0o100400, Access::READ, true);
    }

    #[test]
    fn root_executes_only_what_someone_may() {
        check(&Cred::root(), 0o100000, Access::READ | Access::WRITE, true);
        check(&Cred::root(), 0o100666, Access::EXEC, false);
        check(&Cred::root(), 0o100001, Access::EXEC, true);
        check(&Cred::root(), 0o040000, Access::EXEC, true);
    }

    #[test]
    fn sticky_directories_protect_others_files() {
        let tmp = Ids { uid: 0, gid: 0, mode: 0o041777 };
        assert!(may_delete_sticky(&user(5), &tmp, 5));
        assert!(!may_delete_sticky(&user(5), &tmp, 6));
        assert!(may_delete_sticky(&Cred::root(), &tmp, 6));
    }

    #[test]
    fn signals_reach_ones_own_processes() {
        assert!(may_kill(&user(5), &user(5)));
        assert!(!may_kill(&user(5), &user(6)));
        assert!(may_kill(&Cred::root(), &user(6)));
        let setuid = user(5).exec(
            &crate::ExecFile { uid: 0, gid: 0, mode: 0o4755, is_nosuid: false, caps: None },
            crate::ExecUnsafe::empty(),
        );
        assert!(may_kill(&user(5), &setuid.unwrap().cred), "the real id still matches");
    }

    #[test]
    fn undumpable_processes_are_opaque() {
        let me = user(5);
        let accessor = Accessor { cred: &me, identity: ObserveIdentity::File };
        assert!(may_observe(accessor, &user(5), true));
        assert!(!may_observe(accessor, &user(5), false));
        assert!(!may_observe(accessor, &user(6), true));
    }
}
