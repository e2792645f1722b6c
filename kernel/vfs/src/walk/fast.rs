//! The walk that touches nothing but memory: no lock, no reference count before the end, no allocation.
//!
//! It reads dentries, mounts and inodes under one RCU guard. At the end it takes references to the result and
//! compares the name-space sequence; if a rename or a mount came between, the answer is thrown away. It gives up
//! (`None`) on a dentry that is not cached, on directories that decide permissions or names by themselves, on links
//! whose target is not in memory, and on deep nests of links.

use alloc::sync::Arc;

use abi::fs::{NAME_MAX, S_IFDIR, S_IFMT};
use abi::{Errno, Result};
use hal::rcu::{self, ReadGuard};
use security::{Access, Cred};

use super::{MAX_LINKS, WalkFlags};
use crate::dcache::{self, Sequence};
use crate::dentry::Dentry;
use crate::fs_context::WalkContext;
use crate::idmap::IdView;
use crate::inode::{Inode, InodeFlags};
use crate::mount::{Mount, MountFlags};
use crate::path::Path;
use crate::perm;

/// Link targets that can be open at once; deeper nests go the slow way.
const MAX_DEPTH: usize = 6;

/// Search permission for owner, group and others.
const S_IXUGO: u32 = 0o111;

/// Why a walk stopped.
enum Stop {
    /// The answer, if the sequence still is the same.
    Fail(Errno),
    /// The slow walk must decide.
    GiveUp,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno)
    }
}

struct Walk<'g> {
    guard: &'g ReadGuard,
    cred: &'g Cred,
    root: &'g Path,
    mount: &'g Arc<Mount>,
    dentry: &'g Arc<Dentry>,
    /// What is left of the texts outside the current one.
    outer: [&'g [u8]; MAX_DEPTH],
    depth: usize,
    links: u32,
}

/// Walks `name`, which is not empty, from `start` (or from cwd or root); `None`: walk slowly.
pub(super) fn walk(
    ctx: &WalkContext<'_>,
    start: Option<&Path>,
    name: &[u8],
    flags: WalkFlags,
) -> Option<Result<Path>> {
    let sequence = Sequence::begin()?;
    let guard = rcu::read_lock();
    let paths = ctx.fs.paths(&guard);
    let from = match start {
        _ if name.first() == Some(&b'/') => &paths.root,
        Some(path) => path,
        None => &paths.cwd,
    };
    let mut walk = Walk {
        guard: &guard,
        cred: ctx.cred,
        root: &paths.root,
        mount: &from.mount,
        dentry: &from.dentry,
        outer: [&[]; MAX_DEPTH],
        depth: 0,
        links: 0,
    };
    let result = match walk.run(name, flags) {
        Ok(()) => Ok(Path { mount: walk.mount.clone(), dentry: dcache::pin(walk.dentry)? }),
        Err(Stop::Fail(errno)) => Err(errno),
        Err(Stop::GiveUp) => return None,
    };
    sequence.is_same().then_some(result)
}

impl<'g> Walk<'g> {
    fn run(&mut self, name: &'g [u8], flags: WalkFlags) -> Result<(), Stop> {
        let mut text = name;
        let mut must_be_dir = flags.contains(WalkFlags::DIRECTORY);
        loop {
            text = skip_slashes(text);
            if text.is_empty() {
                if self.depth == 0 {
                    break;
                }
                self.depth -= 1;
                text = self.outer[self.depth];
                continue;
            }
            let (component, rest) = text.split_at(component_len(text));
            let is_last = self.depth == 0 && skip_slashes(rest).is_empty();
            must_be_dir |= is_last && !rest.is_empty();
            // A link that ends an inner text is followed by the outer one, so only depth 0 can be last; a link
            // that was last itself was entered by leaving its empty rest out (see `enter`).
            let follow = !is_last || flags.contains(WalkFlags::FOLLOW) || !rest.is_empty();
            text = match self.step(component, follow)? {
                Some(target) => self.enter(target, rest, is_last)?,
                None => rest,
            };
        }
        if must_be_dir && !self.inode()?.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(())
    }

    fn inode(&self) -> Result<&'g Arc<Inode>, Stop> {
        self.dentry.inode().ok_or(Stop::Fail(Errno::ENOENT))
    }

    /// Takes one component; gives a link's target that is to be walked.
    #[inline]
    fn step(&mut self, component: &[u8], follow: bool) -> Result<Option<&'g [u8]>, Stop> {
        let dir = self.inode()?;
        self.may_search(dir)?;
        match component {
            b"." => return Ok(None),
            b".." => return self.up().map(|()| None),
            _ => {}
        }
        if component.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let hash = dcache::hash(self.dentry, component);
        let child = dcache::find(self.guard, self.dentry, component, hash).ok_or(Stop::GiveUp)?;
        let Some(inode) = child.inode() else {
            child.mark_referenced();
            return Err(Errno::ENOENT.into());
        };
        if follow && inode.is_symlink() {
            return self.link(dir, inode, self.mount).map(Some);
        }
        self.dentry = child;
        self.down();
        Ok(None)
    }

    #[inline]
    fn may_search(&self, dir: &Inode) -> Result<(), Stop> {
        let mode = dir.mode();
        if mode & S_IFMT != S_IFDIR {
            return Err(Errno::ENOTDIR.into());
        }
        if dir.flags().intersects(InodeFlags::OWN_PERMISSION | InodeFlags::VOLATILE | InodeFlags::ACL) {
            return Err(Stop::GiveUp);
        }
        if mode & S_IXUGO == S_IXUGO {
            return Ok(()); // whoever asks
        }
        if self.mount.is_idmapped() {
            return Err(Stop::GiveUp);
        }
        Ok(security::inode_permission(self.cred, &dir.ids(), Access::EXEC)?)
    }

    /// Goes from a mount point to what is mounted there.
    #[inline]
    fn down(&mut self) {
        while self.dentry.is_mountpoint() {
            match self.mount.child(self.guard, self.dentry) {
                Some(mount) => (self.mount, self.dentry) = (mount, mount.root()),
                None => break,
            }
        }
    }

    /// "..": stops at the root of the process and at the root of the tree.
    fn up(&mut self) -> Result<(), Stop> {
        loop {
            if Arc::ptr_eq(self.dentry, &self.root.dentry) && Arc::ptr_eq(self.mount, &self.root.mount) {
                break;
            }
            if Arc::ptr_eq(self.dentry, self.mount.root()) {
                match self.mount.place(self.guard) {
                    Some(place) => (self.mount, self.dentry) = (&place.parent, &place.dentry),
                    None => break,
                }
                continue;
            }
            let parent = self.dentry.place(self.guard).parent.as_ref();
            self.dentry = parent.ok_or(Stop::GiveUp)?;
            break;
        }
        self.down();
        Ok(())
    }

    fn link(&mut self, dir: &Inode, link: &'g Inode, mount: &Mount) -> Result<&'g [u8], Stop> {
        self.links += 1;
        if self.links > MAX_LINKS || mount.flags().contains(MountFlags::NOSYMFOLLOW) {
            return Err(Errno::ELOOP.into());
        }
        let target = link.ops().link_in_memory().ok_or(Stop::GiveUp)?;
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if mount.is_idmapped() {
            return Err(Stop::GiveUp);
        }
        perm::may_follow_link(&IdView::PLAIN, dir, link, self.cred).map_err(|_| Stop::GiveUp)?;
        Ok(target)
    }

    /// Turns to a link's target; `rest` is walked after it.
    fn enter(&mut self, target: &'g [u8], rest: &'g [u8], is_last: bool) -> Result<&'g [u8], Stop> {
        if target[0] == b'/' {
            (self.mount, self.dentry) = (&self.root.mount, &self.root.dentry);
        }
        // Nothing follows a last link, so its target takes its place.
        if !is_last {
            *self.outer.get_mut(self.depth).ok_or(Stop::GiveUp)? = rest;
            self.depth += 1;
        }
        Ok(target)
    }
}

#[inline]
fn skip_slashes(mut text: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] = text {
        text = rest;
    }
    text
}

/// The length of the component that `text` begins with: up to a slash or the end.
#[inline]
fn component_len(text: &[u8]) -> usize {
    /// The word whose bytes are all 1.
    const ONES: u64 = u64::MAX / 255;
    let (words, tail) = text.as_chunks::<8>();
    for (idx, word) in words.iter().enumerate() {
        let mixed = u64::from_le_bytes(*word) ^ (ONES * b'/' as u64);
        // The lowest bit that is set belongs to the first byte that is 0 (Warren, Hacker's Delight, 6-1).
        let zeros = mixed.wrapping_sub(ONES) & !mixed & (ONES << 7);
        if zeros != 0 {
            return idx * 8 + zeros.trailing_zeros() as usize / 8;
        }
    }
    let end = tail.iter().position(|&byte| byte == b'/').unwrap_or(tail.len());
    words.len() * 8 + end
}

#[cfg(test)]
mod tests {
    use super::component_len;

    #[test]
    fn a_component_ends_at_the_first_slash_wherever_it_is() {
        for len in 0..30 {
            for fill in [b'a', b'0', b'.', 0x80, 0xaf, 0xff, 1] {
                let name = alloc::vec![fill; len];
                assert_eq!(component_len(&name), len);
                for rest in ["/", "//", "/x", "/a longer tail/with/more"] {
                    let text = [&name, rest.as_bytes()].concat();
                    assert_eq!(component_len(&text), len, "{fill:#x} and {rest}");
                }
            }
        }
    }
}
