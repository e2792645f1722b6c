#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dir;
mod file;
mod part;
mod procs;
mod superblock;
mod table;
mod write;

use alloc::sync::Arc;

use abi::{Errno, Result};
use cgroup::Cgroup;
use vfs::File;

use crate::dir::Dir;

/// Makes "cgroup2" known to mount(2).
pub fn register() -> Result<()> {
    vfs::register_fs(&superblock::TYPE)
}

/// The group that `file`, an open directory, is. `EBADF`: it is none. `ENODEV`: it was removed.
fn group_of(file: &File) -> Result<Arc<Cgroup>> {
    let dir = file.inode().ops_as::<Dir>().ok_or(Errno::EBADF)?;
    if dir.group().is_dead() { Err(Errno::ENODEV) } else { Ok(dir.group().clone()) }
}

/// The group in which the caller may make a child through `file`, an open directory (`CLONE_INTO_CGROUP`).
///
/// `EBADF`: it is none. `ENODEV`: it was removed. `EACCES`: the caller may not write its cgroup.procs, or that of the group
/// above both. `ENOENT`: it is out of the caller's cgroup namespace.
pub fn group_for_child(file: &File) -> Result<Arc<Cgroup>> {
    let group = group_of(file)?;
    let me = process::current();
    let (cred, ns) = (me.cred(), me.nsproxy().ok_or(Errno::ESRCH)?.cgroup.clone());
    part::may_write_procs(&group, &cred)?;
    procs::check_rights(&me.cgroup(), &group, &cred, &ns)?;
    Ok(group)
}
