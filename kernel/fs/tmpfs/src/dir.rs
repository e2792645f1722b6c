//! The table of one directory.
//!
//! ```text
//!   entries:  [cookie 2 "a"] [cookie 3 gone] [cookie 7 "b"] ...      ascending cookies
//!   index:    hash("a") -> 0, hash("b") -> 2                          once there are more than SMALL
//! ```
//!
//! Removed entries stay as gaps until there are more gaps than entries; then the table is packed. Cookies never
//! change and are never used again.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hashbrown::HashTable;
use vfs::Inode;
use vfs::dentry::Name;

/// Tables of up to this many entries are searched from end to end.
const SMALL: usize = 12;
/// Cookies 0 and 1 are "." and "..".
const FIRST_COOKIE: u64 = 2;

/// One name.
pub(crate) struct Entry {
    pub(crate) cookie: u64,
    pub(crate) name: Name,
    /// `None` for a gap.
    pub(crate) inode: Option<Arc<Inode>>,
}

/// See the module's front page.
pub(crate) struct Table {
    entries: Vec<Entry>,
    index: Option<HashTable<u32>>,
    len: usize,
    next_cookie: u64,
}

fn hash(name: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = name.len() as u64;
    for &byte in name {
        state = (state.rotate_left(5) ^ u64::from(byte)).wrapping_mul(K);
    }
    state ^ state >> 29
}

impl Table {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), index: None, len: 0, next_cookie: FIRST_COOKIE }
    }

    /// Number of names.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        match &self.index {
            None => self.entries.iter().position(|e| e.inode.is_some() && e.name[..] == *name),
            Some(index) => {
                let is_it = |&at: &u32| self.entries[at as usize].name[..] == *name;
                index.find(hash(name), is_it).map(|&at| at as usize)
            }
        }
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Inode>> {
        self.entries[self.position(name)?].inode.as_ref()
    }

    /// Adds `name`, which is not there. `ENOSPC`: no memory.
    pub(crate) fn insert(&mut self, name: &[u8], inode: Arc<Inode>) -> Result<()> {
        self.reserve()?;
        let at = self.entries.len();
        let entry = Entry { cookie: self.next_cookie, name: Name::from_slice(name), inode: Some(inode) };
        self.entries.push(entry);
        self.next_cookie += 1;
        self.len += 1;
        if let Some(index) = &mut self.index {
            let entries = &self.entries;
            index.insert_unique(hash(name), at as u32, |&at| hash(&entries[at as usize].name));
        }
        Ok(())
    }

    /// Makes room for one more entry, with an index if it is time for one.
    fn reserve(&mut self) -> Result<()> {
        if self.entries.len() > 2 * self.len + SMALL {
            self.pack();
        }
        self.entries.try_reserve(1).map_err(|_| Errno::ENOSPC)?;
        if u32::try_from(self.entries.len()).is_err() {
            return Err(Errno::ENOSPC);
        }
        let entries = &self.entries;
        let hasher = |&at: &u32| hash(&entries[at as usize].name);
        match &mut self.index {
            Some(index) => index.try_reserve(1, hasher).map_err(|_| Errno::ENOSPC)?,
            None if self.len >= SMALL => {
                let mut index = HashTable::new();
                index.try_reserve(self.len + 1, hasher).map_err(|_| Errno::ENOSPC)?;
                for (at, entry) in entries.iter().enumerate().filter(|(_, e)| e.inode.is_some()) {
                    index.insert_unique(hash(&entry.name), at as u32, hasher);
                }
                self.index = Some(index);
            }
            None => {}
        }
        Ok(())
    }

    fn pack(&mut self) {
        self.entries.retain(|entry| entry.inode.is_some());
        if let Some(index) = &mut self.index {
            let entries = &self.entries;
            index.clear();
            for (at, entry) in entries.iter().enumerate() {
                index.insert_unique(hash(&entry.name), at as u32, |&at| hash(&entries[at as usize].name));
            }
        }
    }

    /// Removes `name`; gives what it led to.
    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<Arc<Inode>> {
        let at = self.position(name)?;
        if let Some(index) = &mut self.index
            && let Ok(found) = index.find_entry(hash(name), |&other| other as usize == at)
        {
            found.remove();
        }
        let entry = &mut self.entries[at];
        entry.name = Name::new();
        self.len -= 1;
        let inode = entry.inode.take();
        if self.len == 0 {
            self.entries.clear();
            self.index = None;
        }
        inode
    }

    /// Makes `name` lead to `inode`; gives what it led to. The name is there.
    pub(crate) fn replace(&mut self, name: &[u8], inode: Arc<Inode>) -> Option<Arc<Inode>> {
        let at = self.position(name)?;
        self.entries[at].inode.replace(inode)
    }

    /// The entries with cookies from `cookie` on.
    pub(crate) fn starting_at(&self, cookie: u64) -> impl Iterator<Item = (&Entry, &Arc<Inode>)> {
        let start = self.entries.partition_point(|entry| entry.cookie < cookie);
        self.entries[start..].iter().filter_map(|entry| Some((entry, entry.inode.as_ref()?)))
    }
}
