//! The marks that the overlay leaves in its layers: whiteouts, opaque and redirected directories, files without data.

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::Inode;
use vfs::inode::{FileKind, XattrMode};

/// Whether `inode` hides what lies below its name: a character device 0:0.
pub(crate) fn is_whiteout(inode: &Inode) -> bool {
    inode.kind() == FileKind::Char && inode.rdev() == 0
}

/// The attributes of one overlay, by where they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// `trusted.overlay.`, for root.
    Trusted,
    /// `user.overlay.`, for those who mount in a user namespace.
    User,
}

/// Where lower directories of a renamed directory are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// Under this name in the same directory.
    Name(Vec<u8>),
    /// At this path from the root of each layer.
    Path(Vec<u8>),
}

/// The longest redirect that Linux follows.
const REDIRECT_MAX: usize = 256;

impl Redirect {
    /// `EIO`: not a redirect that this or another kernel makes.
    fn parse(text: Vec<u8>) -> Result<Self> {
        let is_bad = |name: &[u8]| name.is_empty() || name == b"." || name == b"..";
        match text.strip_prefix(b"/") {
            Some(rest) if rest.split(|&byte| byte == b'/').any(is_bad) => Err(Errno::EIO),
            Some(_) => Ok(Self::Path(text)),
            None if is_bad(&text) || text.contains(&b'/') => Err(Errno::EIO),
            None => Ok(Self::Name(text)),
        }
    }
}

impl Namespace {
    /// What all names begin with.
    pub(crate) fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    fn name(self, mark: &[u8]) -> Vec<u8> {
        [self.prefix(), mark].concat()
    }

    fn get(self, inode: &Inode, mark: &[u8]) -> Result<Option<Vec<u8>>> {
        match inode.ops().get_xattr(inode, &self.name(mark)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether lower directories of this directory's name are hidden.
    pub(crate) fn is_opaque(self, dir: &Inode) -> Result<bool> {
        Ok(self.get(dir, b"opaque")?.is_some_and(|value| value == b"y"))
    }

    /// Where the lower directories, or the data, of `dir` are, if not under its name. `EIO`: nonsense.
    pub(crate) fn redirect(self, dir: &Inode) -> Result<Option<Redirect>> {
        match self.get(dir, b"redirect")? {
            None => Ok(None),
            Some(text) if text.len() > REDIRECT_MAX => Err(Errno::EIO),
            Some(text) => Redirect::parse(text).map(Some),
        }
    }

    /// Whether the data of `file` is in the next layer that has it.
    pub(crate) fn is_metacopy(self, file: &Inode) -> Result<bool> {
        Ok(self.get(file, b"metacopy")?.is_some())
    }

    /// Notes that the data of `file` is below.
    pub(crate) fn set_metacopy(self, file: &Inode) -> Result<()> {
        let _exclusive = file.sem.write();
        file.ops().set_xattr(file, &self.name(b"metacopy"), b"", XattrMode::Any)
    }

    /// Notes that `file` has its data now, and needs nothing from below.
    pub(crate) fn clear_metacopy(self, file: &Inode) -> Result<()> {
        let _exclusive = file.sem.write();
        for mark in [&b"metacopy"[..], b"redirect"] {
            match file.ops().remove_xattr(file, &self.name(mark)) {
                Ok(()) | Err(Errno::ENODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The handle of the lower file that `inode` was copied from, or of the lower root.
    pub(crate) fn origin(self, inode: &Inode) -> Result<Option<Vec<u8>>> {
        self.get(inode, b"origin")
    }

    /// The handle of the upper root that an index belongs to.
    pub(crate) fn upper(self, dir: &Inode) -> Result<Option<Vec<u8>>> {
        self.get(dir, b"upper")
    }

    /// How many names a file in the index has.
    pub(crate) fn nlink(self, file: &Inode) -> Result<Option<Vec<u8>>> {
        self.get(file, b"nlink")
    }

    pub(crate) fn set_origin(self, inode: &Inode, handle: &[u8]) -> Result<()> {
        self.set(inode, b"origin", handle)
    }

    pub(crate) fn set_upper(self, dir: &Inode, handle: &[u8]) -> Result<()> {
        self.set(dir, b"upper", handle)
    }

    pub(crate) fn set_nlink(self, file: &Inode, text: &[u8]) -> Result<()> {
        self.set(file, b"nlink", text)
    }

    fn set(self, inode: &Inode, mark: &[u8], value: &[u8]) -> Result<()> {
        let _exclusive = inode.sem.write();
        inode.ops().set_xattr(inode, &self.name(mark), value, XattrMode::Any)
    }

    /// Hides the lower directories of `dir`'s name.
    pub(crate) fn set_opaque(self, dir: &Inode) -> Result<()> {
        let _exclusive = dir.sem.write();
        dir.ops().set_xattr(dir, &self.name(b"opaque"), b"y", XattrMode::Any)
    }

    /// Tells where the lower directories of `dir` are. `ENAMETOOLONG`: too far to be followed.
    pub(crate) fn set_redirect(self, dir: &Inode, to: &[u8]) -> Result<()> {
        if to.len() > REDIRECT_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let _exclusive = dir.sem.write();
        dir.ops().set_xattr(dir, &self.name(b"redirect"), to, XattrMode::Any)
    }

    /// The name in a layer of what programs call `name`: marks cannot be reached through the overlay, and an overlay
    /// upon this one keeps its own beside them.
    pub(crate) fn escape(self, name: &[u8]) -> Vec<u8> {
        match name.strip_prefix(self.prefix()) {
            Some(rest) => [self.prefix(), b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// The names that programs see of those in a layer (each followed by a NUL).
    pub(crate) fn visible(self, names: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(names.len());
        for name in names.split_inclusive(|&byte| byte == 0) {
            match name.strip_prefix(self.prefix()) {
                None => out.extend_from_slice(name),
                Some(rest) => {
                    if let Some(own) = rest.strip_prefix(b"overlay.") {
                        out.extend_from_slice(self.prefix());
                        out.extend_from_slice(own);
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_names_or_absolute_paths() {
        let parse = |text: &str| Redirect::parse(text.as_bytes().to_vec());
        assert_eq!(parse("a"), Ok(Redirect::Name(b"a".to_vec())));
        assert_eq!(parse("/a/b"), Ok(Redirect::Path(b"/a/b".to_vec())));
        for text in ["", "/", "a/b", "..", "/a/../b", "/a//b", "."] {
            assert_eq!(parse(text), Err(Errno::EIO), "{text}");
        }
    }

    #[test]
    fn marks_are_hidden_and_nested_ones_shown() {
        let marks = Namespace::Trusted;
        assert_eq!(marks.escape(b"trusted.overlay.opaque"), b"trusted.overlay.overlay.opaque");
        assert_eq!(marks.escape(b"user.a"), b"user.a");
        let listed = b"user.a\0trusted.overlay.opaque\0trusted.overlay.overlay.x\0";
        assert_eq!(marks.visible(listed), b"user.a\0trusted.overlay.x\0");
    }
}
