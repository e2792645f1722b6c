//! Extended attributes; access-control lists are kept in a shorter form than programs see.

use alloc::vec::Vec;

use abi::{Errno, Result};
use ext4_image::Layout;
use ext4_image::xattr::{self, index};
use vfs::Inode;
use vfs::inode::XattrMode;

use crate::node::Node;
use crate::state::Txn;

/// Version of ACLs as programs see them, and on disk.
const SEEN_VERSION: u32 = 2;
const DISK_VERSION: u32 = 1;
/// Tags whose entries have an id: `ACL_USER`, `ACL_GROUP`.
const WITH_ID: [u16; 2] = [2, 8];

fn split(name: &[u8]) -> Result<(u8, &[u8])> {
    xattr::split_name(name).ok_or(Errno::EOPNOTSUPP)
}

fn is_acl(index: u8) -> bool {
    index == index::ACL_ACCESS || index == index::ACL_DEFAULT
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An ACL for the disk: ids only where they mean something. `EINVAL`: it is none.
fn acl_to_disk(seen: &[u8]) -> Result<Vec<u8>> {
    let (Some(SEEN_VERSION), entries) = (word(seen, 0), seen.get(4..).unwrap_or_default()) else {
        return Err(Errno::EINVAL);
    };
    if !entries.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mut out = Vec::from(DISK_VERSION.to_le_bytes());
    for entry in entries.chunks_exact(8) {
        let has_id = half(entry, 0).is_some_and(|tag| WITH_ID.contains(&tag));
        out.extend_from_slice(entry.get(..if has_id { 8 } else { 4 }).unwrap_or_default());
    }
    Ok(out)
}

/// An ACL as programs see it. `EINVAL`: the one on disk is damaged.
fn acl_from_disk(disk: &[u8]) -> Result<Vec<u8>> {
    if word(disk, 0) != Some(DISK_VERSION) {
        return Err(Errno::EINVAL);
    }
    let mut out = Vec::from(SEEN_VERSION.to_le_bytes());
    let mut at = 4;
    while at < disk.len() {
        let tag = half(disk, at).ok_or(Errno::EINVAL)?;
        let len = if WITH_ID.contains(&tag) { 8 } else { 4 };
        out.extend_from_slice(disk.get(at..at + len).ok_or(Errno::EINVAL)?);
        if len == 4 {
            out.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        at += len;
    }
    Ok(out)
}

pub(crate) fn get(node: &Node, name: &[u8]) -> Result<Vec<u8>> {
    let (index, rest) = split(name)?;
    let value = node.fs.look(|layout, view| {
        let raw = node.load(layout, view)?;
        xattr::get(layout, view, &raw, index, rest)
    })?;
    let value = value.ok_or(Errno::ENODATA)?;
    if is_acl(index) { acl_from_disk(&value) } else { Ok(value) }
}

pub(crate) fn set(
    node: &Node,
    inode: &Inode,
    name: &[u8],
    value: Option<&[u8]>,
    mode: XattrMode,
) -> Result<()> {
    let (index, rest) = split(name)?;
    let converted = match value {
        Some(value) if is_acl(index) => Some(acl_to_disk(value)?),
        Some(value) => Some(Vec::from(value)),
        None => None,
    };
    let was_there = node.fs.look(|layout, view| {
        let raw = node.load(layout, view)?;
        Ok(xattr::get(layout, view, &raw, index, rest)?.is_some())
    })?;
    match (was_there, value.is_some(), mode) {
        (true, _, XattrMode::Create) => return Err(Errno::EEXIST),
        (false, _, XattrMode::Replace) | (false, false, _) => return Err(Errno::ENODATA),
        _ => {}
    }
    inode.touch_ctime();
    let put = |layout: &Layout, txn: &mut Txn<'_>| {
        let mut raw = node.load(layout, txn)?;
        node.put_attributes(&mut raw, inode);
        xattr::set(layout, txn, &mut raw, index, rest, converted.as_deref())?;
        node.changed(txn);
        Ok(())
    };
    node.fs.with_space(|| node.fs.begin()?.run(put)).map_err(|errno| match errno {
        // No space on the device would help.
        Errno::EFBIG => Errno::ENOSPC,
        errno => errno,
    })?;
    vfs::acl::note(inode, name, value.is_some());
    Ok(())
}

pub(crate) fn list(node: &Node) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    node.fs.look(|layout, view| {
        let raw = node.load(layout, view)?;
        xattr::list(layout, view, &raw, &mut |prefix, name| {
            names.extend_from_slice(prefix);
            names.extend_from_slice(name);
            names.push(0);
        })
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_lose_and_regain_ids_that_mean_nothing() {
        let mut seen = Vec::from(2u32.to_le_bytes());
        for (tag, perm, id) in [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 7, u32::MAX)] {
            seen.extend_from_slice(&tag.to_le_bytes());
            seen.extend_from_slice(&perm.to_le_bytes());
            seen.extend_from_slice(&id.to_le_bytes());
        }
        let disk = acl_to_disk(&seen).unwrap();
        assert_eq!(disk.len(), 4 + 3 * 4 + 8);
        assert_eq!(acl_from_disk(&disk).unwrap(), seen);
        assert_eq!(acl_from_disk(&disk[..7]), Err(Errno::EINVAL));
    }
}
