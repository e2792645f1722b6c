//! The file system type, its instances (each mount has its own), and their options.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use abi::fs::S_IFDIR;
use abi::{Errno, Result};
use nsfs::{Namespace, NsFile};
use process::{PidNs, Task};
use security::{Cap, ObserveIdentity};
use vfs::dentry::Dentry;
use vfs::open::How;
use vfs::params::{self, Param, Takes, Value};
use vfs::{
    At, File, FileSystemType, Inode, InodeFlags, InodeInit, MountRequest, SuperBlock, SuperInit, SuperOps,
    WalkContext,
};

use crate::root::Root;

/// `PROC_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x9fa0;
/// Inode number of the root.
pub(crate) const ROOT_INO: u64 = 1;

struct Proc;

static TYPE: Proc = Proc;

impl FileSystemType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        Options::PARAMS
    }

    fn takes_file(&self, key: &[u8]) -> bool {
        key == PIDNS
    }

    fn check_file(&self, _key: &[u8], file: &File, ctx: &WalkContext<'_>) -> Result<()> {
        named_ns(file, ctx).map(drop)
    }

    /// Errors of [`Options::apply`] and [`named_ns`], and of opening a namespace by its path.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let (data, path) = split_pidns(request.data)?;
        let options = Options::default();
        options.apply(&data)?;
        let given = request.files.iter().find(|(key, _)| key == PIDNS).map(|(_, file)| file.clone());
        let file = match path {
            Some(path) => Some(vfs::open::open(request.ctx, At::Cwd, path, &How::new(0, 0)?)?),
            None => given,
        };
        let ns = file.map_or_else(|| Ok(own_ns()), |file| named_ns(&file, request.ctx))?;
        Ok(make_root(ns, options))
    }
}

/// The option that names another pid namespace than the caller's.
const PIDNS: &[u8] = b"pidns";

/// The caller's pid namespace.
fn own_ns() -> PidNs {
    process::try_current().map_or(PidNs::INITIAL, |me| me.group().pid_ns().clone())
}

/// Takes `pidns=PATH` out of mount options: gives the others, and the path named last. `ENOMEM`.
fn split_pidns(data: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>)> {
    let (mut rest, mut path) = (Vec::new(), None);
    rest.try_reserve_exact(data.len()).map_err(|_| Errno::ENOMEM)?;
    for option in data.split(|&byte| byte == b',') {
        match params::split(option) {
            (PIDNS, Some(named)) => path = Some(named),
            _ => {
                if !rest.is_empty() {
                    rest.push(b',');
                }
                rest.extend_from_slice(option);
            }
        }
    }
    Ok((rest, path))
}

/// The pid namespace that `file` is. `EINVAL`: it is none, or one outside of the caller's. `EPERM`: the caller has no
/// `CAP_SYS_ADMIN` over it.
fn named_ns(file: &File, ctx: &WalkContext<'_>) -> Result<PidNs> {
    let Some(Namespace::Pid(ns)) = file.ops_as::<NsFile>().map(NsFile::namespace) else {
        return Err(Errno::EINVAL);
    };
    if !ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if own_ns().contains(ns) { Ok(ns.clone()) } else { Err(Errno::EINVAL) }
}

/// What an instance shows to whom (proc(5), "Mount options").
#[derive(Default)]
pub(crate) struct Options {
    /// 0: all; 1: of others only that they are there; 2: not even that; 4: as 2, and `gid` counts for nothing.
    hide_pid: AtomicU32,
    /// Members see everything.
    gid: AtomicU32,
    /// Processes only.
    only_pids: AtomicBool,
}

impl Options {
    /// The values that `hidepid=` takes, with their words.
    const HIDE_PID: [(&'static str, u32); 4] =
        [("off", 0), ("noaccess", 1), ("invisible", 2), ("ptraceable", 4)];

    const PARAMS: &[Param] = &[
        Param::new("hidepid", Takes::Number),
        Param::new("hidepid", Takes::Word(&["off", "noaccess", "invisible", "ptraceable"])),
        Param::new("gid", Takes::Number),
        Param::new("subset", Takes::Word(&["pid"])),
    ];

    /// Changes what `data` names; all or nothing. `EINVAL`: an option or value that is unknown.
    fn apply(&self, data: &[u8]) -> Result<()> {
        let (mut hide_pid, mut gid, mut only_pids) = (None, None, false);
        params::each(Self::PARAMS, data, |name, value| {
            match (name, value) {
                ("hidepid", value) => {
                    let found = Self::HIDE_PID.iter().find(|(word, number)| {
                        value == Value::Text(word.as_bytes()) || value.as_u32() == Ok(*number)
                    });
                    hide_pid = Some(found.ok_or(Errno::EINVAL)?.1);
                }
                ("gid", value) => gid = Some(value.as_u32()?),
                _ => only_pids = true,
            }
            Ok(())
        })?;
        if let Some(hide_pid) = hide_pid {
            self.hide_pid.store(hide_pid, Relaxed);
        }
        if let Some(gid) = gid {
            self.gid.store(gid, Relaxed);
        }
        if only_pids {
            self.only_pids.store(true, Relaxed);
        }
        Ok(())
    }

    /// The options of the instance that `inode` belongs to.
    pub(crate) fn of(inode: &Inode) -> Option<&Self> {
        inode.sb().ops_as::<Super>().map(|ops| &ops.0)
    }

    /// Whether only processes are shown.
    pub(crate) fn shows_only_pids(&self) -> bool {
        self.only_pids.load(Relaxed)
    }

    /// Whether the caller sees that `task` is there.
    pub(crate) fn shows(&self, task: &Task) -> bool {
        self.hide_pid.load(Relaxed) < 2 || self.lets_in(task)
    }

    /// Whether the caller may look into the directory of `task`.
    pub(crate) fn lets_in(&self, task: &Task) -> bool {
        let hide_pid = self.hide_pid.load(Relaxed);
        if hide_pid == 0 {
            return true;
        }
        let gid = self.gid.load(Relaxed);
        let is_member = || process::try_current().is_some_and(|me| me.with_cred(|cred| cred.in_group(gid)));
        (hide_pid != 4 && is_member()) || process::prctl::may_observe(task, ObserveIdentity::File)
    }

    fn show(&self) -> String {
        let mut text = String::new();
        match self.gid.load(Relaxed) {
            0 => {}
            gid => text += &format!(",gid={gid}"),
        }
        let hide_pid = self.hide_pid.load(Relaxed);
        if let Some((word, _)) =
            Self::HIDE_PID.iter().find(|(_, number)| *number == hide_pid && hide_pid != 0)
        {
            text += &format!(",hidepid={word}");
        }
        if self.shows_only_pids() {
            text += ",subset=pid";
        }
        text
    }
}

struct Super(Options);

impl SuperOps for Super {
    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.show().as_bytes());
    }

    /// `EBUSY`: another pid namespace.
    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let (data, path) = split_pidns(data)?;
        if path.is_some() { Err(Errno::EBUSY) } else { self.0.apply(&data) }
    }
}

/// An instance that shows the processes of `ns`.
fn make_root(ns: PidNs, options: Options) -> Arc<Dentry> {
    let init = SuperInit { block_size: 1024, ..SuperInit::in_memory(&TYPE, MAGIC) };
    let sb = SuperBlock::new(init, Box::new(Super(options)));
    let mut root = InodeInit::new(ROOT_INO, S_IFDIR | 0o555);
    root.flags = InodeFlags::VOLATILE;
    Dentry::new_root(Inode::new(&sb, root, Box::new(Root(ns)), None))
}

pub(crate) fn register() -> Result<()> {
    vfs::register_fs(&TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_not_for_the_others() {
        let (rest, path) = split_pidns(b"hidepid=2,pidns=/a,subset=pid").unwrap();
        assert_eq!((&rest[..], path), (&b"hidepid=2,subset=pid"[..], Some(&b"/a"[..])));
        assert_eq!(split_pidns(b"gid=7"), Ok((b"gid=7".to_vec(), None)));
        assert_eq!(split_pidns(b"pidns"), Ok((b"pidns".to_vec(), None)));
    }

    #[test]
    fn options_are_taken_whole_or_not_at_all() {
        let options = Options::default();
        options.apply(b"hidepid=invisible,gid=7,subset=pid").unwrap();
        assert_eq!(options.show(), ",gid=7,hidepid=invisible,subset=pid");
        for bad in [&b"hidepid=3"[..], b"hidepid=0,unknown", b"subset=all", b"gid=x"] {
            assert_eq!(options.apply(bad), Err(Errno::EINVAL));
        }
        options.apply(b"hidepid=4").unwrap();
        assert_eq!(options.show(), ",gid=7,hidepid=ptraceable,subset=pid");
    }
}
