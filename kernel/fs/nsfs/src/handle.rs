//! Namespaces by file handle (open_by_handle_at(2), include/uapi/linux/nsfs.h: `struct nsfs_file_handle`).

use alloc::sync::Arc;

use abi::{Errno, Result};
use security::Cred;
use vfs::open::How;
use vfs::{File, Inode};

use crate::active::{InUse, may_see_all};
use crate::file::NsInode;

/// The bytes of a handle: number, kind as `CLONE_NEW*` flag, inode number.
pub type Handle = [u8; 16];

/// The handle of an inode of this crate; `None` for others.
pub fn handle_of(inode: &Inode) -> Option<Handle> {
    let id = inode.ops_as::<NsInode>()?.0.namespace().id();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.id().to_ne_bytes());
    bytes[8..12].copy_from_slice(&id.kind().clone_flag().to_ne_bytes());
    bytes[12..].copy_from_slice(&id.ino().to_ne_bytes());
    Some(bytes)
}

/// Opens the namespace that `handle` names; kind and inode number may both be 0.
///
/// `ESTALE`: it is not in use, something does not match, or the caller is not in it and does not administrate the machine.
pub fn by_handle(handle: &[u8], how: &How, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let (known, rest) = handle.split_at_checked(size_of::<Handle>()).ok_or(Errno::ESTALE)?;
    let word = |at: usize| {
        known.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |raw| u32::from_ne_bytes(*raw))
    };
    let id = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (kind, ino) = (word(8), word(12));
    if rest.iter().any(|byte| *byte != 0) || (kind == 0) != (ino == 0) {
        return Err(Errno::ESTALE);
    }
    // Files that went with the mounts of a task that ended are gone after a grace period.
    sched::workqueue::await_rcu();
    let all = InUse::collect();
    let ns = all.get(id).ok_or(Errno::ESTALE)?;
    let is_same = kind == 0 || (kind == ns.id().kind().clone_flag() && ino == ns.id().ino());
    if !is_same || !(ns.holds_caller() || may_see_all()) {
        return Err(Errno::ESTALE);
    }
    vfs::open::open_path(&ns.clone().path(), how, cred)
}
