//! statmount(2) and listmount(2).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{StatMount, major, minor};
use abi::{Errno, Result};
use bitflags::bitflags;
use security::{Cap, IdKind, UserNs};

use super::{AttrFlags, MOUNT_ATTR_IDMAP};
use crate::file::File;
use crate::fs_context::WalkContext;
use crate::mount::{Mount, MountNs};
use crate::mount_ops;
use crate::path::Path;

/// `LSMT_ROOT`: the root that the namespace is seen from.
pub const LIST_ROOT: u64 = u64::MAX;

bitflags! {
    /// `STATMOUNT_*`: what is asked for and given (include/uapi/linux/mount.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct StatMask: u64 {
        /// Device, magic and flags of the superblock.
        const SB_BASIC = 0x1;
        /// Ids, attributes and propagation.
        const MNT_BASIC = 0x2;
        /// `propagate_from`.
        const PROPAGATE_FROM = 0x4;
        /// The root within the file system.
        const MNT_ROOT = 0x8;
        /// The mount point, as the caller's root sees it.
        const MNT_POINT = 0x10;
        /// The name of the file-system type.
        const FS_TYPE = 0x20;
        /// The namespace's id.
        const MNT_NS_ID = 0x40;
        /// Options, separated by commas.
        const MNT_OPTS = 0x80;
        /// The subtype, of which no file system here has one.
        const FS_SUBTYPE = 0x100;
        /// What was mounted.
        const SB_SOURCE = 0x200;
        /// Options, each with a NUL.
        const OPT_ARRAY = 0x400;
        /// Options of security modules: none.
        const OPT_SEC_ARRAY = 0x800;
        /// Which bits are known.
        const SUPPORTED_MASK = 0x1000;
        /// How users are shown, each line with a NUL.
        const MNT_UIDMAP = 0x2000;
        /// How groups are shown, each line with a NUL.
        const MNT_GIDMAP = 0x4000;
        const _ = !0;
    }
}

/// The bits that this kernel may set in answers.
const SUPPORTED: StatMask = StatMask::SB_BASIC
    .union(StatMask::MNT_BASIC)
    .union(StatMask::PROPAGATE_FROM)
    .union(StatMask::MNT_ROOT)
    .union(StatMask::MNT_POINT)
    .union(StatMask::FS_TYPE)
    .union(StatMask::MNT_NS_ID)
    .union(StatMask::MNT_OPTS)
    .union(StatMask::FS_SUBTYPE)
    .union(StatMask::SB_SOURCE)
    .union(StatMask::OPT_ARRAY)
    .union(StatMask::OPT_SEC_ARRAY)
    .union(StatMask::SUPPORTED_MASK)
    .union(StatMask::MNT_UIDMAP)
    .union(StatMask::MNT_GIDMAP);

/// A mount namespace and the root that it is seen from.
pub struct View<'a> {
    ctx: &'a WalkContext<'a>,
    ns: Arc<MountNs>,
    root: Path,
}

impl<'a> View<'a> {
    /// The caller's own namespace and root.
    pub fn own(ctx: &'a WalkContext<'a>) -> Result<Self> {
        Ok(Self { ctx, ns: mount_ops::ns_of(ctx)?, root: ctx.fs.root() })
    }

    /// The namespace `ns`; another than the caller's is seen from the mount upon its bottom. `ENOENT`: it has none.
    fn through(ctx: &'a WalkContext<'a>, ns: Arc<MountNs>) -> Result<Self> {
        if ctx.fs.ns().is_some_and(|own| Arc::ptr_eq(&own, &ns)) {
            return Self::own(ctx);
        }
        let root = Path::root_of(&ns.first().ok_or(Errno::ENOENT)?);
        Ok(Self { ctx, ns, root })
    }

    /// As `through`, for who may look into `ns`. `EPERM`: neither in it nor privileged over it.
    pub fn of(ctx: &'a WalkContext<'a>, ns: Arc<MountNs>) -> Result<Self> {
        let is_own = ctx.fs.ns().is_some_and(|own| Arc::ptr_eq(&own, &ns));
        if !is_own && !ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        Self::through(ctx, ns)
    }

    /// The mounts that the root reaches, in order of their ids.
    fn reachable(&self) -> Vec<Arc<Mount>> {
        let mut mounts = self.ns.mounts();
        mounts.retain(|mount| Path::root_of(mount).spell(Some(&self.root)).is_reachable);
        mounts.sort_unstable_by_key(|mount| mount.unique_id());
        mounts
    }

    fn find(&self, id: u64) -> Result<Arc<Mount>> {
        self.ns.mounts().into_iter().find(|mount| mount.unique_id() == id).ok_or(Errno::ENOENT)
    }
}

/// The answer: the fixed part and the strings behind it.
struct Answer {
    fixed: StatMount,
    mask: StatMask,
    strings: Vec<u8>,
}

impl Answer {
    /// Adds a string; gives its place.
    fn add(&mut self, bit: StatMask, text: &[u8]) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text);
        self.strings.push(0);
        self.mask |= bit;
        at
    }
}

/// statmount(2): `struct statmount` and the strings behind it, of the mount with the unique id `id`.
///
/// `ENOENT`: there is none in that namespace. `EPERM`: the root does not reach it and the caller is not privileged.
pub fn stat_mount(view: &View<'_>, id: u64, wanted: StatMask) -> Result<(StatMount, Vec<u8>)> {
    let mount = view.find(id)?;
    let is_reachable = Path::root_of(&mount).spell(Some(&view.root)).is_reachable;
    if !is_reachable && !view.ctx.cred.ns_capable(view.ns.id().owner(), Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    Ok(answer(&mount, Some(view), wanted, &view.ctx.cred.user_ns))
}

/// As [`stat_mount`], of the mount that `file` is on (`STATMOUNT_BY_FD`), wherever that is: who has a descriptor there
/// may know. One that is unmounted has neither mount point nor namespace. `ENOENT`: its namespace has no root. `EINVAL`: no
/// path leads to it.
pub fn stat_mount_of(ctx: &WalkContext<'_>, file: &File, wanted: StatMask) -> Result<(StatMount, Vec<u8>)> {
    let mount = &file.path().mount;
    if mount.is_internal() {
        return Err(Errno::EINVAL);
    }
    let view = mount.ns().map(|ns| View::through(ctx, ns)).transpose()?;
    Ok(answer(mount, view.as_ref(), wanted, &ctx.cred.user_ns))
}

/// `reader` is the user namespace of who asks.
fn answer(
    mount: &Arc<Mount>,
    view: Option<&View<'_>>,
    wanted: StatMask,
    reader: &UserNs,
) -> (StatMount, Vec<u8>) {
    let mut answer = Answer { fixed: StatMount::default(), mask: StatMask::empty(), strings: Vec::new() };
    let from = view.and_then(|view| mount.dominating(&view.ns, &view.root));
    fill_numbers(&mut answer, mount, wanted, from);
    let place = view.map(|view| Path::root_of(mount).spell(Some(&view.root))).filter(|at| at.is_reachable);
    if let Some(place) = place.filter(|_| wanted.contains(StatMask::MNT_POINT)) {
        answer.fixed.mnt_point = answer.add(StatMask::MNT_POINT, &place.text);
    }
    fill_strings(&mut answer, mount, wanted);
    fill_idmap(&mut answer, mount, wanted, reader);
    answer.fixed.mask = answer.mask.bits();
    answer.fixed.size = (size_of::<StatMount>() + answer.strings.len()) as u32;
    (answer.fixed, answer.strings)
}

/// `from` is the group that it propagates from.
fn fill_numbers(answer: &mut Answer, mount: &Arc<Mount>, wanted: StatMask, from: Option<u32>) {
    let fixed = &mut answer.fixed;
    let sb = mount.sb();
    if wanted.contains(StatMask::SB_BASIC) {
        answer.mask |= StatMask::SB_BASIC;
        (fixed.sb_dev_major, fixed.sb_dev_minor) = (major(sb.dev()), minor(sb.dev()));
        fixed.sb_magic = sb.magic();
        fixed.sb_flags = sb.flags().bits();
    }
    if wanted.contains(StatMask::MNT_BASIC) {
        answer.mask |= StatMask::MNT_BASIC;
        let parent = mount.mountpoint().map_or(mount.clone(), |at| at.mount);
        (fixed.mnt_id, fixed.mnt_id_old) = (mount.unique_id(), mount.id());
        (fixed.mnt_parent_id, fixed.mnt_parent_id_old) = (parent.unique_id(), parent.id());
        fixed.mnt_attr = AttrFlags::of_mount(mount.flags()).bits();
        if mount.is_idmapped() {
            fixed.mnt_attr |= MOUNT_ATTR_IDMAP;
        }
        fixed.mnt_propagation = mount_ops::propagation_bits(mount);
        fixed.mnt_peer_group = mount.group().map_or(0, u64::from);
        fixed.mnt_master = mount.master().map_or(0, u64::from);
    }
    if wanted.contains(StatMask::PROPAGATE_FROM) {
        answer.mask |= StatMask::PROPAGATE_FROM;
        fixed.propagate_from = from.map_or(0, u64::from);
    }
    if let Some(ns) = mount.ns().filter(|_| wanted.contains(StatMask::MNT_NS_ID)) {
        answer.mask |= StatMask::MNT_NS_ID;
        fixed.mnt_ns_id = ns.id().id();
    }
    if wanted.contains(StatMask::SUPPORTED_MASK) {
        answer.mask |= StatMask::SUPPORTED_MASK;
        fixed.supported_mask = SUPPORTED.bits();
    }
}

fn fill_strings(answer: &mut Answer, mount: &Arc<Mount>, wanted: StatMask) {
    let sb = mount.sb();
    if wanted.contains(StatMask::MNT_ROOT) {
        let root = mount.root().path_in_fs();
        answer.fixed.mnt_root = answer.add(StatMask::MNT_ROOT, &root);
    }
    if wanted.contains(StatMask::FS_TYPE) {
        answer.fixed.fs_type = answer.add(StatMask::FS_TYPE, sb.fs_type().name().as_bytes());
    }
    if wanted.contains(StatMask::SB_SOURCE) {
        answer.fixed.sb_source = answer.add(StatMask::SB_SOURCE, mount.source());
    }
    if !wanted.intersects(StatMask::MNT_OPTS | StatMask::OPT_ARRAY) {
        return;
    }
    let mut options = Vec::new();
    sb.ops().show_options(sb, &mut options);
    let options = options.strip_prefix(b",").unwrap_or(&options);
    // Without options the bits stay unset, as on Linux.
    if options.is_empty() {
        return;
    }
    if wanted.contains(StatMask::MNT_OPTS) {
        answer.fixed.mnt_opts = answer.add(StatMask::MNT_OPTS, options);
    }
    if wanted.contains(StatMask::OPT_ARRAY) {
        answer.fixed.opt_num = options.split(|&byte| byte == b',').count() as u32;
        let array: Vec<u8> = options.iter().map(|&byte| if byte == b',' { 0 } else { byte }).collect();
        answer.fixed.opt_array = answer.add(StatMask::OPT_ARRAY, &array);
    }
}

/// How the mount shows owners, in numbers of `reader`: lines that have none there are left out. The bits tell that there is
/// a map, even with no line.
fn fill_idmap(answer: &mut Answer, mount: &Mount, wanted: StatMask, reader: &UserNs) {
    let view = mount.id_view();
    let Some(map) = view.map() else { return };
    for (bit, kind) in [(StatMask::MNT_UIDMAP, IdKind::User), (StatMask::MNT_GIDMAP, IdKind::Group)] {
        if !wanted.contains(bit) {
            continue;
        }
        let lines = map.ns().resolved_map(kind, reader);
        let mut text = Vec::new();
        for line in &lines {
            text.extend(format!("{} {} {}\0", line.first, line.lower, line.count).bytes());
        }
        let at = if lines.is_empty() { 0 } else { answer.add(bit, &text) };
        answer.mask |= bit;
        let (number, place) = match kind {
            IdKind::User => (&mut answer.fixed.mnt_uidmap_num, &mut answer.fixed.mnt_uidmap),
            _ => (&mut answer.fixed.mnt_gidmap_num, &mut answer.fixed.mnt_gidmap),
        };
        (*number, *place) = (lines.len() as u32, at);
    }
}

/// The order of listmount(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOrder {
    /// Oldest first.
    Forward,
    /// Newest first (`LISTMOUNT_REVERSE`).
    Reverse,
}

/// listmount(2): unique ids of at most `max` mounts below the mount `id`, itself not among them, that come after the id
/// `last` (0: from the start).
///
/// `ENOENT`: no mount `id` in that namespace.
pub fn list_mounts(view: &View<'_>, id: u64, last: u64, max: usize, order: ListOrder) -> Result<Vec<u64>> {
    let top = match id {
        LIST_ROOT => None,
        id => Some(view.find(id)?),
    };
    let is_below = |mount: &Arc<Mount>| match &top {
        None => true,
        Some(top) => {
            !Arc::ptr_eq(mount, top) && Path::root_of(mount).spell(Some(&Path::root_of(top))).is_reachable
        }
    };
    let mut mounts = view.reachable();
    if order == ListOrder::Reverse {
        mounts.reverse();
    }
    let is_later = |id: u64| match order {
        _ if last == 0 => true,
        ListOrder::Forward => id > last,
        ListOrder::Reverse => id < last,
    };
    let ids = mounts.iter().filter(|mount| is_below(mount)).map(|mount| mount.unique_id());
    Ok(ids.filter(|&id| is_later(id)).take(max).collect())
}
