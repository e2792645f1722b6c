//! Files by handle (name_to_handle_at(2)): inode number and generation, and for `AT_HANDLE_CONNECTABLE` those of the
//! directory. They stay good over a remount and on Linux.
//!
//! A directory is found by its names: up through "..", in each parent the entry that leads down.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use ext4_image::inode::{Inode as Record, ROOT_INO};
use ext4_image::{dir, is_inode_used};
use vfs::Inode;
use vfs::dentry::Name;
use vfs::handle::{Export, Found, Handle, kind};

use crate::fs::Fs;
use crate::node::node;
use crate::superops::Super;

/// The deepest directory that is looked for: damaged ones may lead in a circle.
const MAX_DEPTH: usize = 4096;

/// An inode's two words.
fn words(inode: &Inode) -> [u32; 2] {
    let generation = node(inode).map_or(0, |node| node.generation);
    [inode.ino() as u32, generation]
}

impl Export for Super {
    fn encode(&self, inode: &Inode, parent: Option<&Inode>) -> Handle {
        let [ino, generation] = words(inode);
        match parent.map(words) {
            None => Handle::of_words(kind::INO32_GEN, &[ino, generation]),
            Some([dir, of_dir]) => Handle::of_words(kind::INO32_GEN_PARENT, &[ino, generation, dir, of_dir]),
        }
    }

    fn decode(&self, _root: &Arc<Inode>, kind: i32, bytes: &[u8]) -> Result<Found> {
        if kind != kind::INO32_GEN && kind != kind::INO32_GEN_PARENT {
            return Err(Errno::ESTALE);
        }
        let word = |at| Handle::word(bytes, at).ok_or(Errno::ESTALE);
        let inode = self.0.by_handle(word(0)?, word(1)?)?;
        if !inode.is_dir() {
            return Ok(Found::Somewhere(inode));
        }
        self.0.names_of(inode.ino() as u32).map(Found::Names)
    }
}

impl Fs {
    /// Inode `ino` if it is in use and has this generation; 0 stands for any. `ESTALE`.
    fn by_handle(self: &Arc<Self>, ino: u32, generation: u32) -> Result<Arc<Inode>> {
        let is_one = ino == ROOT_INO || (ino >= self.layout.first_ino && self.layout.is_ino(ino));
        if !is_one || !self.look(|layout, view| is_inode_used(layout, view, ino))? {
            return Err(Errno::ESTALE);
        }
        let inode = match self.icache.get(ino) {
            Some(inode) => inode,
            None => {
                let raw = self.look(|layout, view| Record::load(layout, view, ino))?;
                if raw.nlink() == 0 {
                    return Err(Errno::ESTALE);
                }
                self.instantiate(&raw)?
            }
        };
        let is_it = generation == 0 || node(&inode)?.generation == generation;
        if is_it { Ok(inode) } else { Err(Errno::ESTALE) }
    }

    /// The names that lead from the root to directory `ino`. `ESTALE`: none do.
    fn names_of(&self, ino: u32) -> Result<Vec<Name>> {
        let (mut names, mut at) = (Vec::new(), ino);
        while at != ROOT_INO {
            if names.len() == MAX_DEPTH {
                return Err(Errno::ESTALE);
            }
            let (parent, name) = self.name_of(at)?.ok_or(Errno::ESTALE)?;
            names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(names)
    }

    /// The directory that `ino` is in, and its name there.
    fn name_of(&self, ino: u32) -> Result<Option<(u32, Name)>> {
        self.look(|layout, view| {
            let raw = Record::load(layout, view, ino)?;
            let Some((parent, _)) = dir::lookup(layout, view, &raw, b"..")? else { return Ok(None) };
            let above = Record::load(layout, view, parent)?;
            if !raw.is_dir() || raw.nlink() == 0 || !above.is_dir() {
                return Ok(None);
            }
            let mut found = None;
            dir::list(layout, view, &above, dir::FIRST_POS, &mut |entry, _| {
                if entry.ino == ino {
                    found = Some((parent, Name::from_slice(entry.name)));
                }
                found.is_none()
            })?;
            Ok(found)
        })
    }
}
