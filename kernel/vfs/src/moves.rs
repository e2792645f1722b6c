//! Mounts that come into a namespace, leave it or move in it, for those who watch it (fanotify(7), `FAN_MARK_MNTNS`).
//!
//! ```text
//!   a change of the tree: Mount::set_ns --> note      the lock over the trees opens --> tell --> notify::mount_event
//! ```
//! What one call does to a mount is told once, when it is done: to move is no leaving and coming back.
//!
//! # Locks
//!
//! `MOVES` is a spinlock, a leaf, inside the lock over all mount trees.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use hal::sync::SpinLock;

use crate::mount::{Mount, MountNs};
use crate::notify::{self, Event};

/// A mount's namespaces before and after the changes that are being made.
struct Move {
    from: Option<Arc<MountNs>>,
    to: Option<Arc<MountNs>>,
}

/// Moves that nobody was told of yet, by the mount's unique number: only those that somebody watches. The lock over the trees is held over
/// each change.
static MOVES: SpinLock<BTreeMap<u64, Move>> = SpinLock::new("vfs.mount_moves", BTreeMap::new());

/// Notes for those who watch that a mount goes from one namespace to another.
pub(crate) fn note(mount: u64, from: Option<Arc<MountNs>>, to: Option<Arc<MountNs>>) {
    if is_same(&from, &to) {
        return;
    }
    let is_watched = |ns: &Option<Arc<MountNs>>| ns.as_ref().is_some_and(|ns| ns.marks().has_groups());
    let mut left = None;
    let mut moves = MOVES.lock();
    if let Some(known) = moves.get_mut(&mount) {
        left = core::mem::replace(&mut known.to, to);
    } else if is_watched(&from) || is_watched(&to) {
        moves.insert(mount, Move { from, to });
    }
    drop(moves);
    // The last reference to a namespace must not go inside the spinlock.
    drop(left);
}

fn is_same(from: &Option<Arc<MountNs>>, to: &Option<Arc<MountNs>>) -> bool {
    match (from, to) {
        (Some(from), Some(to)) => Arc::ptr_eq(from, to),
        (None, None) => true,
        _ => false,
    }
}

/// Nobody is to be told that `mount` moves inside a namespace: it only stays on top of what comes beneath it.
pub(crate) fn forget(mount: &Mount) {
    let mut moves = MOVES.lock();
    let is_still = moves.get(&mount.unique_id()).is_some_and(|known| is_same(&known.from, &known.to));
    let gone = if is_still { moves.remove(&mount.unique_id()) } else { None };
    drop(moves);
    drop(gone);
}

/// Tells of the moves that were noted. The lock over the trees is held.
pub(crate) fn tell() {
    let moves = core::mem::take(&mut *MOVES.lock());
    for (mount, Move { from, to }) in moves {
        if is_same(&from, &to) {
            let events = Event::MNT_ATTACH | Event::MNT_DETACH;
            to.iter().for_each(|ns| notify::mount_event(ns, mount, events));
        } else {
            from.iter().for_each(|ns| notify::mount_event(ns, mount, Event::MNT_DETACH));
            to.iter().for_each(|ns| notify::mount_event(ns, mount, Event::MNT_ATTACH));
        }
        // The namespace may end here: its tree goes to `mount`'s orphans, which the caller takes apart when it has opened the lock.
        drop((from, to));
    }
}
