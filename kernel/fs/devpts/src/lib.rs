#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod options;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{S_IFCHR, S_IFDIR, makedev};
use abi::{Errno, Result};
use hal::sync::Once;
use sched::Mutex;
use tty::pty::{SLAVE_MAJOR, SlaveSink};
use vfs::dentry::Dentry;
use vfs::inode::SetAttr;
use vfs::params::Param;
use vfs::readdir::emit_dots;
use vfs::{
    DirEmit, File, FileOps, FileSystemType, Inode, InodeFlags, InodeInit, InodeOps, MountRequest,
    OpenRequest, SuperBlock, SuperInit, SuperOps, Whence,
};

use crate::options::Options;

/// `DEVPTS_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x1cd1;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// Inode number of slave 0.
const FIRST_SLAVE_INO: u64 = 3;
/// Number of the device that makes pseudo-terminals.
const PTMX: (u32, u32) = (5, 2);
/// Directory position of slave 0; "." , ".." and "ptmx" come before.
const FIRST_SLAVE_POS: u64 = 3;

/// The one instance.
struct Instance {
    root: Arc<Dentry>,
    sb: Arc<SuperBlock>,
    ptmx: Arc<Inode>,
    slaves: Mutex<BTreeMap<u32, Arc<Inode>>>,
    options: Mutex<Options>,
}

static INSTANCE: Once<Instance> = Once::new();

fn instance() -> Result<&'static Instance> {
    INSTANCE.get().ok_or(Errno::ENODEV)
}

struct Devpts;

static TYPE: Devpts = Devpts;

impl FileSystemType for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn is_global(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let instance = instance()?;
        let options = Options::parse(request.data)?;
        instance.apply(options);
        Ok(instance.root.clone())
    }
}

impl Instance {
    fn apply(&self, options: Options) {
        *self.options.lock() = options;
        change_mode(&self.ptmx, options.ptmx_mode);
    }
}

fn change_mode(inode: &Inode, mode: u32) {
    inode.apply(&SetAttr { mode: Some(S_IFCHR | mode), ctime: inode.times().ctime, ..SetAttr::default() });
}

impl SlaveSink for Devpts {
    fn added(&self, index: u32, uid: u32, gid: u32) {
        let Ok(instance) = instance() else { return };
        let options = *instance.options.lock();
        let mut init = InodeInit::new(FIRST_SLAVE_INO + u64::from(index), S_IFCHR | options.mode);
        (init.uid, init.gid) = (options.uid.unwrap_or(uid), options.gid.unwrap_or(gid));
        init.rdev = makedev(SLAVE_MAJOR, index);
        let inode = Inode::new(&instance.sb, init, Box::new(Node), None);
        let replaced = instance.slaves.lock().insert(index, inode);
        drop(replaced);
    }

    fn removed(&self, index: u32) {
        let Ok(instance) = instance() else { return };
        let gone = instance.slaves.lock().remove(&index);
        if let Some(inode) = &gone {
            inode.set_nlink(0);
        }
    }

    fn inode(&self, index: u32) -> Option<Arc<Inode>> {
        INSTANCE.get()?.slaves.lock().get(&index).cloned()
    }
}

struct Super;

impl SuperOps for Super {
    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        if let Ok(instance) = instance() {
            instance.options.lock().show(out);
        }
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        instance()?.apply(Options::parse(data)?);
        Ok(())
    }
}

/// A device: the VFS opens it by its number.
struct Node;

impl InodeOps for Node {}

/// The root directory.
struct Root;

impl Root {
    fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let instance = INSTANCE.get()?;
        if name == b"ptmx" {
            return Some(instance.ptmx.clone());
        }
        instance.slaves.lock().get(&parse_index(name)?).cloned()
    }
}

/// The number that `name` is, spelled in the one right way.
fn parse_index(name: &[u8]) -> Option<u32> {
    let is_plain = name == b"0" || (name.iter().all(u8::is_ascii_digit) && name.first() != Some(&b'0'));
    if !is_plain {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

impl InodeOps for Root {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(self.find(name))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        match (self.find(name), inode) {
            (None, None) => true,
            (Some(now), Some(then)) => Arc::ptr_eq(&now, then),
            _ => false,
        }
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(RootFile))
    }
}

struct RootFile;

impl FileOps for RootFile {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let kind = vfs::inode::FileKind::Char.dirent_type();
        if *pos < FIRST_SLAVE_POS {
            if !emit.emit(b"ptmx", PTMX_INO, kind, FIRST_SLAVE_POS) {
                return Ok(());
            }
            *pos = FIRST_SLAVE_POS;
        }
        let Ok(from) = u32::try_from(*pos - FIRST_SLAVE_POS) else { return Ok(()) };
        for (&index, inode) in instance()?.slaves.lock().range(from..) {
            let next = FIRST_SLAVE_POS + u64::from(index) + 1;
            if !emit.emit(format!("{index}").as_bytes(), inode.ino(), kind, next) {
                break;
            }
            *pos = next;
        }
        Ok(())
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }
}

/// Makes the instance and "devpts" known. Call once at boot.
pub fn register() -> Result<()> {
    let init = SuperInit { block_size: 1024, ..SuperInit::in_memory(&TYPE, MAGIC) };
    let sb = SuperBlock::new(init, Box::new(Super));
    let mut root = InodeInit::new(ROOT_INO, S_IFDIR | 0o755);
    root.flags = InodeFlags::VOLATILE;
    let root = Inode::new(&sb, root, Box::new(Root), None);
    let options = Options::default();
    let mut ptmx = InodeInit::new(PTMX_INO, S_IFCHR | options.ptmx_mode);
    ptmx.rdev = makedev(PTMX.0, PTMX.1);
    let ptmx = Inode::new(&sb, ptmx, Box::new(Node), None);
    INSTANCE.call_once(|| Instance {
        root: Dentry::new_root(root),
        sb,
        ptmx,
        slaves: Mutex::new("devpts.slaves", BTreeMap::new()),
        options: Mutex::new("devpts.options", options),
    });
    tty::pty::set_sink(&TYPE);
    vfs::register_fs(&TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slaves_come_and_go_with_their_masters() {
        register().unwrap();
        let instance = instance().unwrap();
        instance.apply(Options::parse(b"gid=5,mode=620,ptmxmode=666").unwrap());
        TYPE.added(7, 1000, 1000);
        let slave = Root.find(b"7").unwrap();
        assert_eq!((slave.uid(), slave.gid(), slave.mode() & 0o7777), (1000, 5, 0o620));
        assert_eq!(slave.rdev(), makedev(136, 7));
        assert_eq!(Root.find(b"ptmx").unwrap().mode(), S_IFCHR | 0o666);
        assert!(Root.find(b"07").is_none() && Root.find(b"+7").is_none() && Root.find(b"").is_none());
        let root = instance.root.inode().unwrap();
        assert!(Root.revalidate(root, b"7", Some(&slave)));
        TYPE.removed(7);
        assert!(Root.find(b"7").is_none());
        assert!(!Root.revalidate(root, b"7", Some(&slave)));
    }
}
