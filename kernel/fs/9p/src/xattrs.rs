//! Extended attributes. A fid is turned into a value, which is read or written; writing ends when the fid is given back.

use alloc::vec::Vec;

use abi::{Errno, Result};
use p9_wire::{Request, xattr_len};
use sched::Interruptible;
use vfs::inode::XattrMode;

use crate::client::{Data, errno};
use crate::fid::Fid;
use crate::node::Node;
use crate::pages;

fn check(node: &Node, name: &[u8]) -> Result<()> {
    let is_list = name.starts_with(b"system.posix_acl_");
    // The server applies its lists; they are not shown without `posixacl`.
    if node.fs.options.has_no_xattrs || is_list { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

/// The value of `name`, or with an empty one the list of names.
fn read(node: &Node, name: &[u8]) -> Result<Vec<u8>> {
    let fid = node.fid();
    let (value, len) = fid.xattr(name)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let want = rest.len().min(node.fs.client.payload() as usize);
        let parts = pages::buffer(want)?;
        let count = value.read(done as u64, &parts)?;
        if count == 0 {
            break;
        }
        pages::copy_out(&parts, rest.get_mut(..count).ok_or(Errno::EIO)?);
        done += count;
    }
    bytes.truncate(done);
    Ok(bytes)
}

impl Fid {
    /// A fid for the value of attribute `name`, and its length.
    fn xattr(&self, name: &[u8]) -> Result<(Fid, usize)> {
        let client = self.client();
        let fid = Fid::new(client)?;
        let request = Request::XattrWalk { fid: self.id(), new_fid: fid.id(), name };
        let answer = match client.call(&request, Data::None) {
            Err(errno @ (Errno::ENODATA | Errno::EOPNOTSUPP)) => {
                fid.unused();
                return Err(errno);
            }
            answer => answer?,
        };
        let len = xattr_len(&mut answer.body()?).map_err(|error| match error {
            p9_wire::Error::TooLong => Errno::E2BIG,
            error => errno(error),
        })?;
        Ok((fid, len))
    }
}

pub(crate) fn get(node: &Node, name: &[u8]) -> Result<Vec<u8>> {
    check(node, name)?;
    read(node, name)
}

pub(crate) fn list(node: &Node) -> Result<Vec<u8>> {
    if node.fs.options.has_no_xattrs {
        return Ok(Vec::new());
    }
    match read(node, b"") {
        // Not all files of a server need have them.
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        list => list,
    }
}

fn write(node: &Node, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
    let fid = node.fid().duplicate(Interruptible::Killable)?;
    let size = value.len() as u64;
    fid.tell(&Request::XattrCreate { fid: fid.id(), name, size, flags })?;
    let mut done = 0;
    while let Some(rest) = value.get(done..).filter(|rest| !rest.is_empty()) {
        let part = rest.get(..rest.len().min(node.fs.client.payload() as usize)).unwrap_or(rest);
        let parts = pages::buffer(part.len())?;
        pages::copy_in(&parts, part);
        done += fid.write(done as u64, &parts, Interruptible::Killable)?;
    }
    fid.clunk()
}

/// Sets an attribute. An empty value removes it: the protocol has no other way to say that.
pub(crate) fn set(node: &Node, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
    check(node, name)?;
    let flags = match mode {
        XattrMode::Any => 0,
        XattrMode::Create => 1,
        XattrMode::Replace => 2,
        XattrMode::Never => return mode.check(get(node, name).is_ok()),
    };
    write(node, name, value, flags)
}

pub(crate) fn remove(node: &Node, name: &[u8]) -> Result<()> {
    check(node, name)?;
    write(node, name, b"", 2)
}
