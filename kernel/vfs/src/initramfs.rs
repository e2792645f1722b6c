//! Unpacks the initramfs into the root file system.
//!
//! Members go straight to the file system: the dentry cache learns of directories only as they are walked, so
//! thirty thousand files cost no dentries. File data is copied page by page into frames that become the page cache
//! of the file; a page that the source can part with is taken over as it is. The source releases what was read.
//!
//! Sources: Documentation/driver-api/early-userspace/buffer-format.rst (Linux 7.2).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{PATH_MAX, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, makedev};
use abi::time::Timespec;
use abi::{Errno, Result};
use cpio_archive::{Archive, Error, Header, Input, Item, LinkKey, PageInput};
use hal::PAGE_SIZE;
use hal::frame::Frame;

use crate::fs_context::WalkContext;
use crate::inode::{Inode, NewInode};
use crate::namespace;
use crate::path::Path;
use crate::walk::{self, At, WalkFlags};

/// Why unpacking stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackError {
    /// The archive is damaged.
    Archive(Error),
    /// The file system refused: no memory, mostly.
    Files(Errno),
}

impl core::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Archive(error) => write!(f, "{error}"),
            Self::Files(errno) => write!(f, "cannot write files: {errno}"),
        }
    }
}

impl From<Error> for UnpackError {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

impl From<Errno> for UnpackError {
    fn from(errno: Errno) -> Self {
        Self::Files(errno)
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members of all kinds.
    pub members: u64,
    /// Bytes of file data.
    pub bytes: u64,
}

/// The initial RAM disk, which becomes the files: whole pages of data that lie page-aligned in it go into the page
/// cache as they are, and what had to be copied is released as it is read.
pub struct Initrd {
    buf: Vec<u8>,
    /// What of `buf` is valid, and how much of that was consumed.
    len: usize,
    used: usize,
    /// Offset of the end of `buf` in the RAM disk.
    next: usize,
}

/// Bytes read at once, at most: up to the end of a page, so that the next one can still be taken whole.
const CHUNK: usize = PAGE_SIZE;
/// Memory is released in steps of this many bytes.
const RELEASE_STEP: usize = 1 << 20;

impl Initrd {
    /// The RAM disk from its start. `ENOMEM`.
    pub fn new() -> Result<Self> {
        let mut buf = Vec::new();
        buf.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
        buf.resize(CHUNK, 0);
        Ok(Self { buf, len: 0, used: 0, next: 0 })
    }
}

impl Input for Initrd {
    fn fill(&mut self) -> Result<&[u8], Error> {
        if self.used == self.len {
            let to_page_end = PAGE_SIZE - self.next % PAGE_SIZE;
            self.len = hal::boot::initrd_read(self.next, &mut self.buf[..to_page_end]);
            self.used = 0;
            self.next += self.len;
            if self.next / RELEASE_STEP != (self.next - self.len) / RELEASE_STEP {
                hal::boot::initrd_release(self.next);
            }
        }
        Ok(&self.buf[self.used..self.len])
    }

    fn consume(&mut self, len: usize) {
        self.used = (self.used + len).min(self.len);
    }
}

impl PageInput for Initrd {
    type Page = Frame;

    fn take_page(&mut self) -> Option<Frame> {
        let read_ahead = self.len - self.used;
        let pos = self.next - read_ahead;
        if read_ahead != 0 && (read_ahead != PAGE_SIZE || !pos.is_multiple_of(PAGE_SIZE)) {
            return None;
        }
        let frame = hal::boot::initrd_take(pos)?;
        self.used = self.len;
        self.next = pos + PAGE_SIZE;
        Some(frame)
    }
}

/// Unpacks the RAM disk into the root of `ctx` and releases all of it.
pub fn unpack_initrd(ctx: &WalkContext<'_>) -> Result<Summary, UnpackError> {
    let mut initrd = Initrd::new()?;
    let result = unpack(ctx, &mut initrd);
    hal::boot::initrd_release(hal::boot::initrd_len());
    result
}

/// Unpacks all archives of `input` into the root of `ctx`. On an error, what was unpacked so far stays.
pub fn unpack<I: PageInput<Page = Frame>>(ctx: &WalkContext<'_>, input: I) -> Result<Summary, UnpackError> {
    let mut archive = Archive::new(input);
    let mut unpacker = Unpacker {
        ctx,
        dir: ctx.fs.root(),
        dir_name: Vec::new(),
        links: BTreeMap::new(),
        dir_times: Vec::new(),
        summary: Summary::default(),
    };
    let mut name = Vec::new();
    let result = loop {
        match archive.next_item() {
            Ok(None) => break Ok(unpacker.summary),
            Ok(Some(Item::Trailer)) => {
                unpacker.links.clear();
                continue;
            }
            Ok(Some(Item::Member(header, found))) => {
                name.clear();
                name.extend_from_slice(found);
                if let Err(error) = unpacker.member(&mut archive, &header, &name) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error.into()),
        }
    };
    // Last, as every entry made in a directory changes its times.
    for (inode, mtime) in unpacker.dir_times {
        set_mtime(&inode, mtime);
    }
    result
}

struct Unpacker<'a> {
    ctx: &'a WalkContext<'a>,
    /// The directory of the last member, and its name.
    dir: Path,
    dir_name: Vec<u8>,
    links: BTreeMap<LinkKey, Arc<Inode>>,
    dir_times: Vec<(Arc<Inode>, u32)>,
    summary: Summary,
}

fn set_mtime(inode: &Inode, mtime: u32) {
    let time = Timespec { tv_sec: i64::from(mtime), tv_nsec: 0 };
    inode.update_times(|times| (times.mtime, times.atime, times.ctime) = (time, time, time));
}

/// A name without what means nothing in it: slashes and "./" at both ends.
fn clean(mut name: &[u8]) -> &[u8] {
    loop {
        name = match name {
            [b'/', rest @ ..] | [b'.', b'/', rest @ ..] | [rest @ .., b'/'] => rest,
            b"." => b"",
            _ => return name,
        }
    }
}

impl Unpacker<'_> {
    fn member<I: PageInput<Page = Frame>>(
        &mut self,
        archive: &mut Archive<I>,
        header: &Header,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        self.summary.members += 1;
        let name = clean(name);
        if name.is_empty() {
            // The root itself.
            let root = self.ctx.fs.root();
            return root.inode().map_or(Ok(()), |inode| {
                self.dress(inode, header);
                Ok(())
            });
        }
        let cut = name.iter().rposition(|&byte| byte == b'/');
        let (dir, last) = cut.map_or((&b""[..], name), |cut| (&name[..cut], &name[cut + 1..]));
        if dir != self.dir_name {
            // A member of a directory that does not exist is skipped, as on Linux.
            let at = At::Path(&self.dir);
            let full = [b"/", dir].concat();
            let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
            let Ok(path) = walk::walk(self.ctx, at, &full, flags) else { return Ok(()) };
            (self.dir, self.dir_name) = (path, dir.to_vec());
        }
        match header.mode & S_IFMT {
            S_IFREG => self.regular(archive, header, last),
            S_IFLNK => self.symlink(archive, header, last),
            S_IFDIR => Ok(self.other(header, last, 0)?),
            S_IFCHR | S_IFBLK => Ok(self.other(header, last, makedev(header.rdev.0, header.rdev.1))?),
            S_IFIFO | S_IFSOCK => Ok(self.other(header, last, 0)?),
            _ => Ok(()),
        }
    }

    fn dir_inode(&self) -> Result<&Arc<Inode>> {
        self.dir.inode().ok_or(Errno::ENOENT)
    }

    /// Owner, mode and time of a new inode.
    fn dress(&mut self, inode: &Arc<Inode>, header: &Header) {
        let change = crate::inode::SetAttr {
            mode: Some(inode.mode() & S_IFMT | header.mode & 0o7777),
            uid: Some(header.uid),
            gid: Some(header.gid),
            ..Default::default()
        };
        inode.apply(&change);
        if inode.is_dir() {
            self.dir_times.push((inode.clone(), header.mtime));
        } else {
            set_mtime(inode, header.mtime);
        }
    }

    /// Makes an entry of the current directory. Something else of that name goes first; a directory stays.
    fn make(&mut self, header: &Header, name: &[u8], rdev: u64, target: &[u8]) -> Result<Arc<Inode>> {
        let dir = self.dir_inode()?;
        if let Some(old) = dir.ops().lookup(dir, name)? {
            if old.is_dir() {
                let is_dir = header.mode & S_IFMT == S_IFDIR;
                return if is_dir { Ok(old) } else { Err(Errno::EISDIR) };
            }
            namespace::unlinkat(self.ctx, At::Path(&self.dir), name)?;
        }
        let what = NewInode { mode: header.mode, uid: header.uid, gid: header.gid, rdev, target };
        let _exclusive = dir.sem.write();
        dir.ops().create(dir, name, &what)
    }

    fn other(&mut self, header: &Header, name: &[u8], rdev: u64) -> Result<()> {
        if let Some(inode) = header.link_key().and_then(|key| self.links.get(&key)).cloned() {
            return self.link(name, &inode);
        }
        let inode = self.make(header, name, rdev, &[])?;
        self.dress(&inode, header);
        if let Some(key) = header.link_key() {
            self.links.insert(key, inode);
        }
        Ok(())
    }

    fn symlink<I: PageInput<Page = Frame>>(
        &mut self,
        archive: &mut Archive<I>,
        header: &Header,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let mut target = Vec::new();
        if !archive.read_data(&mut target, PATH_MAX)? || target.is_empty() {
            return Ok(());
        }
        let inode = self.make(header, name, 0, &target)?;
        self.dress(&inode, header);
        Ok(())
    }

    fn link(&mut self, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let dir = self.dir_inode()?;
        if dir.ops().lookup(dir, name)?.is_some() {
            namespace::unlinkat(self.ctx, At::Path(&self.dir), name)?;
        }
        let _exclusive = dir.sem.write();
        dir.ops().link(dir, name, inode)
    }

    fn regular<I: PageInput<Page = Frame>>(
        &mut self,
        archive: &mut Archive<I>,
        header: &Header,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let known = header.link_key().and_then(|key| self.links.get(&key)).cloned();
        let inode = match known {
            Some(inode) => {
                self.link(name, &inode)?;
                inode
            }
            None => {
                let inode = self.make(header, name, 0, &[])?;
                if let Some(key) = header.link_key() {
                    self.links.insert(key, inode.clone());
                }
                inode
            }
        };
        // Of several links one carries the data, the first or the last.
        if header.size > 0 {
            copy_data(archive, &inode)?;
            self.summary.bytes += u64::from(header.size);
        }
        self.dress(&inode, header);
        Ok(())
    }
}

/// Fills the page cache of `inode` with the current member's data.
fn copy_data<I: PageInput<Page = Frame>>(archive: &mut Archive<I>, inode: &Inode) -> Result<(), UnpackError> {
    let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
    let mut idx = 0;
    let mut size = 0u64;
    loop {
        if let Some(frame) = archive.take_page() {
            mapping.insert(idx, frame)?;
            size += PAGE_SIZE as u64;
            idx += 1;
            continue;
        }
        let first = archive.data()?;
        if first.is_empty() {
            break;
        }
        let frame = Frame::alloc().ok_or(Errno::ENOMEM)?;
        let mut filled = 0;
        while filled < PAGE_SIZE {
            let bytes = archive.data()?;
            let len = bytes.len().min(PAGE_SIZE - filled);
            if len == 0 {
                break;
            }
            frame.write(filled, &bytes[..len]);
            archive.consume(len);
            filled += len;
        }
        if filled < PAGE_SIZE {
            frame.zero(filled..PAGE_SIZE);
        }
        mapping.insert(idx, frame)?;
        size += filled as u64;
        idx += 1;
    }
    mapping.set_size(size);
    Ok(())
}
