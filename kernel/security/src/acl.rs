//! Access-control lists: more exact permissions than the nine bits of a mode (acl(5)).
//!
//! ```text
//!   programs and disks    version 2, then for each entry: tag u16, permissions u16, id u32 (little-endian)
//!   here                  Acl: entries in the order owner, users, group, groups, mask, others
//! ```
//! The owner's and the others' entry are the mode's bits; the mode's group bits are the mask, or without one the
//! group's entry. So a list that has only these three is no more than a mode, and is kept as one.
//!
//! Source of the layout: <linux/posix_acl_xattr.h> (Linux 7.2).

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::Cred;
use crate::access::{Access, Ids, overridden};

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
/// The id of entries that have none.
const NO_ID: u32 = u32::MAX;
const ALL: u16 = 7;

/// Whom an entry is about. In the order that a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The owner.
    Owner,
    /// A user, by id.
    User(u32),
    /// The file's group.
    OwningGroup,
    /// A group, by id.
    Group(u32),
    /// The most that users, the group and groups get.
    Mask,
    /// All others.
    Other,
}

impl Tag {
    /// The place of its kind in a list.
    fn rank(self) -> u32 {
        match self {
            Tag::Owner => 0,
            Tag::User(_) => 1,
            Tag::OwningGroup => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        }
    }

    fn from_raw(raw: u16, id: u32) -> Option<Tag> {
        Some(match raw {
            0x01 => Tag::Owner,
            0x02 => Tag::User(id),
            0x04 => Tag::OwningGroup,
            0x08 => Tag::Group(id),
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        })
    }

    fn to_raw(self) -> (u16, u32) {
        match self {
            Tag::Owner => (0x01, NO_ID),
            Tag::User(id) => (0x02, id),
            Tag::OwningGroup => (0x04, NO_ID),
            Tag::Group(id) => (0x08, id),
            Tag::Mask => (0x10, NO_ID),
            Tag::Other => (0x20, NO_ID),
        }
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u16,
}

/// A list.
///
/// # Invariants
///
/// - It is valid as `Acl::check_valid` says: sorted by kind, one owner, group and others, a mask if there are users
///   or groups by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

/// Whether a list says more than a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The mode says it all.
    Mode,
    /// The list has to be kept.
    List,
}

impl Acl {
    /// Reads the value of an attribute; `map` turns a user's (`false`) or group's (`true`) id into one of this machine.
    /// `None`: an empty list, which stands for none.
    ///
    /// `EOPNOTSUPP`: another version. `EINVAL`: no valid list. `ENOMEM`.
    pub fn parse(value: &[u8], map: impl Fn(Whose, u32) -> Option<u32>) -> Result<Option<Acl>> {
        let version = value.first_chunk().map(|raw| u32::from_le_bytes(*raw)).ok_or(Errno::EINVAL)?;
        if version != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let body = value.get(HEADER_LEN..).unwrap_or_default();
        if !body.len().is_multiple_of(ENTRY_LEN) {
            return Err(Errno::EINVAL);
        }
        if body.is_empty() {
            return Ok(None);
        }
        let mut entries = Vec::new();
        entries.try_reserve_exact(body.len() / ENTRY_LEN).map_err(|_| Errno::ENOMEM)?;
        for raw in body.as_chunks::<ENTRY_LEN>().0 {
            let [t0, t1, p0, p1, i0, i1, i2, i3] = *raw;
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            let tag = match Tag::from_raw(u16::from_le_bytes([t0, t1]), id).ok_or(Errno::EINVAL)? {
                Tag::User(id) => Tag::User(map(Whose::User, id).ok_or(Errno::EINVAL)?),
                Tag::Group(id) => Tag::Group(map(Whose::Group, id).ok_or(Errno::EINVAL)?),
                tag => tag,
            };
            entries.push(Entry { tag, perm: u16::from_le_bytes([p0, p1]) });
        }
        let acl = Acl { entries };
        acl.check_valid()?;
        Ok(Some(acl))
    }

    /// The attribute's value; `map` turns ids of this machine into those that the reader sees.
    pub fn encode(&self, map: impl Fn(Whose, u32) -> u32) -> Vec<u8> {
        let mut value = Vec::from(VERSION.to_le_bytes());
        for entry in &self.entries {
            let (raw, id) = entry.tag.to_raw();
            let id = match entry.tag {
                Tag::User(id) => map(Whose::User, id),
                Tag::Group(id) => map(Whose::Group, id),
                _ => id,
            };
            value.extend_from_slice(&raw.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// `EINVAL` unless the kinds are in order, each of the three of a mode is there once, a mask is there when one is
    /// needed, and permissions are rwx.
    fn check_valid(&self) -> Result<()> {
        let count = |rank| self.entries.iter().filter(|entry| entry.tag.rank() == rank).count();
        let is_sorted = self.entries.is_sorted_by_key(|entry| entry.tag.rank());
        let needs_mask = count(1) + count(3) > 0;
        let masks = count(4);
        let is_valid = is_sorted
            && [0, 2, 5].into_iter().all(|rank| count(rank) == 1)
            && masks <= 1
            && (masks == 1 || !needs_mask)
            && self.entries.iter().all(|entry| entry.perm & !ALL == 0);
        if is_valid { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn perm(&self, tag: Tag) -> Option<u16> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    /// The permission bits that a mode shows for it, and whether that is all of it.
    pub fn mode(&self) -> (u32, Extent) {
        let bits = |tag| u32::from(self.perm(tag).unwrap_or(0));
        let group = self.perm(Tag::Mask).map_or_else(|| bits(Tag::OwningGroup), u32::from);
        let mode = bits(Tag::Owner) << 6 | group << 3 | bits(Tag::Other);
        (mode, if self.entries.len() == 3 { Extent::Mode } else { Extent::List })
    }

    /// Follows a change of the mode (chmod(2)).
    pub fn chmod(&mut self, mode: u32) {
        let group = if self.perm(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup };
        for entry in &mut self.entries {
            let shift = match entry.tag {
                Tag::Owner => 6,
                Tag::Other => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.perm = (mode >> shift) as u16 & ALL;
        }
    }

    /// Makes a folder's default list the list of a new file that was to have `mode`; gives the file's mode.
    pub fn inherit(&mut self, mode: u32) -> u32 {
        let group = if self.perm(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup };
        let mut mode = mode;
        for entry in &mut self.entries {
            let shift = match entry.tag {
                Tag::Owner => 6,
                Tag::Other => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.perm &= (mode >> shift) as u16 & ALL;
            mode = mode & !(u32::from(ALL) << shift) | u32::from(entry.perm) << shift;
        }
        mode
    }

    /// Whether the list alone gives `cred` all of `wanted` on a file of `gid`, whose owner it is not.
    fn grants(&self, cred: &Cred, gid: u32, wanted: u16) -> bool {
        let mask = self.perm(Tag::Mask).unwrap_or(ALL);
        let mut is_member = false;
        for entry in &self.entries {
            let is_whole = entry.perm & wanted == wanted;
            match entry.tag {
                Tag::User(id) if id == cred.fsuid => return entry.perm & mask & wanted == wanted,
                Tag::OwningGroup | Tag::Group(_) => {
                    let group = if let Tag::Group(id) = entry.tag { id } else { gid };
                    if cred.in_group(group) {
                        is_member = true;
                        if is_whole {
                            return mask & wanted == wanted;
                        }
                    }
                }
                Tag::Other => return !is_member && is_whole,
                Tag::Owner | Tag::User(_) | Tag::Mask => {}
            }
        }
        false
    }
}

/// Whose id an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A user's.
    User,
    /// A group's.
    Group,
}

/// As [`crate::inode_permission`], for an inode with the access list `acl`.
pub fn acl_permission(cred: &Cred, inode: &Ids, acl: &Acl, wanted: Access) -> Result<()> {
    // The owner's bits are the list's entry; without group bits the list can give nobody anything.
    if cred.fsuid == inode.uid || inode.mode >> 3 & u32::from(ALL) == 0 {
        return crate::inode_permission(cred, inode, wanted);
    }
    if acl.grants(cred, inode.gid, wanted.bits() as u16 & ALL) {
        return Ok(());
    }
    overridden(cred, inode, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Result<Option<Acl>> {
        let mut value = Vec::from(2u32.to_le_bytes());
        for (tag, perm, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let acl = Acl::parse(&value, |_, id| Some(id))?;
        if let Some(acl) = &acl {
            assert_eq!(acl.encode(|_, id| id), value);
        }
        Ok(acl)
    }

    const N: u32 = NO_ID;

    fn sample() -> Acl {
        acl(&[(1, 7, N), (2, 6, 1000), (4, 4, N), (8, 7, 50), (16, 5, N), (32, 0, N)]).unwrap().unwrap()
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        assert_eq!(acl(&[]), Ok(None));
        assert!(acl(&[(1, 7, N), (4, 5, N), (32, 5, N)]).is_ok());
        for bad in [
            &[(1, 7, N), (4, 5, N)][..],
            &[(4, 7, N), (1, 5, N), (32, 5, N)],
            &[(1, 7, N), (2, 5, 9), (4, 5, N), (32, 5, N)],
            &[(1, 8, N), (4, 5, N), (32, 5, N)],
            &[(1, 7, N), (4, 5, N), (32, 5, N), (32, 5, N)],
            &[(1, 7, N), (4, 5, N), (3, 5, N), (32, 5, N)],
        ] {
            assert_eq!(acl(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(Acl::parse(&[1, 0, 0, 0], |_, id| Some(id)), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&[2, 0, 0], |_, id| Some(id)), Err(Errno::EINVAL));
    }

    #[test]
    fn the_mode_is_owner_mask_and_others() {
        assert_eq!(sample().mode(), (0o750, Extent::List));
        let mut list = sample();
        list.chmod(0o621);
        assert_eq!(list.mode().0, 0o621);
        assert_eq!((list.perm(Tag::Mask), list.perm(Tag::OwningGroup)), (Some(2), Some(4)));
        let mut plain = acl(&[(1, 7, N), (4, 5, N), (32, 5, N)]).unwrap().unwrap();
        assert_eq!(plain.mode(), (0o755, Extent::Mode));
        assert_eq!(plain.inherit(0o100644), 0o100644);
        let mut list = sample();
        assert_eq!(list.inherit(0o100666), 0o100640);
        assert_eq!(list.perm(Tag::Mask), Some(4));
    }

    #[test]
    fn users_and_groups_get_what_the_mask_leaves() {
        let ids = Ids { uid: 1, gid: 2, mode: 0o100750 };
        let may = |uid: u32, groups: &[u32], wanted: Access| {
            let mut cred = Cred::root();
            (cred.fsuid, cred.euid, cred.fsgid) = (uid, uid, 77);
            let mut groups = Vec::from(groups);
            let mut cred = cred.set_groups(&mut groups).unwrap();
            cred.effective = crate::CapSet::EMPTY;
            acl_permission(&cred, &ids, &sample(), wanted).is_ok()
        };
        assert!(may(1000, &[], Access::READ));
        assert!(!may(1000, &[], Access::WRITE), "the mask has no write");
        assert!(!may(1000, &[], Access::EXEC));
        assert!(may(5, &[50], Access::READ | Access::EXEC));
        assert!(!may(5, &[50], Access::WRITE));
        assert!(may(5, &[2], Access::READ) && !may(5, &[2], Access::EXEC));
        assert!(!may(6, &[], Access::READ));
        assert!(may(1, &[], Access::WRITE));
    }
}
