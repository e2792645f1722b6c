//! What is kept for each group: the inodes of its directory and files, with the owners and modes that they were given, and
//! who waits for its events.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use abi::fs::S_IFDIR;
use abi::{Errno, Result};
use cgroup::{Cgroup, EventFile, Node};
use hal::sync::SpinLock;
use sched::{Mutex, WaitQueue, workqueue};
use security::{Access, Cred};
use vfs::notify::{self, Event};
use vfs::{IdView, Inode, InodeFlags, InodeInit, NewInode, SuperBlock, perm};

use crate::dir::Dir;
use crate::file::FileNode;
use crate::table::{self, Entry};

/// Mode of the root.
const ROOT_MODE: u32 = S_IFDIR | 0o555;

/// Changes of one file's content.
pub(crate) struct Changes {
    /// How many there were.
    pub(crate) count: AtomicU64,
    /// Woken with each.
    pub(crate) queue: WaitQueue,
    /// Who watches files will be told.
    is_queued: AtomicBool,
}

impl Changes {
    const fn new() -> Self {
        Self { count: AtomicU64::new(0), queue: WaitQueue::new(), is_queued: AtomicBool::new(false) }
    }
}

/// The directory, and who made it: the owner and group of files that nobody gave away.
#[derive(Clone)]
struct Home {
    dir: Arc<Inode>,
    owner: (u32, u32),
}

/// The file system's part of a group.
pub(crate) struct Part {
    this: Weak<Self>,
    group: Weak<Cgroup>,
    /// Empty until the directory is made, and once it was removed.
    home: SpinLock<Option<Home>>,
    /// Files that somebody has looked at, by name.
    inodes: Mutex<BTreeMap<&'static str, Arc<Inode>>>,
    changes: [Changes; 3],
}

const EVENT_FILES: [(EventFile, &str); 3] = [
    (EventFile::Group, "cgroup.events"),
    (EventFile::Pids, "pids.events"),
    (EventFile::PidsLocal, "pids.events.local"),
];

impl Node for Part {
    fn changed(&self, file: EventFile) {
        let Some(at) = EVENT_FILES.iter().position(|(known, _)| *known == file) else { return };
        let Some(changes) = self.changes.get(at) else { return };
        changes.count.fetch_add(1, SeqCst);
        changes.queue.wake_all();
        if notify::is_used()
            && !changes.is_queued.swap(true, SeqCst)
            && let Some(part) = self.this.upgrade()
        {
            workqueue::queue(Box::new(move || part.tell_watchers(at)));
        }
    }
}

impl Part {
    /// That of `group`.
    pub(crate) fn of(group: &Arc<Cgroup>) -> &Self {
        let node = group.node(|| {
            Arc::new_cyclic(|this| Self {
                this: this.clone(),
                group: Arc::downgrade(group),
                home: SpinLock::new("cgroup2.home", None),
                inodes: Mutex::new("cgroup2.inodes", BTreeMap::new()),
                changes: [const { Changes::new() }; 3],
            })
        });
        match (&**node as &dyn Any).downcast_ref() {
            Some(part) => part,
            None => unreachable!("only this crate makes parts"),
        }
    }

    /// The changes of the file `name`, if it tells of any.
    pub(crate) fn changes(&self, name: &str) -> Option<&Changes> {
        let at = EVENT_FILES.iter().position(|(_, known)| *known == name)?;
        self.changes.get(at)
    }

    /// Tells those who watch files of a change of an event file.
    fn tell_watchers(&self, at: usize) {
        let (Some(changes), Some((_, name))) = (self.changes.get(at), EVENT_FILES.get(at)) else { return };
        changes.is_queued.store(false, SeqCst);
        let inode = self.inodes.lock().get(name).cloned();
        let (Some(inode), Some(dir)) = (inode, self.dir()) else { return };
        notify::entry_event(&dir, name.as_bytes(), &inode, Event::MODIFY);
        notify::inode_event(&inode, Event::MODIFY);
    }

    /// The inode of the directory.
    pub(crate) fn dir(&self) -> Option<Arc<Inode>> {
        self.home.lock().as_ref().map(|home| home.dir.clone())
    }

    /// The inode of a file. `ENODEV`: the group is gone.
    pub(crate) fn file(&self, entry: &'static Entry) -> Result<Arc<Inode>> {
        self.file_of(entry, None)
    }

    /// The same, made by `owner` if it is not there yet; `None`: by who made the directory.
    pub(crate) fn file_of(&self, entry: &'static Entry, owner: Option<(u32, u32)>) -> Result<Arc<Inode>> {
        let group = self.group.upgrade().ok_or(Errno::ENODEV)?;
        let mut inodes = self.inodes.lock();
        // Looked up under the lock, so that nothing is added once `forget_all` was here.
        let home = self.home.lock().clone().ok_or(Errno::ENODEV)?;
        if let Some(inode) = inodes.get(entry.name) {
            return Ok(inode.clone());
        }
        let mut init = InodeInit::new(group.id() + 1 + entry.index(), entry.mode());
        (init.uid, init.gid) = owner.unwrap_or(home.owner);
        let inode = Inode::new(home.dir.sb(), init, Box::new(FileNode::new(&group, entry)), None);
        inodes.insert(entry.name, inode.clone());
        Ok(inode)
    }

    /// Forgets all inodes: the group was removed. What refers to each other would stay for ever otherwise.
    pub(crate) fn forget_all(&self) {
        let home = self.home.lock().take();
        self.forget(|_| true);
        drop(home);
    }

    /// Forgets inodes of files that are not there any more.
    pub(crate) fn forget(&self, goes: impl Fn(&str) -> bool) {
        let mut inodes = self.inodes.lock();
        let gone: alloc::vec::Vec<_> = inodes.extract_if(.., |name, _| goes(name)).collect();
        drop(inodes);
        gone.iter().filter_map(|(_, inode)| inode.ops_as::<FileNode>()).for_each(FileNode::note_gone);
        drop(gone);
    }
}

/// The group, and the file in it, that inode number `ino` is of.
pub(crate) fn place_of(ino: u64) -> (u64, Option<u64>) {
    let index = ino.saturating_sub(1) % cgroup::ID_STEP;
    (ino - index, index.checked_sub(1))
}

/// Makes the root directory's inode on `sb`. Once.
pub(crate) fn root_inode(sb: &Arc<SuperBlock>) -> Arc<Inode> {
    let new = NewInode { mode: ROOT_MODE, uid: 0, gid: 0, rdev: 0, target: &[] };
    make_dir(sb, Cgroup::root(), &new)
}

/// Makes the inode of the directory of `group` as `new` says. Once for each.
pub(crate) fn make_dir(sb: &Arc<SuperBlock>, group: &Arc<Cgroup>, new: &NewInode<'_>) -> Arc<Inode> {
    let mut init = InodeInit::new(group.id(), new.mode);
    (init.uid, init.gid, init.flags) = (new.uid, new.gid, InodeFlags::VOLATILE);
    let dir = Inode::new(sb, init, Box::new(Dir::new(group)), None);
    *Part::of(group).home.lock() = Some(Home { dir: dir.clone(), owner: (new.uid, new.gid) });
    dir
}

/// Whether `cred` may write the cgroup.procs of `group`. `EACCES`.
pub(crate) fn may_write_procs(group: &Arc<Cgroup>, cred: &Cred) -> Result<()> {
    let inode = Part::of(group).file(table::procs())?;
    perm::permission(&IdView::PLAIN, &inode, cred, Access::WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_files_follow_their_group() {
        let step = cgroup::ID_STEP;
        assert_eq!((place_of(1), place_of(2)), ((1, None), (1, Some(0))));
        assert_eq!((place_of(step), place_of(step + 1)), ((1, Some(step - 2)), (step + 1, None)));
    }
}
