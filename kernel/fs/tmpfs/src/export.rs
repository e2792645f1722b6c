//! Files by handle: generation and inode number. Nothing is kept for it; a file is found by looking at all directories.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::Inode;
use vfs::dentry::Name;
use vfs::handle::{Export, Found, Handle, kind};

use crate::inode::table;

pub(crate) struct Exporter;

pub(crate) static EXPORT: Exporter = Exporter;

/// A directory that was seen: which one it is in, its name there, and the inode.
struct Seen {
    parent: usize,
    name: Name,
    inode: Arc<Inode>,
}

/// The names that lead to `seen[at]`, and then `last`.
fn names_of(seen: &[Seen], at: usize, last: Name) -> Vec<Name> {
    let mut names = Vec::from([last]);
    let mut at = at;
    // The first is the root, which has no name.
    while at != 0
        && let Some(dir) = seen.get(at)
    {
        names.push(dir.name.clone());
        at = dir.parent;
    }
    names.reverse();
    names
}

impl Export for Exporter {
    fn encode(&self, inode: &Inode, _parent: Option<&Inode>) -> Handle {
        let ino = inode.ino();
        Handle::of_words(kind::INO32_GEN, &[inode.generation(), ino as u32, (ino >> 32) as u32])
    }

    /// The type does not matter, as on Linux. LINUX: an open file without names is found there too.
    fn decode(&self, root: &Arc<Inode>, _kind: i32, bytes: &[u8]) -> Result<Found> {
        let word = |at| Handle::word(bytes, at).ok_or(Errno::ESTALE);
        let (generation, ino) = (word(0)?, u64::from(word(1)?) | u64::from(word(2)?) << 32);
        let is_it = |inode: &Arc<Inode>| inode.ino() == ino && inode.generation() == generation;
        if is_it(root) {
            return Ok(Found::Names(Vec::new()));
        }
        let mut seen = Vec::from([Seen { parent: 0, name: Name::new(), inode: root.clone() }]);
        let mut at = 0;
        while let Some(dir) = seen.get(at) {
            let dir = dir.inode.clone();
            let entries = table(&dir)?.lock();
            for (entry, inode) in entries.starting_at(0) {
                if is_it(inode) {
                    return Ok(Found::Names(names_of(&seen, at, entry.name.clone())));
                }
                if inode.is_dir() {
                    seen.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    seen.push(Seen { parent: at, name: entry.name.clone(), inode: inode.clone() });
                }
            }
            at += 1;
        }
        Err(Errno::ESTALE)
    }
}
