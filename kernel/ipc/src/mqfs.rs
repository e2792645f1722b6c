//! The "mqueue" file system: names of POSIX message queues, one instance for each IPC namespace (mq_overview(7)).
//!
//! mq_open(2) works on the instance of the caller's namespace whether or not it is mounted anywhere.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::fs::{OpenFlags, S_IFDIR, S_IFREG};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use security::Cap;
use vfs::dentry::Dentry;
use vfs::inode::SetAttr;
use vfs::listing::{DirFile, Each, Listing};
use vfs::mount::Mount;
use vfs::{
    File, FileOps, FileSystemType, Inode, InodeInit, InodeOps, MountFlags, MountRequest, NewInode,
    OpenRequest, Path, SuperBlock, SuperInit, SuperOps,
};

use crate::mq::{MqFile, MqQueue, Size};
use crate::state::{Ipc, current};

/// `MQUEUE_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x1980_0202;
/// Longest name.
const NAME_MAX: usize = 255;
/// The most that even `CAP_SYS_RESOURCE` may ask for.
const HARD_MESSAGES: u64 = 65536;
const HARD_BYTES: u64 = 16 << 20;

/// Limits of one namespace (/proc/sys/fs/mqueue).
pub struct MqState {
    /// queues_max.
    pub queues_max: AtomicU32,
    /// msg_max.
    pub msg_max: AtomicU32,
    /// msgsize_max.
    pub msgsize_max: AtomicU32,
    /// msg_default.
    pub msg_default: AtomicU32,
    /// msgsize_default.
    pub msgsize_default: AtomicU32,
    nr_queues: Arc<AtomicU32>,
}

impl MqState {
    pub(crate) fn new() -> Self {
        Self {
            queues_max: AtomicU32::new(256),
            msg_max: AtomicU32::new(10),
            msgsize_max: AtomicU32::new(8192),
            msg_default: AtomicU32::new(10),
            msgsize_default: AtomicU32::new(8192),
            nr_queues: Arc::new(AtomicU32::new(0)),
        }
    }

    fn limits(&self) -> Size {
        let max = |value: &AtomicU32| u64::from(value.load(Relaxed));
        Size { max_messages: max(&self.msg_max), max_bytes: max(&self.msgsize_max) }
    }

    /// What mq_open(2) without attributes makes.
    fn default_size(&self) -> Size {
        let limits = self.limits();
        Size {
            max_messages: limits.max_messages.min(u64::from(self.msg_default.load(Relaxed))),
            max_bytes: limits.max_bytes.min(u64::from(self.msgsize_default.load(Relaxed))),
        }
    }
}

/// One queue counted against queues_max.
pub(crate) struct QueueCount(Arc<AtomicU32>);

impl Drop for QueueCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Mqueue;

static TYPE: Mqueue = Mqueue;

impl FileSystemType for Mqueue {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let (_, ipc) = current()?;
        Ok(mount_of(&ipc)?.root().clone())
    }
}

struct Super;
impl SuperOps for Super {}

pub(crate) fn register() -> Result<()> {
    vfs::register_fs(&TYPE)
}

/// The instance of a namespace; made on first use.
fn mount_of(ipc: &Arc<Ipc>) -> Result<Arc<Mount>> {
    let make = || {
        let init = SuperInit::in_memory(&TYPE, MAGIC);
        let sb = SuperBlock::new(init, Box::new(Super));
        let root = Root {
            ipc: Arc::downgrade(ipc),
            names: Arc::new(SpinLock::new("ipc.mqfs", BTreeMap::new())),
            next_ino: AtomicU64::new(2),
        };
        let mut init = InodeInit::new(1, S_IFDIR | 0o1777);
        init.nlink = 2;
        let root = Dentry::new_root(Inode::new(&sb, init, Box::new(root), None));
        Some(Mount::new(&root, b"mqueue", MountFlags::empty()))
    };
    ipc.mq_mount.call_once(make).clone().ok_or(Errno::ENOMEM)
}

type Names = SpinLock<BTreeMap<Vec<u8>, Arc<Inode>>>;

/// The only directory.
struct Root {
    ipc: Weak<Ipc>,
    names: Arc<Names>,
    next_ino: AtomicU64,
}

/// Sizes travel to [`Root::create`] as the bytes that a symbolic link's target would be.
fn encode(size: Size) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&size.max_messages.to_le_bytes());
    bytes[8..].copy_from_slice(&size.max_bytes.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Size> {
    let (messages, bytes) = bytes.split_at_checked(8)?;
    Some(Size {
        max_messages: u64::from_le_bytes(messages.try_into().ok()?),
        max_bytes: u64::from_le_bytes(bytes.try_into().ok()?),
    })
}

impl InodeOps for Root {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(self.names.lock().get(name).cloned())
    }

    /// `ENOSPC`: queues_max. `EMFILE`: RLIMIT_MSGQUEUE.
    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        if new.mode & abi::fs::S_IFMT != S_IFREG {
            return Err(Errno::EPERM);
        }
        let ipc = self.ipc.upgrade().ok_or(Errno::EACCES)?;
        let size = decode(new.target).unwrap_or_else(|| ipc.mq.default_size());
        let count = ipc.mq.nr_queues.clone();
        let is_exempt = process::current().with_cred(|cred| cred.capable(Cap::SYS_RESOURCE));
        let max = if is_exempt { u32::MAX } else { ipc.mq.queues_max.load(Relaxed) };
        let one_more = |count: u32| (count < max).then_some(count + 1);
        count.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| Errno::ENOSPC)?;
        let queue = Arc::new(MqQueue::new(size, QueueCount(count))?);
        let mut init = InodeInit::new(self.next_ino.fetch_add(1, Relaxed), new.mode);
        (init.uid, init.gid, init.nlink) = (new.uid, new.gid, 1);
        /// What Linux shows as the size: that of the text.
        const TEXT_SIZE: u64 = 80;
        init.size = TEXT_SIZE;
        let inode = Inode::new(dir.sb(), init, Box::new(Node(queue)), None);
        self.names.lock().insert(name.to_vec(), inode.clone());
        Ok(inode)
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let gone = self.names.lock().remove(name);
        drop(gone);
        inode.set_nlink(0);
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Queues(self.names.clone()))))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        inode.apply(change);
        Ok(())
    }
}

struct Queues(Arc<Names>);

impl Listing for Queues {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let names: Vec<(Vec<u8>, u32)> =
            self.0.lock().iter().map(|(name, inode)| (name.clone(), inode.mode())).collect();
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, (name, mode)) in names.iter().enumerate().skip(start) {
            if !each(name, *mode, at as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}

/// The inode of a queue.
struct Node(Arc<MqQueue>);

impl InodeOps for Node {
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(MqFile(self.0.clone())))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        let change = SetAttr { size: None, ..*change };
        inode.apply(&change);
        Ok(())
    }
}

/// A name as mq_open(2) takes it, without the slash. `EACCES`: a slash, or a name of dots. `ENOENT`: nothing.
fn check_name(name: &[u8]) -> Result<&[u8]> {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name => Ok(name),
    }
}

/// `EINVAL`: sizes that are none or above the limits. `EOVERFLOW`: far above.
fn check_size(ipc: &Ipc, size: Size) -> Result<()> {
    if size.max_messages == 0 || size.max_bytes == 0 {
        return Err(Errno::EINVAL);
    }
    let is_exempt = process::current().with_cred(|cred| cred.capable(Cap::SYS_RESOURCE));
    let limits =
        if is_exempt { Size { max_messages: HARD_MESSAGES, max_bytes: HARD_BYTES } } else { ipc.mq.limits() };
    if size.max_messages > limits.max_messages || size.max_bytes > limits.max_bytes {
        return Err(Errno::EINVAL);
    }
    size.cost().map(drop).ok_or(Errno::EOVERFLOW)
}

/// mq_open(2). `size` is that of the attributes, if they were given.
pub fn open(name: &[u8], flags: OpenFlags, mode: u32, size: Option<Size>) -> Result<Arc<File>> {
    let name = check_name(name)?;
    let (_, ipc) = current()?;
    let root = Path::root_of(&mount_of(&ipc)?);
    let cred = process::current().cred();
    let kept = flags & !(OpenFlags::CREAT | OpenFlags::EXCL);
    let how = vfs::open::How::new(kept.bits(), 0)?;
    loop {
        let dentry = vfs::walk::lookup_child(&root.dentry, name)?;
        if !dentry.is_negative() {
            if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            return vfs::open::open_path(&Path { dentry, ..root }, &how, &cred);
        }
        if !flags.contains(OpenFlags::CREAT) {
            return Err(Errno::ENOENT);
        }
        let encoded = match size {
            Some(size) => {
                check_size(&ipc, size)?;
                Vec::from(encode(size))
            }
            None => Vec::new(),
        };
        let umask = process::current().fs().map_or(0, |fs| fs.umask());
        let mode = S_IFREG | mode & 0o777 & !umask;
        match vfs::namespace::create_in(&root, name, mode, 0, &encoded, &cred) {
            // Who makes a queue may use it as asked for, whatever its mode says.
            Ok(path) => {
                let queue = path.inode().and_then(|inode| inode.ops_as::<Node>()).ok_or(Errno::EINVAL)?;
                return File::new(path.clone(), Arc::new(MqFile(queue.0.clone())), kept, &cred);
            }
            Err(Errno::EEXIST) if !flags.contains(OpenFlags::EXCL) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// mq_unlink(2). `EPERM`: another user's, as the directory is sticky. `ENOENT`.
pub fn unlink(name: &[u8]) -> Result<()> {
    let name = check_name(name)?;
    let (_, ipc) = current()?;
    let root = Path::root_of(&mount_of(&ipc)?);
    vfs::namespace::unlink_in(&root, name, &process::current().cred())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        assert_eq!(check_name(b"queue\0"), Ok(&b"queue"[..]));
        for (name, errno) in [
            (&b""[..], Errno::ENOENT),
            (b".", Errno::EACCES),
            (b"..", Errno::EACCES),
            (b"a/b", Errno::EACCES),
            (b"/a", Errno::EACCES),
            (&[b'x'; 256], Errno::ENAMETOOLONG),
        ] {
            assert_eq!(check_name(name), Err(errno));
        }
        let size = Size { max_messages: 7, max_bytes: 9 };
        assert_eq!((decode(&encode(size)), decode(b"")), (Some(size), None));
    }
}
