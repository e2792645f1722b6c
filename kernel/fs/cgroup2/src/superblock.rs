//! The type, its one instance, mount options and file handles.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use cgroup::{Cgroup, Options};
use hal::sync::LazyLock;
use security::Cap;
use vfs::dentry::{Dentry, Name};
use vfs::handle::{Export, Found, Handle};
use vfs::params::{self, Param, Takes};
use vfs::walk::lookup_child;
use vfs::{FileSystemType, Inode, MountRequest, SuperBlock, SuperInit, SuperOps};

use crate::part;

/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x6367_7270;
/// `FILEID_KERNFS`.
const HANDLE_KIND: i32 = 0xfe;

pub(crate) struct Type;

pub(crate) static TYPE: Type = Type;

/// Names of the options in the order in which they are shown.
const OPTIONS: [(&str, Options); 6] = [
    ("nsdelegate", Options::NSDELEGATE),
    ("favordynmods", Options::FAVORDYNMODS),
    ("memory_localevents", Options::MEMORY_LOCALEVENTS),
    ("memory_recursiveprot", Options::MEMORY_RECURSIVEPROT),
    ("memory_hugetlb_accounting", Options::MEMORY_HUGETLB_ACCOUNTING),
    ("pids_localevents", Options::PIDS_LOCALEVENTS),
];

const PARAMS: &[Param] = &[
    Param::new("nsdelegate", Takes::Nothing),
    Param::new("favordynmods", Takes::Nothing),
    Param::new("memory_localevents", Takes::Nothing),
    Param::new("memory_recursiveprot", Takes::Nothing),
    Param::new("memory_hugetlb_accounting", Takes::Nothing),
    Param::new("pids_localevents", Takes::Nothing),
];

/// The root directory; made at the first mount, and kept.
static ROOT: LazyLock<Arc<Dentry>> = LazyLock::new(|| {
    let sb = SuperBlock::new(SuperInit::in_memory(&TYPE, MAGIC), Box::new(Super));
    cgroup::control::note_mount();
    Dentry::new_root(part::root_inode(&sb))
});

fn parse(data: &[u8]) -> Result<Options> {
    let mut options = Options::empty();
    params::each(PARAMS, data, |name, _| {
        let known = OPTIONS.iter().find(|(known, _)| *known == name);
        options |= known.map_or(Options::empty(), |(_, option)| *option);
        Ok(())
    })?;
    Ok(options)
}

/// Whether the caller is in the first cgroup namespace, from which the options are set.
fn sets_options() -> bool {
    process::current().nsproxy().is_some_and(|proxy| proxy.cgroup.is_initial())
}

impl FileSystemType for Type {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn is_global(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    /// `EPERM`: no rights over the caller's cgroup namespace, whose root becomes the root of the mount.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let options = parse(request.data)?;
        let ns = process::current().nsproxy().ok_or(Errno::EPERM)?.cgroup.clone();
        if !request.ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        if ns.is_initial() {
            options.enforce();
        }
        names_to(ns.root())?.iter().try_fold(ROOT.clone(), |at, name| lookup_child(&at, name))
    }
}

/// The names that lead to `group` from the root. `ENOMEM`.
fn names_to(group: &Arc<Cgroup>) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    names.try_reserve_exact(group.level() as usize + 1).map_err(|_| Errno::ENOMEM)?;
    let mut at = group;
    while let Some(parent) = at.parent() {
        names.push(Name::from_slice(at.name()));
        at = parent;
    }
    names.reverse();
    Ok(names)
}

struct Super;

impl SuperOps for Super {
    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        let current = Options::current();
        for (name, _) in OPTIONS.iter().filter(|(_, option)| current.contains(*option)) {
            out.push(b',');
            out.extend_from_slice(name.as_bytes());
        }
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let options = parse(data)?;
        if sets_options() {
            options.enforce();
        }
        Ok(())
    }

    /// As seen from the reader's cgroup namespace. `ERANGE`: the path is too long (cgroup_show_path of Linux).
    fn show_root(&self, root: &Arc<Inode>) -> Result<Option<Vec<u8>>> {
        let reader = process::try_current().and_then(|me| me.nsproxy());
        let (Some(dir), Some(reader)) = (root.ops_as::<crate::dir::Dir>(), reader) else { return Ok(None) };
        match dir.group().path_from(reader.cgroup.root()) {
            Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
            path => path.map(Some),
        }
    }

    fn export(&self) -> Option<&dyn Export> {
        Some(self)
    }
}

impl Export for Super {
    fn encode(&self, inode: &Inode, _parent: Option<&Inode>) -> Handle {
        let ino = inode.ino();
        Handle::of_words(HANDLE_KIND, &[ino as u32, (ino >> 32) as u32])
    }

    fn decode(&self, _root: &Arc<Inode>, kind: i32, bytes: &[u8]) -> Result<Found> {
        let (Some(low), Some(high)) = (Handle::word(bytes, 0), Handle::word(bytes, 1)) else {
            return Err(Errno::ESTALE);
        };
        if kind != HANDLE_KIND {
            return Err(Errno::ESTALE);
        }
        let ino = u64::from(low) | u64::from(high) << 32;
        let held = cgroup::lock();
        let all = Cgroup::root().subtree(&held)?;
        let (group, file) = part::place_of(ino);
        let group = all.iter().find(|other| other.id() == group).ok_or(Errno::ESTALE)?;
        let mut names = names_to(group)?;
        if let Some(index) = file {
            names.push(Name::from_slice(crate::table::name_of(index).ok_or(Errno::ESTALE)?.as_bytes()));
        }
        Ok(Found::Names(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags() {
        assert_eq!(
            parse(b"nsdelegate,pids_localevents"),
            Ok(Options::NSDELEGATE | Options::PIDS_LOCALEVENTS)
        );
        assert_eq!(parse(b""), Ok(Options::empty()));
        for bad in [&b"nsdelegate=1"[..], b"name=x", b"none"] {
            assert_eq!(parse(bad), Err(Errno::EINVAL));
        }
    }
}
