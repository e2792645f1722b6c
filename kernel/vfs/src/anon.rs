//! Files without a name: pipes, sockets, eventfds and the like live on internal file systems.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::sync::LazyLock;
use security::Cred;

use crate::dentry::{Dentry, Name};
use crate::file::{File, FileOps};
use crate::inode::{Inode, InodeFlags, InodeInit, InodeOps};
use crate::mount::{Mount, MountFlags};
use crate::path::Path;
use crate::superblock::{FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps};

struct InternalType(&'static str);

impl FileSystemType for InternalType {
    fn name(&self) -> &'static str {
        self.0
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        Err(Errno::EINVAL)
    }
}

struct InternalSuper;
impl SuperOps for InternalSuper {}

struct AnonInode;
impl InodeOps for AnonInode {}

/// One of the kernel's internal file systems.
pub struct Kind {
    fs_type: InternalType,
    magic: u64,
    flags: MountFlags,
    instance: LazyLock<Instance>,
}

struct Instance {
    sb: Arc<SuperBlock>,
    mount: Arc<Mount>,
    /// The inode that all eventfds and the like share, as on Linux.
    shared: Arc<Inode>,
}

impl Kind {
    /// Whether `inode` lives on this file system.
    pub fn holds(&self, inode: &Inode) -> bool {
        inode.sb().magic() == self.magic
    }
}

/// Pipes: `pipe:[inode]`.
pub static PIPE: &Kind = &PIPE_KIND;
/// Sockets: `socket:[inode]`.
pub static SOCKET: &Kind = &SOCKET_KIND;
/// Namespaces: `uts:[inode]` and the like.
pub static NSFS: &Kind = &NSFS_KIND;
/// Processes behind pidfds.
pub static PIDFS: &Kind = &PIDFS_KIND;
/// All else: "anon_inode:name".
pub static ANON: &Kind = &ANON_KIND;

static PIPE_KIND: Kind = Kind {
    fs_type: InternalType("pipefs"),
    magic: 0x5049_5045,
    flags: MountFlags::empty(),
    instance: LazyLock::new(|| Instance::new(&PIPE_KIND)),
};
static SOCKET_KIND: Kind = Kind {
    fs_type: InternalType("sockfs"),
    magic: 0x534f_434b,
    flags: MountFlags::empty(),
    instance: LazyLock::new(|| Instance::new(&SOCKET_KIND)),
};
static NSFS_KIND: Kind = Kind {
    fs_type: InternalType("nsfs"),
    magic: 0x6e73_6673,
    flags: MountFlags::NOEXEC,
    instance: LazyLock::new(|| Instance::new(&NSFS_KIND)),
};
static PIDFS_KIND: Kind = Kind {
    fs_type: InternalType("pidfs"),
    magic: 0x5049_4446,
    flags: MountFlags::NOEXEC,
    instance: LazyLock::new(|| Instance::new(&PIDFS_KIND)),
};
static ANON_KIND: Kind = Kind {
    fs_type: InternalType("anon_inodefs"),
    magic: 0x0904_1934,
    flags: MountFlags::empty(),
    instance: LazyLock::new(|| Instance::new(&ANON_KIND)),
};

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

impl Instance {
    fn new(kind: &'static Kind) -> Self {
        let init = SuperInit::in_memory(&kind.fs_type, kind.magic);
        let sb = SuperBlock::new(init, Box::new(InternalSuper));
        let shared = new_inode_in(&sb, 0o600, 0, 0);
        let root = Dentry::new_root(new_inode_in(&sb, abi::fs::S_IFDIR | 0o555, 0, 0));
        Self { mount: Mount::new_internal(&root, kind.flags), sb, shared }
    }
}

fn new_inode_in(sb: &Arc<SuperBlock>, mode: u32, uid: u32, gid: u32) -> Arc<Inode> {
    let ino = NEXT_INO.fetch_add(1, Relaxed);
    let init = InodeInit { uid, gid, nlink: 1, flags: InodeFlags::ANONYMOUS, ..InodeInit::new(ino, mode) };
    Inode::new(sb, init, Box::new(AnonInode), None)
}

/// A new inode of `kind` with `mode`, owned by `cred`.
pub fn new_inode(kind: &'static Kind, mode: u32, cred: &Cred) -> Arc<Inode> {
    new_inode_in(&kind.instance.sb, mode, cred.fsuid, cred.fsgid)
}

/// As [`new_inode`], with operations of its own.
pub fn new_inode_with(kind: &'static Kind, mode: u32, cred: &Cred, ops: Box<dyn InodeOps>) -> Arc<Inode> {
    let ino = NEXT_INO.fetch_add(1, Relaxed);
    let flags = InodeFlags::ANONYMOUS;
    let init = InodeInit { uid: cred.fsuid, gid: cred.fsgid, nlink: 1, flags, ..InodeInit::new(ino, mode) };
    Inode::new(&kind.instance.sb, init, ops, None)
}

/// Whether nobody may change its mode and owner: all but pipes and sockets, which have inodes of their own.
pub(crate) fn has_fixed_attributes(inode: &Inode) -> bool {
    [ANON, PIDFS, NSFS].iter().any(|kind| kind.magic == inode.sb().magic())
}

/// The path of a namespace: a file `name` with number `ino` whose operations are `ops`. Readable by everyone.
pub fn ns_path(ino: u32, name: &[u8], ops: Box<dyn InodeOps>) -> Path {
    special_path(NSFS, u64::from(ino), abi::fs::S_IFREG | 0o444, InodeFlags::IMMUTABLE, name, ops)
}

/// The path of a process, number `ino` of pidfs; it shows as what it was before there was a pidfs.
pub fn pid_path(ino: u64, ops: Box<dyn InodeOps>) -> Path {
    special_path(PIDFS, ino, abi::fs::S_IFREG | 0o700, InodeFlags::empty(), b"anon_inode:[pidfd]", ops)
}

fn special_path(
    kind: &'static Kind,
    ino: u64,
    mode: u32,
    flags: InodeFlags,
    name: &[u8],
    ops: Box<dyn InodeOps>,
) -> Path {
    let instance = &*kind.instance;
    let init = InodeInit { nlink: 1, flags: InodeFlags::ANONYMOUS | flags, ..InodeInit::new(ino, mode) };
    let inode = Inode::new(&instance.sb, init, ops, None);
    Path { mount: instance.mount.clone(), dentry: Dentry::new_detached(name, inode) }
}

fn kind_of(inode: &Inode) -> &'static Kind {
    [PIPE, SOCKET].into_iter().find(|kind| kind.magic == inode.sb().magic()).unwrap_or(ANON)
}

/// Writes `word:[number]` without the machinery of `format!`: every pipe and socket is named.
fn numbered(word: &str, number: u64) -> Name {
    let mut name = Name::from_slice(word.as_bytes());
    name.extend_from_slice(b":[");
    let first = name.len();
    let mut left = number;
    loop {
        name.push(b'0' + (left % 10) as u8);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if let Some(digits) = name.get_mut(first..) {
        digits.reverse();
    }
    name.push(b']');
    name
}

/// Opens an inode made by [`new_inode`]; its name shows the file system and the inode number.
pub fn open(
    inode: &Arc<Inode>,
    ops: Arc<dyn FileOps>,
    flags: OpenFlags,
    cred: &Arc<Cred>,
) -> Result<Arc<File>> {
    let kind = kind_of(inode);
    let word = kind.fs_type.0.strip_suffix("fs").unwrap_or("anon_inode");
    let word = if word == "sock" { "socket" } else { word };
    let dentry = Dentry::new_detached(&numbered(word, inode.ino()), inode.clone());
    File::new(Path { mount: kind.instance.mount.clone(), dentry }, ops, flags, cred)
}

/// A file with nothing but operations, as eventfd(2) makes them; it shows as "anon_inode:`name`".
pub fn file(name: &str, ops: Arc<dyn FileOps>, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let instance = &*ANON.instance;
    let name = format!("anon_inode:{name}");
    let dentry = Dentry::new_detached(name.as_bytes(), instance.shared.clone());
    File::new(Path { mount: instance.mount.clone(), dentry }, ops, flags, cred)
}

/// A file on an inode of a file system without mounts of its own (memfd): `name` is what it shows as.
///
/// As on Linux it does not count as open for writing: the inode can be executed meanwhile.
pub fn file_on(
    inode: &Arc<Inode>,
    name: &[u8],
    ops: Arc<dyn FileOps>,
    flags: OpenFlags,
    cred: &Arc<Cred>,
) -> Result<Arc<File>> {
    let dentry = Dentry::new_detached(name, inode.clone());
    File::new_uncounted(Path { mount: ANON.instance.mount.clone(), dentry }, ops, flags, cred)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_whole() {
        assert_eq!(numbered("pipe", 0).as_slice(), b"pipe:[0]");
        assert_eq!(numbered("socket", 10_709).as_slice(), b"socket:[10709]");
        assert_eq!(numbered("pipe", u64::MAX).as_slice(), b"pipe:[18446744073709551615]");
    }
}
