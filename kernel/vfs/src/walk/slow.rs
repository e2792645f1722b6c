//! The walk that holds references and may sleep: it asks file systems, follows magic links and keeps the bounds of
//! openat2(2).
//!
//! The text still to walk is a stack: the name at the bottom, link targets on top. A component is last when nothing
//! but slashes follows it in the whole stack.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{NAME_MAX, PATH_MAX, ResolveFlags};
use abi::{Errno, Result};
use hal::rcu;
use security::Access;
use smallvec::SmallVec;

use super::{Last, MAX_LINKS, WalkFlags};
use crate::dcache::{self, Hash, Sequence};
use crate::dentry::{Dentry, Name};
use crate::fs_context::WalkContext;
use crate::inode::{Inode, InodeFlags, Link};
use crate::mount::MountFlags;
use crate::path::Path;
use crate::perm;

enum Text<'a> {
    Given(&'a [u8]),
    Target(Vec<u8>),
}

struct Pending<'a> {
    text: Text<'a>,
    pos: usize,
}

impl Pending<'_> {
    fn rest(&self) -> &[u8] {
        let text = match &self.text {
            Text::Given(text) => text,
            Text::Target(text) => &text[..],
        };
        text.get(self.pos..).unwrap_or(&[])
    }

    fn skip_slashes(&mut self) {
        self.pos += self.rest().iter().take_while(|&&byte| byte == b'/').count();
    }
}

/// A component and what follows it.
struct Component {
    name: Name,
    is_last: bool,
    slash_follows: bool,
}

/// A walk in progress; see the module's front page.
pub(crate) struct Walker<'a> {
    ctx: &'a WalkContext<'a>,
    root: Path,
    at: Path,
    resolve: ResolveFlags,
    sequence: Option<Sequence>,
    links: u32,
    pending: SmallVec<[Pending<'a>; 4]>,
}

/// The resolve flags that tie a walk to the tree below its start.
const SCOPED: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::IN_ROOT);

impl<'a> Walker<'a> {
    /// A walk of `name` from `start`, or from the working directory.
    pub(crate) fn new(
        ctx: &'a WalkContext<'a>,
        start: Option<&Path>,
        name: &'a [u8],
        resolve: ResolveFlags,
    ) -> Result<Self> {
        let is_absolute = name.first() == Some(&b'/');
        let start_or_cwd = || start.cloned().unwrap_or_else(|| ctx.fs.cwd());
        let root = if resolve.intersects(SCOPED) { start_or_cwd() } else { ctx.fs.root() };
        if is_absolute && resolve.contains(ResolveFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let at = if is_absolute { root.clone() } else { start_or_cwd() };
        let mut pending = SmallVec::new();
        pending.push(Pending { text: Text::Given(name), pos: 0 });
        Ok(Self { ctx, root, at, resolve, sequence: Sequence::begin(), links: 0, pending })
    }

    /// Where the walk is.
    pub(crate) fn into_path(self) -> Path {
        self.at
    }

    /// Where the walk is.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Walks to the end.
    pub(crate) fn walk_to_end(mut self, flags: WalkFlags) -> Result<Path> {
        let mut must_be_dir = flags.contains(WalkFlags::DIRECTORY);
        loop {
            match self.walk_to_last()? {
                Last::Root => {}
                Last::Dot => {}
                Last::DotDot => self.up()?,
                Last::Name(name, slash_follows) => {
                    must_be_dir |= slash_follows;
                    let child = self.child(&name)?;
                    let inode = child.inode().ok_or(Errno::ENOENT)?.clone();
                    if inode.is_symlink() && (flags.contains(WalkFlags::FOLLOW) || slash_follows) {
                        self.follow(&child, &inode, true)?;
                        continue;
                    }
                    self.at = child;
                }
            }
            break;
        }
        if must_be_dir && !self.at.inode().is_some_and(|inode| inode.is_dir()) {
            return Err(Errno::ENOTDIR);
        }
        Ok(self.at)
    }

    /// Walks until one component is left and gives that; the position is its directory, which may be searched.
    pub(crate) fn walk_to_last(&mut self) -> Result<Last> {
        while let Some(component) = self.next_component() {
            let dir = self.at.inode().ok_or(Errno::ENOENT)?.clone();
            if !dir.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            perm::permission(&self.at.mount.id_view(), &dir, self.ctx.cred, Access::EXEC)?;
            let name = component.name;
            if component.is_last {
                return Ok(match &name[..] {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    _ if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
                    _ => Last::Name(name, component.slash_follows),
                });
            }
            match &name[..] {
                b"." => {}
                b".." => self.up()?,
                _ => {
                    let child = self.child(&name)?;
                    let inode = child.inode().ok_or(Errno::ENOENT)?.clone();
                    if inode.is_symlink() {
                        self.follow(&child, &inode, false)?;
                    } else {
                        self.at = child;
                    }
                }
            }
        }
        Ok(Last::Root)
    }

    /// Takes the next component off the stack.
    fn next_component(&mut self) -> Option<Component> {
        let (name, slash_follows) = loop {
            let top = self.pending.last_mut()?;
            top.skip_slashes();
            let rest = top.rest();
            if rest.is_empty() {
                self.pending.pop();
                continue;
            }
            let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            // One byte more than allowed is enough to be refused.
            let name = Name::from_slice(&rest[..len.min(NAME_MAX + 1)]);
            top.pos += len;
            break (name, !top.rest().is_empty());
        };
        let is_last = self.pending.iter().all(|p| p.rest().iter().all(|&byte| byte == b'/'));
        // A slash after the whole link counts for its target's last component as well.
        let slash_follows = slash_follows || (is_last && self.pending.iter().any(|p| !p.rest().is_empty()));
        Some(Component { name, is_last, slash_follows })
    }

    /// The entry `name` of the current directory, with mounts on it crossed. It may be negative.
    pub(crate) fn child(&self, name: &[u8]) -> Result<Path> {
        let dentry = lookup_child(&self.at.dentry, name)?;
        let mut child = Path { mount: self.at.mount.clone(), dentry };
        cross_mounts(&mut child);
        if self.resolve.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&child.mount, &self.at.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(child)
    }

    /// "..".
    pub(crate) fn up(&mut self) -> Result<()> {
        let before = self.at.mount.clone();
        loop {
            if self.at.is_same(&self.root) {
                if self.resolve.contains(ResolveFlags::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                break;
            }
            if self.at.is_mount_root() {
                match self.at.mount.mountpoint() {
                    Some(up) => self.at = up,
                    None => break,
                }
                continue;
            }
            if let Some(parent) = self.at.dentry.parent() {
                self.at.dentry = parent;
            }
            break;
        }
        cross_mounts(&mut self.at);
        if self.resolve.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&before, &self.at.mount) {
            return Err(Errno::EXDEV);
        }
        // A rename may have moved the tree from under the root while this walk was below it.
        let is_same = self.sequence.is_some_and(Sequence::is_same);
        if self.resolve.intersects(SCOPED) && !is_same {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Follows the symbolic link `link`, whose inode is `inode`; `is_last`: it ends the name.
    pub(crate) fn follow(&mut self, link: &Path, inode: &Arc<Inode>, is_last: bool) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS
            || self.resolve.contains(ResolveFlags::NO_SYMLINKS)
            || link.mount.flags().contains(MountFlags::NOSYMFOLLOW)
        {
            return Err(Errno::ELOOP);
        }
        if is_last && let Some(dir) = self.at.inode() {
            perm::may_follow_link(&link.mount.id_view(), dir, inode, self.ctx.cred)?;
        }
        crate::rw::touch_atime(link);
        match inode.ops().read_link(inode)? {
            Link::Target(text) => self.enter(text),
            Link::Magic(path) => self.jump(path),
        }
    }

    fn enter(&mut self, text: Vec<u8>) -> Result<()> {
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if text[0] == b'/' {
            if self.resolve.contains(ResolveFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            if self.resolve.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&self.root.mount, &self.at.mount)
            {
                return Err(Errno::EXDEV);
            }
            self.at = self.root.clone();
        }
        self.pending.push(Pending { text: Text::Target(text), pos: 0 });
        Ok(())
    }

    /// Goes where a magic link leads.
    fn jump(&mut self, path: Path) -> Result<()> {
        if self.resolve.contains(ResolveFlags::NO_MAGICLINKS) {
            return Err(Errno::ELOOP);
        }
        let crosses = !Arc::ptr_eq(&path.mount, &self.at.mount);
        if self.resolve.intersects(SCOPED) || (crosses && self.resolve.contains(ResolveFlags::NO_XDEV)) {
            return Err(Errno::EXDEV);
        }
        self.at = path;
        Ok(())
    }
}

/// Goes from a mount point to the topmost mount there.
pub(crate) fn cross_mounts(path: &mut Path) {
    while path.dentry.is_mountpoint() {
        let guard = rcu::read_lock();
        let Some(mount) = path.mount.child(&guard, &path.dentry) else { break };
        let next = Path::root_of(mount);
        drop(guard);
        *path = next;
    }
}

/// The entry `name` of `parent`, from the cache or from the file system; it may be negative.
///
/// Takes the directory's `sem` for reading when the entry is not cached. May sleep.
pub fn lookup_child(parent: &Arc<Dentry>, name: &[u8]) -> Result<Arc<Dentry>> {
    let hash = dcache::hash(parent, name);
    let dir = parent.inode().ok_or(Errno::ENOENT)?;
    if let Some(dentry) = cached_child(parent, dir, name, hash) {
        return Ok(dentry);
    }
    let _shared = dir.sem.read();
    lookup_locked(parent, name)
}

/// As [`lookup_child`], with the directory's `sem` held by the caller.
pub(crate) fn lookup_locked(parent: &Arc<Dentry>, name: &[u8]) -> Result<Arc<Dentry>> {
    let hash = dcache::hash(parent, name);
    let dir = parent.inode().ok_or(Errno::ENOENT)?;
    if let Some(dentry) = cached_child(parent, dir, name, hash) {
        return Ok(dentry);
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let inode = dir.ops().lookup(dir, name)?;
    // A damaged volume may have a directory below itself.
    if inode.as_ref().is_some_and(|inode| inode.is_dir() && parent.is_below_inode(inode)) {
        return Err(Errno::ELOOP);
    }
    let dentry = Dentry::new(parent, name, hash, inode);
    if dir.flags().contains(InodeFlags::DEAD) {
        // Nothing is ever found in a removed directory, and nothing is to be remembered of it.
        return Ok(dentry);
    }
    // Where names differ in case only, a directory keeps the dentry that it has.
    if let Some(inode) = dentry.inode().filter(|inode| inode.is_dir())
        && let Some(shown) = inode.show_through(parent, &dentry)
    {
        let there = dcache::insert(shown.clone());
        if Arc::ptr_eq(&there, &shown) {
            return Ok(shown);
        }
    }
    Ok(dcache::insert(dentry))
}

fn cached_child(parent: &Arc<Dentry>, dir: &Arc<Inode>, name: &[u8], hash: Hash) -> Option<Arc<Dentry>> {
    let dentry = dcache::find_pinned(parent, name, hash)?;
    if dir.flags().contains(InodeFlags::VOLATILE) && !dir.ops().revalidate(dir, name, dentry.inode()) {
        if !dentry.is_mountpoint() {
            dcache::remove(&dentry);
        }
        return None;
    }
    Some(dentry)
}
