#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
mod msg;
mod requests;
mod watcher;

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use security::{Cap, Cred};
use vfs::File;

pub use device::init;
use watcher::{Handle, Userfaultfd};

/// Whether processes without `CAP_SYS_PTRACE` may handle faults of the kernel (vm.unprivileged_userfaultfd).
pub static UNPRIVILEGED: AtomicU32 = AtomicU32::new(0);

/// `UFFD_USER_MODE_ONLY`: the kernel's own accesses to missing pages fail.
const USER_MODE_ONLY: u32 = 1;

/// userfaultfd(2): a descriptor that watches memory of the calling process.
///
/// `EPERM`: without the privilege only faults of user code can be handled. `EINVAL`: flags. `ENOMEM`.
pub fn open(flags: u32, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let user_only = flags & USER_MODE_ONLY != 0;
    if !user_only && UNPRIVILEGED.load(Relaxed) == 0 && !cred.capable(Cap::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    open_allowed(flags, cred)
}

/// As [`open`] for who is allowed to. `EINVAL`: flags. `ENOMEM`.
fn open_allowed(flags: u32, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let known = OpenFlags::NONBLOCK | OpenFlags::CLOEXEC;
    let file_flags = OpenFlags::from_bits(flags & !USER_MODE_ONLY).filter(|flags| known.contains(*flags));
    let file_flags = file_flags.ok_or(Errno::EINVAL)?;
    let mm = process::current().mm().ok_or(Errno::ENOMEM)?;
    let watcher = Userfaultfd::new(Arc::downgrade(&mm), flags & USER_MODE_ONLY != 0, file_flags);
    file_of(Arc::new(watcher), cred)
}

/// The file through which `watcher` is read.
fn file_of(watcher: Arc<Userfaultfd>, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let flags = OpenFlags::RDWR | watcher.file_flags() & OpenFlags::NONBLOCK;
    vfs::anon::file("[userfaultfd]", Arc::new(Handle(watcher)), flags, cred)
}
