//! Path walk: from a name to a [`Path`].
//!
//! Two walkers know the same rules. The fast one (`fast`) runs in one RCU section, takes no lock or reference
//! before the end and allocates nothing; it gives up as soon as it meets something that it cannot decide from
//! memory. Then the slow one (`slow`) starts over with references and asks file systems.
//!
//! ```text
//!   walk() -> fast::walk -- decided --> result
//!                |
//!                +- gave up --> slow::Walker --> result
//! ```
//!
//! Sources: path_resolution(7), openat2(2), symlink(7).

mod fast;
mod slow;

use alloc::sync::Arc;

use abi::fs::{AT_FDCWD, AtFlags, PATH_MAX, ResolveFlags};
use abi::{Errno, Result};
use bitflags::bitflags;

use crate::dentry::Name;
use crate::file::File;
use crate::fs_context::WalkContext;
use crate::path::Path;
pub use slow::lookup_child;
pub(crate) use slow::{Walker, cross_mounts, lookup_locked};

/// Symbolic links that one walk follows at most (path_resolution(7)).
pub const MAX_LINKS: u32 = 40;

/// Where a relative name starts.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The working directory.
    Cwd,
    /// A file descriptor; looked up only if the name needs it.
    Fd(i32),
    /// A path that the caller holds.
    Path(&'a Path),
}

impl At<'_> {
    /// What the `dirfd` argument of a system call means.
    #[inline]
    pub fn from_raw(dirfd: i32) -> At<'static> {
        if dirfd == AT_FDCWD { At::Cwd } else { At::Fd(dirfd) }
    }
}

bitflags! {
    /// How a walk ends.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WalkFlags: u32 {
        /// A symbolic link at the end is followed.
        const FOLLOW = 1;
        /// An empty name means the start itself (`AT_EMPTY_PATH`).
        const EMPTY_PATH = 2;
        /// The end must be a directory.
        const DIRECTORY = 4;
    }
}

impl WalkFlags {
    /// For calls that follow unless told not to by `AT_SYMLINK_NOFOLLOW`.
    #[inline]
    pub fn from_at(flags: AtFlags) -> Self {
        let mut walk = Self::FOLLOW;
        walk.set(Self::FOLLOW, !flags.contains(AtFlags::SYMLINK_NOFOLLOW));
        walk.set(Self::EMPTY_PATH, flags.contains(AtFlags::EMPTY_PATH));
        walk
    }
}

/// What the walk to the last name found.
pub(crate) struct Parent {
    /// The directory.
    pub(crate) dir: Path,
    /// The last component.
    pub(crate) last: Last,
}

/// The last component of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// An ordinary name, and whether slashes follow it.
    Name(Name, bool),
    /// "."
    Dot,
    /// ".."
    DotDot,
    /// Nothing but slashes.
    Root,
}

/// Where a walk starts: what keeps the path alive, or nothing for cwd and root.
pub(crate) enum Start<'a> {
    Context,
    File(Arc<File>),
    Path(&'a Path),
}

impl<'a> Start<'a> {
    /// Looks a descriptor up if `name` is relative, or if its directory is the root of the walk.
    pub(crate) fn new(ctx: &WalkContext<'_>, at: At<'a>, name: &[u8], resolve: ResolveFlags) -> Result<Self> {
        let is_absolute = name.first() == Some(&b'/') && !resolve.contains(ResolveFlags::IN_ROOT);
        match at {
            At::Fd(fd) if !is_absolute => Ok(Self::File(ctx.files.get_any(fd)?)),
            At::Path(path) => Ok(Self::Path(path)),
            _ => Ok(Self::Context),
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Context => None,
            Self::File(file) => Some(file.path()),
            Self::Path(path) => Some(path),
        }
    }
}

fn check_name(name: &[u8], flags: WalkFlags) -> Result<()> {
    if name.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if name.is_empty() && !flags.contains(WalkFlags::EMPTY_PATH) {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

/// Walks `name` from `at`.
///
/// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`, `EBADF` as in path_resolution(7), and what file systems
/// say. May sleep.
pub fn walk(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], flags: WalkFlags) -> Result<Path> {
    walk_with(ctx, at, name, flags, ResolveFlags::empty())
}

/// As [`walk`], within the bounds of `resolve` (openat2(2)).
///
/// `EXDEV`: it would leave the bounds. `EAGAIN`: `RESOLVE_CACHED` and not decided in memory, or a rename came between.
pub fn walk_with(
    ctx: &WalkContext<'_>,
    at: At<'_>,
    name: &[u8],
    flags: WalkFlags,
    resolve: ResolveFlags,
) -> Result<Path> {
    check_name(name, flags)?;
    let start = Start::new(ctx, at, name, resolve)?;
    let start = start.path();
    if name.is_empty() {
        let path = start.cloned().unwrap_or_else(|| ctx.fs.cwd());
        let is_dir = path.inode().is_some_and(|inode| inode.is_dir());
        let wants_dir = flags.contains(WalkFlags::DIRECTORY);
        return if wants_dir && !is_dir { Err(Errno::ENOTDIR) } else { Ok(path) };
    }
    if (resolve - ResolveFlags::CACHED).is_empty()
        && let Some(result) = fast::walk(ctx, start, name, flags)
    {
        return result;
    }
    if resolve.contains(ResolveFlags::CACHED) {
        return Err(Errno::EAGAIN);
    }
    Walker::new(ctx, start, name, resolve)?.walk_to_end(flags)
}

/// Walks to the directory of the last component of `name`.
pub(crate) fn walk_parent(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8]) -> Result<Parent> {
    check_name(name, WalkFlags::empty())?;
    let start = Start::new(ctx, at, name, ResolveFlags::empty())?;
    let start = start.path();
    let cut = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (prefix, last) = name.split_at(cut);
    let is_ordinary = !last.is_empty() && last != b"." && last != b".." && last.len() <= abi::fs::NAME_MAX;
    if is_ordinary
        && !prefix.is_empty()
        && let Some(dir) = fast::walk(ctx, start, prefix, WalkFlags::DIRECTORY)
    {
        return Ok(Parent { dir: dir?, last: Last::Name(Name::from_slice(last), false) });
    }
    let mut walker = Walker::new(ctx, start, name, ResolveFlags::empty())?;
    let last = walker.walk_to_last()?;
    Ok(Parent { dir: walker.into_path(), last })
}

/// The checks of a name that is to be made.
pub(crate) fn check_name_for_create(name: &[u8]) -> Result<()> {
    check_name(name, WalkFlags::empty())
}
