//! Files by handle (name_to_handle_at(2)). Inodes have numbers in memory only, so a handle is good as long as the inode stays
//! there, as on Linux with the option `nfs=stale_rw`.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use fat_image::dir::Dir;
use vfs::Inode;
use vfs::dentry::Name;
use vfs::handle::{Export, Found, Handle, kind};

use crate::fs::Fs;
use crate::mount::Super;
use crate::node::{Node, ROOT_INO, node};

/// The deepest directory that is looked for.
const MAX_DEPTH: usize = 4096;

impl Super {
    /// An inode's two words: its number, which is never given to another inode of this mount, and the mount's.
    fn words(&self, inode: &Inode) -> [u32; 2] {
        [inode.ino() as u32, self.0.generation ^ (inode.ino() >> 32) as u32]
    }
}

impl Export for Super {
    fn encode(&self, inode: &Inode, parent: Option<&Inode>) -> Handle {
        let [ino, generation] = self.words(inode);
        match parent.map(|parent| self.words(parent)) {
            None => Handle::of_words(kind::INO32_GEN, &[ino, generation]),
            Some([dir, of_dir]) => Handle::of_words(kind::INO32_GEN_PARENT, &[ino, generation, dir, of_dir]),
        }
    }

    fn decode(&self, _root: &Arc<Inode>, kind: i32, bytes: &[u8]) -> Result<Found> {
        if kind != kind::INO32_GEN && kind != kind::INO32_GEN_PARENT {
            return Err(Errno::ESTALE);
        }
        let word = |at| Handle::word(bytes, at).ok_or(Errno::ESTALE);
        let words = [word(0)?, word(1)?];
        if words == [ROOT_INO as u32, self.0.generation] {
            return Ok(Found::Names(Vec::new()));
        }
        // Let go of with the lock open: the last reference takes it.
        let mut all = Vec::new();
        let known = self.0.known.lock();
        all.try_reserve_exact(known.len()).map_err(|_| Errno::ENOMEM)?;
        all.extend(known.values().filter_map(Weak::upgrade));
        drop(known);
        let inode = all.into_iter().find(|inode| self.words(inode) == words).ok_or(Errno::ESTALE)?;
        if !inode.is_dir() {
            return Ok(Found::Somewhere(inode));
        }
        self.0.names_of(node(&inode)?).map(Found::Names)
    }
}

impl Fs {
    /// The names that lead from the root to the directory `node`. `ESTALE`: none do.
    fn names_of(&self, node: &Arc<Node>) -> Result<Vec<Name>> {
        let (mut names, mut at) = (Vec::new(), node.clone());
        while !at.is_root() {
            let (Some(place), Some(parent)) = (at.record_at(), at.parent_node()) else {
                return Err(Errno::ESTALE);
            };
            let name = self.with(|meta| {
                parent.with_chain(meta, |_, chain| {
                    let dir = Dir { layout: &self.layout, volume: &self.volume, chain };
                    let is_it = |at| dir.place(at) == Ok(place);
                    dir.for_each(0, |entry| is_it(entry.at).then_some(entry.name))
                })
            })?;
            names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            names.push(Name::from_slice(name.ok_or(Errno::ESTALE)?.as_bytes()));
            if names.len() > MAX_DEPTH {
                return Err(Errno::ESTALE);
            }
            at = parent;
        }
        names.reverse();
        Ok(names)
    }
}
