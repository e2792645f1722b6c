//! User namespaces (user_namespaces(7)): which numbers stand for which ids, and where capabilities count.
//!
//! Credentials and inodes hold ids of the first namespace. A number that a process passes in or sees is translated at
//! the boundary by the map of its namespace:
//!
//! ```text
//! uid_map "0 1000 1" of a child of the first namespace
//!   process says 0     ── to_global ──▶  1000
//!   file of uid 1000   ── from_global ─▶ 0
//!   file of uid 5      ── from_global ─▶ nothing: shown as 65534, the overflow id
//! ```
//!
//! A map names ids of the parent; it is written once and stored translated to ids of the first namespace.
//!
//! # Locking
//!
//! Maps are written once and read without a lock. `setgroups` is an atomic.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::Once;

use crate::{Cap, CapSet, Cred, NsId, NsKind};

/// What an id without a number in a namespace is shown as (kernel.overflowuid).
pub const OVERFLOW_ID: u32 = 65534;
/// Namespaces below the first that may nest (user_namespaces(7)).
const MAX_LEVEL: u32 = 32;
/// Most lines of a map.
pub const MAX_EXTENTS: usize = 340;

/// Which ids a map is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum IdKind {
    /// Users.
    User = 0,
    /// Groups.
    Group = 1,
    /// Projects of disk quotas.
    Project = 2,
}

/// `count` ids: `first` and up in the namespace are `lower` and up outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id inside.
    pub first: u32,
    /// First id outside.
    pub lower: u32,
    /// How many.
    pub count: u32,
}

impl Extent {
    fn up(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.first)?;
        (offset < self.count).then(|| self.lower.wrapping_add(offset))
    }

    fn down(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.lower)?;
        (offset < self.count).then(|| self.first.wrapping_add(offset))
    }
}

struct Inner {
    id: NsId,
    level: u32,
    parent: UserNs,
    /// Who made it, as ids of the first namespace.
    owner: u32,
    group: u32,
    maps: [Once<Vec<Extent>>; 3],
    allows_setgroups: AtomicBool,
    /// Whether its maker had `CAP_SETFCAP`: needed to map user 0 of the parent.
    could_setfcap: bool,
    /// What exec keeps of it, which is no matter of this floor.
    formats: Once<Arc<dyn Any + Send + Sync>>,
}

/// A user namespace: the first one, or one below it.
#[derive(Clone, Default)]
pub struct UserNs(Option<Arc<Inner>>);

impl core::fmt::Debug for UserNs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "user:[{}]", self.id().ino())
    }
}

impl PartialEq for UserNs {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

static INITIAL_ID: NsId = NsId::initial(NsKind::User);

impl UserNs {
    /// The first one.
    pub const INITIAL: Self = Self(None);

    /// Makes one below that of `cred`. `EPERM`: the caller's own ids have no number in it. `ENOSPC`: too many, or too
    /// deep.
    pub fn new_below(cred: &Cred) -> Result<Self> {
        let parent = cred.user_ns.clone();
        let level = parent.0.as_ref().map_or(0, |inner| inner.level) + 1;
        if level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if parent.from_global(IdKind::User, cred.euid).is_none()
            || parent.from_global(IdKind::Group, cred.egid).is_none()
        {
            return Err(Errno::EPERM);
        }
        let allows = parent.allows_setgroups();
        Ok(Self(Some(Arc::new(Inner {
            id: NsId::new(NsKind::User, &parent)?,
            level,
            owner: cred.euid,
            group: cred.egid,
            maps: [Once::new(), Once::new(), Once::new()],
            allows_setgroups: AtomicBool::new(allows),
            could_setfcap: cred.effective.contains(Cap::SETFCAP),
            formats: Once::new(),
            parent,
        }))))
    }

    /// Whether it is the first.
    #[inline]
    pub fn is_initial(&self) -> bool {
        self.0.is_none()
    }

    /// Its number and kind; its owner is its parent.
    pub fn id(&self) -> &NsId {
        self.0.as_ref().map_or(&INITIAL_ID, |inner| &inner.id)
    }

    /// The one that it was made in; `None` for the first.
    pub fn parent(&self) -> Option<&UserNs> {
        self.0.as_ref().map(|inner| &inner.parent)
    }

    /// Where exec keeps the executable formats that were registered in it (binfmt_misc), once there may be some;
    /// `None` for the first.
    pub fn formats(&self) -> Option<&Once<Arc<dyn Any + Send + Sync>>> {
        self.0.as_ref().map(|inner| &inner.formats)
    }

    /// The user that made it, as an id of the first namespace.
    pub fn owner(&self) -> u32 {
        self.0.as_ref().map_or(0, |inner| inner.owner)
    }

    /// The group that made it.
    pub fn group(&self) -> u32 {
        self.0.as_ref().map_or(0, |inner| inner.group)
    }

    /// Whether its maker could have given capabilities to files.
    pub fn could_setfcap(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.could_setfcap)
    }

    /// Whether `self` is `other` or one above it.
    pub fn contains(&self, other: &UserNs) -> bool {
        let mut at = other;
        loop {
            if at == self {
                return true;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// The id of the first namespace that `number` stands for here, if it stands for any.
    pub fn to_global(&self, kind: IdKind, number: u32) -> Option<u32> {
        match &self.0 {
            None => (number != u32::MAX).then_some(number),
            Some(inner) => inner.maps[kind as usize].get()?.iter().find_map(|extent| extent.up(number)),
        }
    }

    /// The number here for an `id` of the first namespace, if it has one.
    pub fn from_global(&self, kind: IdKind, id: u32) -> Option<u32> {
        match &self.0 {
            None => (id != u32::MAX).then_some(id),
            Some(inner) => inner.maps[kind as usize].get()?.iter().find_map(|extent| extent.down(id)),
        }
    }

    /// As [`UserNs::from_global`], with the overflow id for those without a number.
    #[inline]
    pub fn show(&self, kind: IdKind, id: u32) -> u32 {
        match &self.0 {
            None if id == u32::MAX => OVERFLOW_ID,
            None => id,
            Some(_) => self.from_global(kind, id).unwrap_or(OVERFLOW_ID),
        }
    }

    /// The lines of a map as `reader`'s namespace sees them: a namespace's own map names ids of its parent.
    pub fn show_map(&self, kind: IdKind, reader: &UserNs) -> Vec<Extent> {
        let lower_ns = if self == reader { self.parent().unwrap_or(self) } else { reader };
        match &self.0 {
            None => Vec::from([Extent { first: 0, lower: 0, count: u32::MAX }]),
            Some(inner) => {
                let extents = inner.maps[kind as usize].get().map(Vec::as_slice).unwrap_or_default();
                let seen = |extent: &Extent| Extent {
                    lower: lower_ns.from_global(kind, extent.lower).unwrap_or(u32::MAX),
                    ..*extent
                };
                extents.iter().map(seen).collect()
            }
        }
    }

    /// The lines of a map with what is outside as `reader` numbers it; those that it cannot number as a whole are left out
    /// (Linux: `statmount_mnt_idmap`).
    pub fn resolved_map(&self, kind: IdKind, reader: &UserNs) -> Vec<Extent> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let extents = inner.maps[kind as usize].get().map(Vec::as_slice).unwrap_or_default();
        let seen = |extent: &Extent| {
            let lower = reader.from_global(kind, extent.lower)?;
            let last = reader.from_global(kind, extent.lower.checked_add(extent.count - 1)?)?;
            (last.checked_sub(lower)? == extent.count - 1).then_some(Extent { lower, ..*extent })
        };
        extents.iter().filter_map(seen).collect()
    }

    /// Whether a map has been written.
    pub fn is_mapped(&self, kind: IdKind) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.maps[kind as usize].get().is_some())
    }

    /// Whether setgroups(2) is allowed: a group map and no "deny".
    pub fn may_setgroups(&self) -> bool {
        self.is_mapped(IdKind::Group) && self.allows_setgroups()
    }

    /// What /proc/PID/setgroups says.
    pub fn allows_setgroups(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.allows_setgroups.load(Relaxed))
    }

    /// Writes /proc/PID/setgroups. `EPERM`: "deny" after the group map, or "allow" after a "deny".
    pub fn set_allows_setgroups(&self, allows: bool) -> Result<()> {
        let Some(inner) = &self.0 else { return if allows { Ok(()) } else { Err(Errno::EPERM) } };
        if allows {
            return if inner.allows_setgroups.load(Relaxed) { Ok(()) } else { Err(Errno::EPERM) };
        }
        if inner.maps[IdKind::Group as usize].get().is_some() {
            return Err(Errno::EPERM);
        }
        inner.allows_setgroups.store(false, Relaxed);
        Ok(())
    }

    /// Writes a map whose `extents` name ids of the parent. `EPERM`: `writer` may not, it was written before, or an id
    /// does not exist in the parent. `EINVAL`: lines that overlap or wrap, or too many of them.
    ///
    /// `opener` opened the file; it must have the rights as well.
    pub fn write_map(&self, kind: IdKind, extents: Vec<Extent>, writer: &Cred, opener: &Cred) -> Result<()> {
        let Some(inner) = &self.0 else { return Err(Errno::EPERM) };
        let cap = if kind == IdKind::Group { Cap::SETGID } else { Cap::SETUID };
        if self.is_mapped(kind) || (kind != IdKind::Project && !writer.ns_capable(self, Cap::SYS_ADMIN)) {
            return Err(Errno::EPERM);
        }
        check_extents(&extents)?;
        self.check_writer(kind, cap, &extents, writer, opener)?;
        let mut stored = extents;
        for extent in &mut stored {
            extent.lower = translate(&inner.parent, kind, extent).ok_or(Errno::EPERM)?;
        }
        let mut is_ours = false;
        inner.maps[kind as usize].call_once(|| {
            is_ours = true;
            stored
        });
        if is_ours { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Linux: `new_idmap_permitted`.
    fn check_writer(
        &self,
        kind: IdKind,
        cap: Cap,
        extents: &[Extent],
        writer: &Cred,
        opener: &Cred,
    ) -> Result<()> {
        let Some(parent) = self.parent() else { return Err(Errno::EPERM) };
        // Mapping the parent's root lets files carry capabilities that count there.
        let maps_root = kind == IdKind::User && extents.iter().any(|extent| extent.lower == 0);
        if maps_root {
            let may = if *self == writer.user_ns {
                self.could_setfcap()
            } else {
                writer.ns_capable(parent, Cap::SETFCAP)
            };
            if !may {
                return Err(Errno::EPERM);
            }
        }
        if let ([one], true) = (extents, self.owner() == writer.euid)
            && one.count == 1
        {
            let own = |id| parent.from_global(kind, id) == Some(one.lower);
            match kind {
                IdKind::User if own(writer.euid) => return Ok(()),
                IdKind::Group if own(writer.egid) && !self.allows_setgroups() => return Ok(()),
                _ => {}
            }
        }
        if kind == IdKind::Project || (writer.ns_capable(parent, cap) && opener.ns_capable(parent, cap)) {
            return Ok(());
        }
        Err(Errno::EPERM)
    }
}

/// The id of the first namespace for the start of `extent`, if all its ids lie in one line of the parent's map.
fn translate(parent: &UserNs, kind: IdKind, extent: &Extent) -> Option<u32> {
    let first = parent.to_global(kind, extent.lower)?;
    let last = parent.to_global(kind, extent.lower.checked_add(extent.count - 1)?)?;
    (last.checked_sub(first)? == extent.count - 1).then_some(first)
}

/// `EINVAL`: empty, too many, wrapping or overlapping lines.
fn check_extents(extents: &[Extent]) -> Result<()> {
    if extents.is_empty() || extents.len() > MAX_EXTENTS {
        return Err(Errno::EINVAL);
    }
    for (at, one) in extents.iter().enumerate() {
        let fits = |start: u32| start != u32::MAX && start.checked_add(one.count).is_some();
        if one.count == 0 || !fits(one.first) || !fits(one.lower) {
            return Err(Errno::EINVAL);
        }
        let overlaps = |a: u32, b: u32, len: u32| a < b + len && b < a + one.count;
        let clashes = |other: &Extent| {
            overlaps(one.first, other.first, other.count) || overlaps(one.lower, other.lower, other.count)
        };
        if extents.iter().take(at).any(clashes) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

impl Cred {
    /// Whether `cap` counts for things that `ns` owns (Linux: `ns_capable`): it is effective in `ns` or above, or the
    /// caller made `ns` from right above.
    pub fn ns_capable(&self, ns: &UserNs, cap: Cap) -> bool {
        let mut at = ns;
        loop {
            if *at == self.user_ns {
                return self.effective.contains(cap);
            }
            let Some(parent) = at.parent() else { return false };
            if *parent == self.user_ns && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether `cap` is effective in the caller's own user namespace.
    #[inline]
    pub fn own_capable(&self, cap: Cap) -> bool {
        self.effective.contains(cap)
    }

    /// Whether `cap` counts for an inode of these owners: they have numbers in the caller's namespace (Linux:
    /// `capable_wrt_inode_uidgid`).
    pub fn inode_capable(&self, uid: u32, gid: u32, cap: Cap) -> bool {
        self.effective.contains(cap)
            && (self.user_ns.is_initial() && uid != u32::MAX && gid != u32::MAX
                || (self.user_ns.from_global(IdKind::User, uid).is_some()
                    && self.user_ns.from_global(IdKind::Group, gid).is_some()))
    }

    /// These credentials as the first of a new user namespace: every capability, counting there only.
    pub fn with_user_ns(&self, ns: UserNs) -> Self {
        let mut new = self.clone();
        new.user_ns = ns;
        new.securebits = crate::SecureBits::empty();
        new.inheritable = CapSet::EMPTY;
        new.permitted = CapSet::FULL;
        new.effective = CapSet::FULL;
        new.bounding = CapSet::FULL;
        new.ambient = CapSet::EMPTY;
        new
    }

    /// The id that root has in the caller's namespace, if it has one.
    #[inline]
    pub fn root_uid(&self) -> Option<u32> {
        if self.user_ns.is_initial() { Some(0) } else { self.user_ns.to_global(IdKind::User, 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Cred {
        Cred::root().setgid(uid).unwrap().setuid(uid).unwrap()
    }

    fn line(first: u32, lower: u32, count: u32) -> Vec<Extent> {
        Vec::from([Extent { first, lower, count }])
    }

    /// A namespace that user 1000 made, and who is in it.
    fn made_by_1000() -> (UserNs, Cred) {
        let outer = user(1000);
        let ns = UserNs::new_below(&outer).unwrap();
        (ns.clone(), outer.with_user_ns(ns))
    }

    #[test]
    fn a_user_may_map_itself_and_nobody_else() {
        let (ns, inner) = made_by_1000();
        let write = |kind, extents| ns.write_map(kind, extents, &inner, &inner);
        assert_eq!(write(IdKind::User, line(0, 1001, 1)), Err(Errno::EPERM));
        assert_eq!(write(IdKind::User, line(0, 1000, 2)), Err(Errno::EPERM));
        assert_eq!(write(IdKind::User, line(0, 1000, 1)), Ok(()));
        assert_eq!(write(IdKind::User, line(0, 1000, 1)), Err(Errno::EPERM), "only once");
        assert_eq!(ns.to_global(IdKind::User, 0), Some(1000));
        assert_eq!((ns.show(IdKind::User, 1000), ns.show(IdKind::User, 5)), (0, OVERFLOW_ID));
        // Groups could be dropped to gain rights: only without setgroups(2).
        assert_eq!(write(IdKind::Group, line(0, 1000, 1)), Err(Errno::EPERM));
        ns.set_allows_setgroups(false).unwrap();
        assert_eq!(write(IdKind::Group, line(0, 1000, 1)), Ok(()));
        assert_eq!(ns.set_allows_setgroups(true), Err(Errno::EPERM));
    }

    #[test]
    fn capabilities_count_below_and_not_above() {
        let (ns, inner) = made_by_1000();
        assert!(inner.ns_capable(&ns, Cap::SYS_ADMIN));
        assert!(!inner.ns_capable(&UserNs::INITIAL, Cap::SYS_ADMIN) && !inner.capable(Cap::SYS_ADMIN));
        assert!(Cred::root().ns_capable(&ns, Cap::KILL), "root of the parent");
        assert!(user(1000).ns_capable(&ns, Cap::KILL), "its maker");
        assert!(!user(1001).ns_capable(&ns, Cap::KILL));
    }

    #[test]
    fn maps_must_not_overlap_or_wrap() {
        let ns = UserNs::new_below(&Cred::root()).unwrap();
        let root = Cred::root();
        let write = |extents| ns.write_map(IdKind::User, extents, &root, &root);
        assert_eq!(write(Vec::new()), Err(Errno::EINVAL));
        assert_eq!(write(line(0, 0, 0)), Err(Errno::EINVAL));
        assert_eq!(write(line(u32::MAX - 1, 0, 5)), Err(Errno::EINVAL));
        let mut two = line(0, 100, 10);
        two.extend(line(5, 500, 1));
        assert_eq!(write(two), Err(Errno::EINVAL));
        let mut good = line(0, 100, 10);
        good.extend(line(10, 500, 1));
        assert_eq!(write(good), Ok(()));
        assert_eq!((ns.to_global(IdKind::User, 9), ns.to_global(IdKind::User, 10)), (Some(109), Some(500)));
        assert_eq!(ns.show_map(IdKind::User, &ns)[0].lower, 100);
    }

    #[test]
    fn nested_maps_go_through_the_parent() {
        let outer = UserNs::new_below(&Cred::root()).unwrap();
        let root = Cred::root();
        for kind in [IdKind::User, IdKind::Group] {
            outer.write_map(kind, line(0, 1000, 100), &root, &root).unwrap();
        }
        let mut inside = root.with_user_ns(outer.clone());
        (inside.euid, inside.egid) = (1000, 1000);
        let inner = UserNs::new_below(&inside).unwrap();
        assert_eq!(inner.write_map(IdKind::User, line(0, 95, 10), &inside, &inside), Err(Errno::EPERM));
        inner.write_map(IdKind::User, line(0, 50, 10), &inside, &inside).unwrap();
        assert_eq!(inner.to_global(IdKind::User, 3), Some(1053));
        assert!(UserNs::INITIAL.contains(&inner) && outer.contains(&inner) && !inner.contains(&outer));
    }
}
