//! One overlay: its layers, and how a name is looked up through them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use abi::{Errno, Result};
use sched::Mutex;
use security::Cred;
use vfs::{Inode, Path};

use crate::claim::Claim;
use crate::icache::InodeCache;
use crate::inode::OverlayInode;
use crate::marks::{Namespace, Redirect, is_whiteout};
use crate::options::{Options, RedirectDir};

/// A directory in a lower layer.
#[derive(Clone)]
pub(crate) struct Lower {
    /// Which layer, counted from the topmost lower one.
    pub(crate) layer: usize,
    pub(crate) path: Path,
}

/// The writable layer.
pub(crate) struct Upper {
    pub(crate) root: Path,
    /// Where things are made before they are moved to their place.
    pub(crate) work: Path,
    /// Copies of lower files with several names, with `index=on`.
    pub(crate) index: Option<Path>,
    /// Keeps other overlays away from the directories.
    pub(crate) claim: Claim,
}

/// One overlay.
pub(crate) struct Overlay {
    pub(crate) upper: Option<Upper>,
    /// Roots of the lower layers, the topmost first.
    pub(crate) lowers: Vec<Path>,
    /// Who mounted: acts on the layers.
    pub(crate) cred: Arc<Cred>,
    pub(crate) options: Options,
    pub(crate) marks: Namespace,
    pub(crate) icache: InodeCache,
    /// Serialises copying up and changes of names.
    pub(crate) changes: Mutex<()>,
    /// Files that were copied up: a lookup that saw less than all of them may have seen a lower file that is none any more.
    pub(crate) nr_copies: AtomicU64,
    /// Devices of the layers' file systems, each once.
    pub(crate) devices: Vec<u64>,
    /// How many overlays lie upon each other here.
    pub(crate) depth: u32,
}

/// What a name leads to in the layers: the upper one's and lower ones', of which at least one is there.
pub(crate) struct Stack {
    pub(crate) upper: Option<Path>,
    pub(crate) lowers: Vec<Lower>,
}

impl Stack {
    /// What is shown.
    pub(crate) fn real(&self) -> Option<&Path> {
        self.upper.as_ref().or_else(|| self.lowers.first().map(|lower| &lower.path))
    }
}

/// What one layer says of a name.
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// It hides what is below.
    Whiteout,
    /// This.
    Real(Path, Arc<Inode>),
}

/// Bits of an inode number that tell the layer's file system from the first one's.
const FS_SHIFT: u32 = 56;

impl Overlay {
    /// The inode number that shows `real`.
    pub(crate) fn ino_of(&self, real: &Inode) -> u64 {
        self.ino_from(real.sb().dev(), real.ino())
    }

    /// The inode number that shows number `ino` of the file system on device `dev`.
    pub(crate) fn ino_from(&self, dev: u64, ino: u64) -> u64 {
        let at = self.devices.iter().position(|&known| known == dev).unwrap_or(self.devices.len());
        ino ^ (at as u64) << FS_SHIFT
    }

    /// What directory `dir` of a layer holds as `name`.
    pub(crate) fn child(&self, dir: &Path, name: &[u8]) -> Result<Found> {
        let dentry = match vfs::walk::lookup_child(&dir.dentry, name) {
            Ok(dentry) => dentry,
            // Too long for this layer's file system: not there.
            Err(Errno::ENAMETOOLONG) => return Ok(Found::Nothing),
            Err(errno) => return Err(errno),
        };
        Ok(match dentry.inode().cloned() {
            None => Found::Nothing,
            Some(inode) if is_whiteout(&inode) => Found::Whiteout,
            Some(inode) => Found::Real(Path { mount: dir.mount.clone(), dentry }, inode),
        })
    }

    /// What `name` in `dir` leads to; `None` if there is no such file.
    pub(crate) fn lookup(&self, dir: &OverlayInode, name: &[u8]) -> Result<Option<Stack>> {
        let mut search = Search {
            fs: self,
            dir,
            target: Redirect::Name(name.to_vec()),
            has_dir: false,
            wants_data: false,
        };
        let mut stack = Stack { upper: None, lowers: Vec::new() };
        if let Some(upper) = dir.upper() {
            match self.child(upper, name)? {
                Found::Nothing => {}
                Found::Whiteout => return Ok(None),
                Found::Real(path, inode) => {
                    stack.upper = Some(path);
                    if !search.goes_on_below(&inode)? {
                        return Ok(Some(stack));
                    }
                }
            }
        }
        search.lowers(&mut stack.lowers)?;
        Ok(stack.real().is_some().then_some(stack))
    }

    /// Whether a lower layer shows something as `name` in `dir`, so that it has to be hidden.
    pub(crate) fn is_in_lower(&self, dir: &OverlayInode, name: &[u8]) -> Result<bool> {
        for lower in &dir.lowers {
            match self.child(&lower.path, name)? {
                Found::Nothing => {}
                Found::Whiteout => return Ok(false),
                Found::Real(..) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// What the path `path` from the root of lower layer `layer` leads to.
    fn walk(&self, layer: usize, path: &[u8]) -> Result<Found> {
        let mut at = self.lowers[layer].clone();
        let mut found = Found::Nothing;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            found = self.child(&at, name)?;
            match &found {
                Found::Real(path, _) => at = path.clone(),
                _ => return Ok(found),
            }
            if at.inode().is_none_or(|inode| inode.is_symlink()) {
                return Ok(Found::Nothing);
            }
        }
        Ok(found)
    }
}

/// A search for one name on its way down.
struct Search<'a> {
    fs: &'a Overlay,
    dir: &'a OverlayInode,
    /// Where the next layers have it.
    target: Redirect,
    /// A directory was found, with which only directories are merged.
    has_dir: bool,
    /// A file was found whose data is below.
    wants_data: bool,
}

impl Search<'_> {
    /// Takes note of what was found; whether more is to be looked for below it.
    fn goes_on_below(&mut self, inode: &Inode) -> Result<bool> {
        if inode.is_regular() {
            return self.needs_data(inode);
        }
        if !inode.is_dir() {
            return Ok(false);
        }
        self.has_dir = true;
        if self.fs.marks.is_opaque(inode)? {
            return Ok(false);
        }
        self.follow(inode)?;
        Ok(true)
    }

    /// Takes note of where `inode` says that the next layers have it.
    fn follow(&mut self, inode: &Inode) -> Result<()> {
        if self.fs.options.redirect_dir != RedirectDir::NoFollow
            && let Some(target) = self.fs.marks.redirect(inode)?
        {
            self.target = target;
        }
        Ok(())
    }

    /// Whether the data of the file `inode` is below. `EPERM`: it is, and that is not to be followed.
    fn needs_data(&mut self, inode: &Inode) -> Result<bool> {
        self.wants_data = self.fs.marks.is_metacopy(inode)?;
        if self.wants_data {
            if !self.fs.options.metacopy {
                return Err(Errno::EPERM);
            }
            self.follow(inode)?;
        }
        Ok(self.wants_data)
    }

    fn lowers(&mut self, found: &mut Vec<Lower>) -> Result<()> {
        for layer in 0..self.fs.lowers.len() {
            let (path, inode) = match self.in_layer(layer)? {
                Found::Nothing => continue,
                Found::Whiteout => break,
                Found::Real(path, inode) => (path, inode),
            };
            if self.has_dir && !inode.is_dir() || self.wants_data && !inode.is_regular() {
                break;
            }
            let goes_on = self.goes_on_below(&inode)?;
            found.push(Lower { layer, path });
            if !goes_on {
                break;
            }
        }
        // Attributes without data are no file.
        if self.wants_data { Err(Errno::EIO) } else { Ok(()) }
    }

    fn in_layer(&self, layer: usize) -> Result<Found> {
        match &self.target {
            Redirect::Path(path) => self.fs.walk(layer, path),
            Redirect::Name(name) => match self.dir.lowers.iter().find(|lower| lower.layer == layer) {
                Some(lower) => self.fs.child(&lower.path, name),
                None => Ok(Found::Nothing),
            },
        }
    }
}
