//! The inodes of pidfs: what a pidfd is as a file that can be opened again, named by a handle, and carry attributes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use process::hooks::OnClose;
use process::pid;
use security::Cred;
use vfs::inode::{SetAttr, XattrMode};
use vfs::xattr::Store;
use vfs::{File, FileOps, Inode, InodeOps, OpenRequest};

use super::{PidFd, Subject};

/// The inode of a process or thread.
pub(super) struct PidInode(pub(super) Subject);

impl PidInode {
    /// Its attributes, which live as long as what it stands for.
    fn store(&self, name: &[u8]) -> Result<&Store> {
        if name.starts_with(b"trusted.") { Ok(self.any_store()) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn any_store(&self) -> &Store {
        match &self.0 {
            Subject::Process(group) | Subject::Leader(group) => &group.pidfd_xattrs,
            Subject::Thread(task, _) => &task.pidfd_xattrs,
        }
    }
}

impl InodeOps for PidInode {
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let subject = match &self.0 {
            Subject::Leader(group) => Subject::Process(group.clone()),
            other => other.clone(),
        };
        Ok(Arc::new(PidFd(subject, OnClose::Nothing)))
    }

    fn set_attr(&self, _inode: &Arc<Inode>, _change: &SetAttr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        self.store(name)?.get(name)
    }

    fn set_xattr(&self, _inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.store(name)?.set(name, value, mode)
    }

    fn remove_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<()> {
        self.store(name)?.remove(name)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        self.any_store().list()
    }
}

/// The pidfd with inode number `ino` (open_by_handle_at(2)). `flags` may hold an access mode, which does not count,
/// `O_NONBLOCK`, `O_CLOEXEC` and `O_EXCL` for a thread. Looks at all processes.
///
/// `EINVAL`: other flags. `ESTALE`: it was reaped, or is out of the caller's sight.
pub fn by_handle(ino: u64, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    /// `O_ACCMODE`.
    const ACCESS: u32 = 3;
    let flags = OpenFlags::from_bits_retain(flags.bits() & !ACCESS) - OpenFlags::LARGEFILE;
    let known = OpenFlags::NONBLOCK | OpenFlags::CLOEXEC | OpenFlags::EXCL;
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    let subject = find(ino).filter(|subject| !subject.is_gone() && pid::visible(subject.id()) != 0);
    let subject = match subject.ok_or(Errno::ESTALE)? {
        Subject::Process(group) if flags.contains(OpenFlags::EXCL) => Subject::Leader(group),
        other => other,
    };
    super::create(subject, flags, cred)
}

fn find(ino: u64) -> Option<Subject> {
    for group in pid::processes() {
        if group.known_unique_id() == Some(ino) {
            return Some(Subject::Process(group));
        }
        let has_number =
            |task: &&Arc<process::Task>| task.known_unique_id() == Some(ino) && !task.is_leader();
        if let Some(task) = group.threads().iter().find(has_number) {
            return Some(Subject::of_thread(task));
        }
    }
    None
}

/// The inode number that a file of pidfs has in handles; `None` for other files.
pub fn handle_of(inode: &Inode) -> Option<u64> {
    inode.ops_as::<PidInode>().map(|_| inode.ino())
}
