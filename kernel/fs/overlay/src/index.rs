//! `index=on`: the names of a lower file stay names of one file when it is copied up.
//!
//! ```text
//!   lower: a, b ── inode L (2 names)          upper, after a write to a:   a ──┐
//!                                             work/index: HEX ─────────────────┴─ inode U   "origin" = handle of L
//!                                                                                           "nlink"  = L+0
//!   a lookup of b: finds L, whose handle is the name HEX of an entry in the index: shows U
//! ```
//!
//! HEX is the handle of L in hexadecimal digits. U keeps the number of names that the overlay shows, as a difference to
//! those of L ("L+0") or of U ("U-1"): whichever stays while the other changes, so that a crash in between leaves it
//! right. The entry in the index goes with the last name; what a crash left is removed at the next mount.
//!
//! An upper directory is bound to the lower and the index directory that it was first mounted with: "origin" of the
//! upper root and "upper" of the index directory name them, and others are `ESTALE`.
//!
//! Source: Documentation/filesystems/overlayfs.rst "Index" of Linux 7.2; the layout of handles as its images have it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use abi::{Errno, Result};
use vfs::handle::{self, Purpose};
use vfs::{Inode, Path, namespace};

use crate::inode::{OverlayInode, overlay};
use crate::layers::{Found, Overlay, Stack};

/// Version and magic number of a handle in an attribute.
const HEAD: [u8; 2] = [0, 0xfb];
/// Bytes in front of the file system's own: head, length, flags, type, UUID.
const HEADER_LEN: usize = 21;
/// The file is in the upper layer.
const IS_UPPER: u8 = 4;

fn uuid_of(path: &Path) -> [u8; 16] {
    path.dentry.sb().ops().uuid()
}

/// The layer of a file that a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Upper,
    Lower,
}

/// A handle as attributes and names in the index have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(Vec<u8>);

impl Origin {
    /// That of what `path` is. `EOPNOTSUPP`: its file system has no handles.
    pub(crate) fn of(path: &Path, layer: Layer) -> Result<Self> {
        let handle = handle::encode(path, Purpose::Open)?;
        let kind = u8::try_from(handle.kind).map_err(|_| Errno::EOPNOTSUPP)?;
        let len = u8::try_from(HEADER_LEN + handle.bytes.len()).map_err(|_| Errno::EOPNOTSUPP)?;
        let flags = if layer == Layer::Upper { IS_UPPER } else { 0 };
        let mut bytes = Vec::from(HEAD);
        bytes.extend_from_slice(&[len, flags, kind]);
        bytes.extend_from_slice(&uuid_of(path));
        bytes.extend_from_slice(&handle.bytes);
        Ok(Self(bytes))
    }

    /// Reads one. `None`: of another version, or damaged.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let is_one = bytes.len() >= HEADER_LEN && bytes[..2] == HEAD && usize::from(bytes[2]) == bytes.len();
        is_one.then(|| Self(bytes.to_vec()))
    }

    /// Reads the name of an entry in the index. `None`: it is none.
    fn from_name(name: &[u8]) -> Option<Self> {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = name.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        Self::parse(&bytes?)
    }

    /// The name of its entry in the index.
    fn name(&self) -> String {
        let mut name = String::new();
        for byte in &self.0 {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// The file in the file system of `root`. `ESTALE`: it is of another one, or gone.
    fn find(&self, root: &Path) -> Result<Path> {
        if self.0.get(5..HEADER_LEN) != Some(&uuid_of(root)[..]) {
            return Err(Errno::ESTALE);
        }
        let kind = self.0.get(4).copied().ok_or(Errno::ESTALE)?;
        let path = handle::decode(root, i32::from(kind), self.0.get(HEADER_LEN..).unwrap_or(&[]))?;
        // Handles of two file systems without UUID look alike.
        if Self::of(&path, Layer::Lower)?.0[HEADER_LEN..] == self.0[HEADER_LEN..] {
            Ok(path)
        } else {
            Err(Errno::ESTALE)
        }
    }
}

/// What the number of names is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The names of the lower file.
    Lower,
    /// The names of the upper file, the one in the index among them.
    Upper,
}

/// The text of the attribute that keeps a number of names.
fn count_text(base: Base, shown: u32, real: u32) -> String {
    let letter = if base == Base::Lower { 'L' } else { 'U' };
    alloc::format!("{letter}{:+}", i64::from(shown) - i64::from(real))
}

/// The number of names that such a text tells. `None`: it is none, or leaves no name.
fn count_of(text: &[u8], lower: u32, upper: u32) -> Option<u32> {
    let (letter, difference) = core::str::from_utf8(text).ok()?.split_at_checked(1)?;
    let base = match letter {
        "L" => lower,
        "U" => upper,
        _ => return None,
    };
    let difference: i64 = difference.parse().ok()?;
    u32::try_from(i64::from(base).checked_add(difference)?).ok()
}

/// What a file in the index has beside others.
pub(crate) struct Indexed {
    pub(crate) origin: Origin,
    /// The lower file, by any of its names or none.
    pub(crate) lower: Path,
}

impl Overlay {
    /// The index directory, with `index=on`.
    fn index(&self) -> Option<&Path> {
        self.upper.as_ref().and_then(|upper| upper.index.as_ref())
    }

    /// What the index says of the file `stack`, which is then shown as the index has it. `None`: nothing; it is not to be
    /// indexed. `ESTALE`: it was removed. `EIO`: the index has something else.
    pub(crate) fn indexed(&self, stack: &mut Stack) -> Result<Option<Indexed>> {
        let Some(index) = self.index() else { return Ok(None) };
        let Some(real) = stack.real().and_then(Path::inode).filter(|inode| !inode.is_dir()) else {
            return Ok(None);
        };
        let Some(upper) = stack.upper.as_ref().map(|_| real.clone()) else {
            let Some(lower) = stack.lowers.first().map(|lower| lower.path.clone()) else { return Ok(None) };
            let origin = Origin::of(&lower, Layer::Lower)?;
            return match self.child(index, origin.name().as_bytes())? {
                Found::Nothing if real.nlink() == 1 => Ok(None),
                Found::Nothing => Ok(Some(Indexed { origin, lower })),
                Found::Whiteout => Err(Errno::ESTALE),
                Found::Real(_, inode) if inode.kind() != real.kind() => Err(Errno::EIO),
                Found::Real(path, _) => {
                    stack.upper = Some(path);
                    Ok(Some(Indexed { origin, lower }))
                }
            };
        };
        let Some(origin) = self.marks.origin(&upper)?.as_deref().and_then(Origin::parse) else {
            return Ok(None);
        };
        match self.child(index, origin.name().as_bytes())? {
            Found::Real(path, inode) if Arc::ptr_eq(&inode, &upper) => {
                let lower = self.find_lower(&origin)?;
                // The mark is the upper layer's word only: a directory would get two names.
                let is_same_kind =
                    |path: &Path| path.inode().is_some_and(|lower| lower.kind() == upper.kind());
                let Some(lower) = lower.filter(is_same_kind) else { return Ok(None) };
                stack.upper = Some(path);
                Ok(Some(Indexed { origin, lower }))
            }
            _ => Ok(None),
        }
    }

    /// The lower file that `origin` names, if it is still there.
    fn find_lower(&self, origin: &Origin) -> Result<Option<Path>> {
        for root in &self.lowers {
            match origin.find(root) {
                Ok(path) => return Ok(Some(path)),
                Err(Errno::ESTALE) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// The number of names that the overlay shows of a file in the index whose upper inode is `upper`.
    pub(crate) fn nr_names(&self, indexed: &Indexed, upper: &Inode) -> Result<u32> {
        let lower = indexed.lower.inode().map_or(0, |inode| inode.nlink());
        let text = self.marks.nlink(upper)?;
        Ok(text.and_then(|text| count_of(&text, lower, upper.nlink())).unwrap_or(upper.nlink()))
    }

    /// Notes in `upper` that the overlay shows `shown` names of it, which stays true while the number of those that
    /// are not `base` changes.
    fn note_names(&self, indexed: &Indexed, upper: &Inode, base: Base, shown: u32) -> Result<()> {
        let real = match base {
            Base::Lower => indexed.lower.inode().map_or(0, |inode| inode.nlink()),
            Base::Upper => upper.nlink(),
        };
        self.marks.set_nlink(upper, count_text(base, shown, real).as_bytes())
    }

    /// Notes where the copy `made` is from, before it gets its name.
    pub(crate) fn note_origin(&self, lower: &Path, made: &Inode, this: &OverlayInode) -> Result<()> {
        if self.index().is_none() {
            return Ok(());
        }
        self.marks.set_origin(made, &Origin::of(lower, Layer::Lower)?.0)?;
        match (&this.indexed, this.this()) {
            (Some(indexed), Some(shown)) => self.note_names(indexed, made, Base::Lower, shown.nlink()),
            _ => Ok(()),
        }
    }

    /// Moves the finished copy `name` from the work directory into the index; gives its path there.
    pub(crate) fn enter_index(&self, indexed: &Indexed, name: &[u8]) -> Result<Path> {
        let upper = self.writable()?;
        let index = self.index().ok_or(Errno::EIO)?;
        let entry = indexed.origin.name();
        let flags = abi::fs::RenameFlags::NOREPLACE;
        namespace::rename_in((&upper.work, name), (index, entry.as_bytes()), flags, &self.cred)?;
        match self.child(index, entry.as_bytes())? {
            Found::Real(path, _) => Ok(path),
            _ => Err(Errno::EIO),
        }
    }

    /// Sees to it that the copied file `inode` of the index, of which `name` in `dir` is a name, has that name in the
    /// upper layer. `changes` is held, and `dir` is up.
    pub(crate) fn raise_name(&self, dir: &OverlayInode, name: &[u8], inode: &Inode) -> Result<()> {
        let this = overlay(inode)?;
        let (Some(indexed), Some(path)) = (&this.indexed, this.upper()) else { return Ok(()) };
        let upper_dir = dir.upper_path()?;
        // A name that is neither up nor below was removed meanwhile.
        if matches!(self.child(upper_dir, name)?, Found::Nothing) && self.is_in_lower(dir, name)? {
            let real = path.inode().ok_or(Errno::EIO)?;
            self.note_names(indexed, real, Base::Lower, inode.nlink())?;
            namespace::link_in(path, upper_dir, name, &self.cred)?;
        }
        Ok(())
    }

    /// Before a name of `inode` is added to or taken from the upper layer.
    pub(crate) fn begin_names(&self, inode: &Inode) -> Result<()> {
        let this = overlay(inode)?;
        let (Some(indexed), Some(path)) = (&this.indexed, this.upper()) else { return Ok(()) };
        self.note_names(indexed, path.inode().ok_or(Errno::EIO)?, Base::Upper, inode.nlink())
    }

    /// After the last name of `inode` went: its entry in the index goes, too. What fails stays: the next mount removes it.
    pub(crate) fn leave_index(&self, this: &OverlayInode) {
        let (Some(indexed), Some(index)) = (&this.indexed, self.index()) else { return };
        let entry = indexed.origin.name();
        if let Err(errno) = namespace::unlink_in(index, entry.as_bytes(), &self.cred)
            && errno != Errno::ENOENT
        {
            log::warn!("overlay: the index keeps a file: {errno}");
        }
    }

    /// At mount: binds the upper directory, the lower one and the index to each other, and removes from the index what is of
    /// no use. `ESTALE`: they are bound to others. `EINVAL`: the index has what this kernel does not know.
    pub(crate) fn open_index(&self) -> Result<()> {
        let (Some(upper), Some(index)) = (&self.upper, self.index()) else { return Ok(()) };
        let lower = self.lowers.first().ok_or(Errno::EINVAL)?;
        let root = upper.root.inode().ok_or(Errno::EIO)?;
        let bound = self.marks.origin(root)?;
        self.bind(bound, &Origin::of(lower, Layer::Lower)?, |value| self.marks.set_origin(root, value))?;
        let dir = index.inode().ok_or(Errno::EIO)?;
        let bound = self.marks.upper(dir)?;
        self.bind(bound, &Origin::of(&upper.root, Layer::Upper)?, |value| self.marks.set_upper(dir, value))?;
        self.clean_index(index)
    }

    /// `ESTALE`: `bound` is there, and not `to`.
    fn bind(&self, bound: Option<Vec<u8>>, to: &Origin, set: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        match bound {
            None => set(&to.0),
            Some(bound) if bound == to.0 => Ok(()),
            Some(_) => Err(Errno::ESTALE),
        }
    }

    fn clean_index(&self, index: &Path) -> Result<()> {
        for entry in self.read_dir(index)? {
            let name = &entry.name[..];
            if name.first() == Some(&b'#') {
                self.remove_tree(index, name, 0)?;
                continue;
            }
            let origin = Origin::from_name(name).ok_or(Errno::EINVAL)?;
            if let Found::Real(_, inode) = self.child(index, name)?
                && !inode.is_dir()
                && !self.is_of_use(&origin, &inode)?
            {
                namespace::unlink_in(index, name, &self.cred)?;
            }
        }
        Ok(())
    }

    /// Whether the file `upper` of the index is the copy of what its name says, and has names.
    fn is_of_use(&self, origin: &Origin, upper: &Arc<Inode>) -> Result<bool> {
        if self.marks.origin(upper)?.as_deref() != Some(&origin.0[..]) {
            return Ok(false);
        }
        if upper.nlink() > 1 {
            return Ok(true);
        }
        let Some(lower) = self.find_lower(origin)? else { return Ok(false) };
        let lower_names = lower.inode().map_or(0, |inode| inode.nlink());
        let text = self.marks.nlink(upper)?;
        Ok(text.and_then(|text| count_of(&text, lower_names, upper.nlink())).is_some_and(|names| names > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Origin {
        let mut bytes = Vec::from([0, 0xfb, 29, 0, 1]);
        bytes.extend_from_slice(&[0xab; 16]);
        bytes.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0xf8]);
        Origin(bytes)
    }

    #[test]
    fn names_in_the_index_are_handles() {
        let name = sample().name();
        assert!(name.starts_with("00fb1d0001abab") && name.ends_with("01020304050607f8"));
        assert_eq!(Origin::from_name(name.as_bytes()), Some(sample()));
        for bad in ["", "00fb", "zz", "00fb1d0001ab", "#12"] {
            assert_eq!(Origin::from_name(bad.as_bytes()), None, "{bad}");
        }
        let mut short = sample().0;
        short.pop();
        assert_eq!(Origin::parse(&short), None, "the length is wrong");
    }

    #[test]
    fn counts_are_differences() {
        assert_eq!(count_text(Base::Lower, 2, 2), "L+0");
        assert_eq!(count_text(Base::Upper, 2, 3), "U-1");
        assert_eq!(count_of(b"L+0", 2, 9), Some(2));
        assert_eq!(count_of(b"U-1", 9, 3), Some(2));
        assert_eq!(count_of(b"U+2", 9, 1), Some(3));
        assert_eq!(count_of(b"L+9223372036854775807", 1, 1), None);
        for bad in [&b""[..], b"L", b"X+1", b"U-9", b"U+x", b"\xff+1"] {
            assert_eq!(count_of(bad, 1, 1), None);
        }
    }
}
