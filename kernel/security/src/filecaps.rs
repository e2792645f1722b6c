//! Capabilities of files: the extended attribute `security.capability`.
//!
//! ```text
//!   revision 1   magic, permitted, inheritable (low words)                               12 bytes
//!   revision 2   magic, permitted, inheritable (low), permitted, inheritable (high)      20 bytes
//!   revision 3   the same, user                                                          24 bytes
//! ```
//! All words are little-endian; bit 0 of the magic says that they are in effect from the start. The user of revision 3 is
//! root of the user namespaces in which the capabilities count; in the others it is user 0. Programs write and read its
//! number in their own namespace, the file system keeps that of the one it was mounted for.
//!
//! Source: capabilities(7) "File capability extended attribute versioning" and "Namespaced file capabilities".

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::{Cap, CapSet, Cred, IdKind, UserNs};

const REVISION: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
/// `VFS_CAP_FLAGS_EFFECTIVE`.
const EFFECTIVE: u32 = 1;
/// Bytes of revision 2, which revision 3 begins with.
const LEN_2: usize = 20;
const LEN_3: usize = 24;

/// Capabilities of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCaps {
    /// What the program gets, within the bounding set.
    pub permitted: CapSet,
    /// What it keeps of what its caller lets it inherit.
    pub inheritable: CapSet,
    /// They are in effect from the start.
    pub is_effective: bool,
    /// They count where this user is the root of a user namespace, and in the namespaces below.
    pub root: u32,
}

fn word(value: &[u8], idx: usize) -> Option<u32> {
    Some(u32::from_le_bytes(value.get(4 * idx..4 * idx + 4)?.try_into().ok()?))
}

/// The magic and the user of a value of revision 2 or 3.
fn header(value: &[u8]) -> Option<(u32, u32)> {
    let magic = word(value, 0)?;
    match (magic & REVISION, value.len()) {
        (REVISION_2, LEN_2) => Some((magic, 0)),
        (REVISION_3, LEN_3) => Some((magic, word(value, 5)?)),
        _ => None,
    }
}

/// Revision 3 of `value`, which is of revision 2 or 3, for user `root`. `ENOMEM`.
fn with_root(value: &[u8], magic: u32, root: u32) -> Result<Vec<u8>> {
    let mut new = with_magic(value, REVISION_3 | magic & EFFECTIVE)?;
    new.extend_from_slice(&root.to_le_bytes());
    Ok(new)
}

/// The sets of `value` behind `magic`.
fn with_magic(value: &[u8], magic: u32) -> Result<Vec<u8>> {
    let sets = value.get(4..LEN_2).ok_or(Errno::EINVAL)?;
    let mut new = Vec::new();
    new.try_reserve_exact(LEN_3).map_err(|_| Errno::ENOMEM)?;
    new.extend_from_slice(&magic.to_le_bytes());
    new.extend_from_slice(sets);
    Ok(new)
}

impl FileCaps {
    /// Reads the attribute as a file system mounted for `fs` keeps it. `None`: nothing that counts here.
    pub fn parse(value: &[u8], fs: &UserNs) -> Option<Self> {
        let magic = word(value, 0)?;
        let (nr_words, len) = match magic & REVISION {
            REVISION_1 => (1, 12),
            REVISION_2 => (2, LEN_2),
            REVISION_3 => (2, LEN_3),
            _ => return None,
        };
        if value.len() != len {
            return None;
        }
        let (mut permitted, mut inheritable) = (0u64, 0u64);
        for idx in 0..nr_words {
            permitted |= u64::from(word(value, 1 + 2 * idx)?) << (32 * idx);
            inheritable |= u64::from(word(value, 2 + 2 * idx)?) << (32 * idx);
        }
        let number = if len == LEN_3 { word(value, 5)? } else { 0 };
        Some(Self {
            permitted: CapSet::from_bits(permitted),
            inheritable: CapSet::from_bits(inheritable),
            is_effective: magic & EFFECTIVE != 0,
            root: fs.to_global(IdKind::User, number)?,
        })
    }

    /// Whether they count in `ns`.
    pub(crate) fn is_for(&self, ns: &UserNs) -> bool {
        counts_in(ns, self.root)
    }
}

/// Whether `root` is root of `ns` or of one above it.
fn counts_in(ns: &UserNs, root: u32) -> bool {
    let mut places = core::iter::successors(Some(ns), |ns| ns.parent());
    places.any(|ns| ns.from_global(IdKind::User, root) == Some(0))
}

/// What a file system mounted for `fs` is to keep when `cred` sets the attribute to `value`; `keep` turns a user into
/// the one that it keeps for it, where it keeps another (an idmapped mount). The caller has checked `CAP_SETFCAP`.
///
/// `EINVAL`: no value of revision 2 or 3, or a user that has no number there. `ENOMEM`.
pub fn stored_file_caps(
    value: &[u8],
    cred: &Cred,
    fs: &UserNs,
    keep: Option<&dyn Fn(u32) -> Option<u32>>,
) -> Result<Vec<u8>> {
    let (magic, number) = header(value).ok_or(Errno::EINVAL)?;
    if value.len() == LEN_2 && keep.is_none() && cred.ns_capable(fs, Cap::SETFCAP) {
        return with_magic(value, magic);
    }
    let root = cred.user_ns.to_global(IdKind::User, number).ok_or(Errno::EINVAL)?;
    let kept = keep.map_or(Some(root), |keep| keep(root)).ok_or(Errno::EINVAL)?;
    let number = fs.from_global(IdKind::User, kept).ok_or(Errno::EINVAL)?;
    with_root(value, magic, number)
}

/// What `cred` reads where a file system mounted for `fs` keeps `value`; `show` turns the user that it keeps into the one
/// that the mount shows.
///
/// `EOVERFLOW`: they do not count in its namespace, and their user has no number there. `EINVAL`: the value is damaged.
pub fn shown_file_caps(value: &[u8], cred: &Cred, fs: &UserNs, show: impl Fn(u32) -> u32) -> Result<Vec<u8>> {
    let (magic, number) = header(value).ok_or(Errno::EINVAL)?;
    let root = fs.to_global(IdKind::User, number).map_or(u32::MAX, show);
    match cred.user_ns.from_global(IdKind::User, root) {
        Some(number) if number != 0 => with_root(value, magic, number),
        _ if counts_in(&cred.user_ns, root) => with_magic(value, REVISION_2 | magic & EFFECTIVE),
        _ => Err(Errno::EOVERFLOW),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Extent;

    const NET_RAW: FileCaps = FileCaps {
        permitted: CapSet::EMPTY.with(Cap::NET_RAW),
        inheritable: CapSet::EMPTY,
        is_effective: true,
        root: 0,
    };

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn the_attribute_has_three_forms() {
        let net_raw = 1 << 13;
        let parse = |words: &[u32]| FileCaps::parse(&bytes(words), &UserNs::INITIAL);
        assert_eq!(parse(&[0x0100_0001, net_raw, 0]), Some(NET_RAW));
        assert_eq!(parse(&[0x0200_0001, net_raw, 0, 0, 0]), Some(NET_RAW));
        assert_eq!(parse(&[0x0300_0001, net_raw, 0, 0, 0, 0]), Some(NET_RAW));
        let of_1000 = Some(FileCaps { root: 1000, ..NET_RAW });
        assert_eq!(parse(&[0x0300_0001, net_raw, 0, 0, 0, 1000]), of_1000);
        assert_eq!(parse(&[0x0200_0001, net_raw, 0]), None);
        assert_eq!(parse(&[0x0400_0001, net_raw, 0, 0, 0]), None);
        assert_eq!(parse(&[]), None);
    }

    /// Credentials of a namespace whose root is user 1000.
    fn inner() -> Cred {
        let root = Cred::root();
        let ns = UserNs::new_below(&root).unwrap();
        let line = Vec::from([Extent { first: 0, lower: 1000, count: 10 }]);
        ns.write_map(IdKind::User, line, &root, &root).unwrap();
        root.with_user_ns(ns)
    }

    #[test]
    fn the_root_of_a_namespace_is_kept_with_what_it_writes() {
        let two = bytes(&[0x0200_0001, 1, 2, 3, 4]);
        let three = bytes(&[0x0300_0001, 1, 2, 3, 4, 1000]);
        let initial = &UserNs::INITIAL;
        assert_eq!(stored_file_caps(&two, &Cred::root(), initial, None), Ok(two.clone()));
        assert_eq!(stored_file_caps(&two, &inner(), initial, None), Ok(three.clone()));
        assert_eq!(shown_file_caps(&three, &inner(), initial, |id| id), Ok(two.clone()));
        assert_eq!(shown_file_caps(&three, &Cred::root(), initial, |id| id), Ok(three.clone()));
        assert_eq!(shown_file_caps(&two, &inner(), initial, |id| id), Ok(two.clone()));
        let other = bytes(&[0x0300_0001, 1, 2, 3, 4, 2000]);
        assert_eq!(shown_file_caps(&other, &inner(), initial, |id| id), Err(Errno::EOVERFLOW));
        assert_eq!(stored_file_caps(&two[..12], &Cred::root(), initial, None), Err(Errno::EINVAL));
    }

    #[test]
    fn an_idmapped_mount_moves_the_root() {
        let two = bytes(&[0x0200_0000, 1, 2, 3, 4]);
        let kept = bytes(&[0x0300_0000, 1, 2, 3, 4, 7]);
        let keep: &dyn Fn(u32) -> Option<u32> = &|id| (id == 0).then_some(7);
        assert_eq!(stored_file_caps(&two, &Cred::root(), &UserNs::INITIAL, Some(keep)), Ok(kept.clone()));
        let show = |id| if id == 7 { 0 } else { u32::MAX };
        assert_eq!(shown_file_caps(&kept, &Cred::root(), &UserNs::INITIAL, show), Ok(two.clone()));
        assert_eq!(shown_file_caps(&two, &Cred::root(), &UserNs::INITIAL, show), Err(Errno::EOVERFLOW));
    }
}
