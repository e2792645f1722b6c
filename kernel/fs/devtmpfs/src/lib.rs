#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod kmsg;
mod mem;
mod physmem;

use alloc::sync::Arc;

use abi::fs::{S_IFBLK, S_IFCHR, S_IFDIR};
use abi::{Errno, Result};
use hal::sync::Once;
use security::Cred;
use vfs::dentry::Dentry;
use vfs::dev::{self, DeviceKind, Node, NodeSink};
use vfs::inode::SetAttr;
use vfs::params::Param;
use vfs::{FileSystemType, Mount, MountFlags, MountRequest, Path};

/// The instance, through a mount of its own that no path leads to.
struct Instance {
    mount: Arc<Mount>,
    cred: Cred,
}

static INSTANCE: Once<Instance> = Once::new();

struct Devtmpfs;

static TYPE: Devtmpfs = Devtmpfs;

impl FileSystemType for Devtmpfs {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }

    /// Those of tmpfs: they are checked, and change nothing in the one instance.
    fn params(&self) -> &'static [Param] {
        tmpfs::PARAMS
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        Ok(INSTANCE.get().ok_or(Errno::ENODEV)?.mount.root().clone())
    }
}

impl NodeSink for Devtmpfs {
    fn add(&self, node: &Node) -> Result<()> {
        let instance = INSTANCE.get().ok_or(Errno::ENODEV)?;
        let (dir, name) = instance.parent(&node.name, Missing::Make)?;
        let kind = if node.kind == DeviceKind::Char { S_IFCHR } else { S_IFBLK };
        let mode = kind | node.mode & 0o7777;
        match vfs::namespace::create_in(&dir, name, mode, node.rdev, &[], &instance.cred) {
            Ok(path) => {
                if let Some(inode) = path.inode().filter(|_| node.gid != 0) {
                    inode.apply(&SetAttr {
                        gid: Some(node.gid),
                        ctime: inode.times().ctime,
                        ..SetAttr::default()
                    });
                }
                Ok(())
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn remove(&self, name: &[u8]) {
        let Some(instance) = INSTANCE.get() else { return };
        if let Ok((dir, last)) = instance.parent(name, Missing::Fail) {
            // A program may have removed it before; then there is nothing to do.
            let _ = vfs::namespace::unlink_in(&dir, last, &instance.cred);
        }
    }
}

/// What happens to directories of a device's name that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

impl Instance {
    /// The directory and the last component of a device's name.
    fn parent<'n>(&self, name: &'n [u8], missing: Missing) -> Result<(Path, &'n [u8])> {
        let mut dir = Path::root_of(&self.mount);
        let mut rest = name;
        while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
            let part = &rest[..slash];
            rest = &rest[slash + 1..];
            let mut child = vfs::walk::lookup_child(&dir.dentry, part)?;
            if child.is_negative() && missing == Missing::Make {
                child = vfs::namespace::create_in(&dir, part, S_IFDIR | 0o755, 0, &[], &self.cred)?.dentry;
            }
            dir.dentry = child;
        }
        Ok((dir, rest))
    }
}

/// Makes the instance, the memory devices, and "devtmpfs" known to mount(2). Call once at boot.
pub fn init() -> Result<()> {
    let root = tmpfs::new_instance(tmpfs::Instance::Devtmpfs)?;
    let mount = Mount::new(&root, b"devtmpfs", MountFlags::empty());
    INSTANCE.call_once(|| Instance { mount, cred: Cred::root() });
    mem::register()?;
    dev::set_sink(&TYPE)?;
    vfs::register_fs(&TYPE)
}

#[cfg(test)]
mod tests;
