//! What a client asks for.

use alloc::vec::Vec;

use crate::{Error, MAX_WALK, Result};

/// Types of requests; the reply's is one more. [`kind::RLERROR`] is the reply to any of them that failed.
#[expect(missing_docs, reason = "the protocol's own names")]
pub mod kind {
    pub const RLERROR: u8 = 7;
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const RENAME: u8 = 20;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const XATTRWALK: u8 = 30;
    pub const XATTRCREATE: u8 = 32;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// New attributes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Time of the last access, in seconds and nanoseconds.
    pub atime: Option<(u64, u64)>,
    /// Time of the last change of the data.
    pub mtime: Option<(u64, u64)>,
}

impl Change {
    /// Which fields count. The time of change is set to now always.
    fn valid(&self) -> u32 {
        const CTIME: u32 = 0x40;
        /// The time is in the message, and is not just now.
        const ATIME: u32 = 0x10 | 0x80;
        const MTIME: u32 = 0x20 | 0x100;
        let bit = |is_set, bits| if is_set { bits } else { 0 };
        CTIME
            | bit(self.mode.is_some(), 1)
            | bit(self.uid.is_some(), 2)
            | bit(self.gid.is_some(), 4)
            | bit(self.size.is_some(), 8)
            | bit(self.atime.is_some(), ATIME)
            | bit(self.mtime.is_some(), MTIME)
    }
}

/// A record lock, as `struct flock` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock<'a> {
    /// 0 to read, 1 to write, 2 none.
    pub kind: u8,
    /// First byte.
    pub start: u64,
    /// Number of bytes; 0: to the end.
    pub len: u64,
    /// Who holds it.
    pub proc_id: u32,
    /// On which machine.
    pub client: &'a [u8],
}

/// A request. Fids are numbers that the client chose; `names` are single components of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol's own names; fields are told there")]
pub enum Request<'a> {
    Version {
        msize: u32,
        version: &'a [u8],
    },
    Attach {
        fid: u32,
        uname: &'a [u8],
        aname: &'a [u8],
        uid: u32,
    },
    Flush {
        tag: u16,
    },
    Walk {
        fid: u32,
        new_fid: u32,
        names: &'a [&'a [u8]],
    },
    Open {
        fid: u32,
        flags: u32,
    },
    Create {
        fid: u32,
        name: &'a [u8],
        flags: u32,
        mode: u32,
        gid: u32,
    },
    /// Up to `count` bytes from `offset` on.
    Read {
        fid: u32,
        offset: u64,
        count: u32,
    },
    /// The data, `count` bytes, follow the message.
    Write {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Clunk {
        fid: u32,
    },
    Remove {
        fid: u32,
    },
    Statfs {
        fid: u32,
    },
    Rename {
        fid: u32,
        dir: u32,
        name: &'a [u8],
    },
    ReadLink {
        fid: u32,
    },
    GetAttr {
        fid: u32,
    },
    SetAttr {
        fid: u32,
        change: Change,
    },
    XattrWalk {
        fid: u32,
        new_fid: u32,
        name: &'a [u8],
    },
    XattrCreate {
        fid: u32,
        name: &'a [u8],
        size: u64,
        flags: u32,
    },
    ReadDir {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Fsync {
        fid: u32,
        data_only: u32,
    },
    Lock {
        fid: u32,
        flags: u32,
        lock: Lock<'a>,
    },
    GetLock {
        fid: u32,
        lock: Lock<'a>,
    },
    Link {
        dir: u32,
        fid: u32,
        name: &'a [u8],
    },
    MakeDir {
        dir: u32,
        name: &'a [u8],
        mode: u32,
        gid: u32,
    },
    RenameAt {
        old_dir: u32,
        old_name: &'a [u8],
        new_dir: u32,
        new_name: &'a [u8],
    },
    /// `flags`: `AT_REMOVEDIR` (0x200) for a directory.
    UnlinkAt {
        dir: u32,
        name: &'a [u8],
        flags: u32,
    },
    Symlink {
        dir: u32,
        name: &'a [u8],
        target: &'a [u8],
        gid: u32,
    },
    MakeNode {
        dir: u32,
        name: &'a [u8],
        mode: u32,
        major: u32,
        minor: u32,
        gid: u32,
    },
}

/// The attributes that stat(2) shows (`P9_STATS_BASIC`).
const BASIC: u64 = 0x7ff;

impl Request<'_> {
    /// The type of the message.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Version { .. } => kind::VERSION,
            Self::Attach { .. } => kind::ATTACH,
            Self::Flush { .. } => kind::FLUSH,
            Self::Walk { .. } => kind::WALK,
            Self::Open { .. } => kind::LOPEN,
            Self::Create { .. } => kind::LCREATE,
            Self::Read { .. } => kind::READ,
            Self::Write { .. } => kind::WRITE,
            Self::Clunk { .. } => kind::CLUNK,
            Self::Remove { .. } => kind::REMOVE,
            Self::Statfs { .. } => kind::STATFS,
            Self::Rename { .. } => kind::RENAME,
            Self::ReadLink { .. } => kind::READLINK,
            Self::GetAttr { .. } => kind::GETATTR,
            Self::SetAttr { .. } => kind::SETATTR,
            Self::XattrWalk { .. } => kind::XATTRWALK,
            Self::XattrCreate { .. } => kind::XATTRCREATE,
            Self::ReadDir { .. } => kind::READDIR,
            Self::Fsync { .. } => kind::FSYNC,
            Self::Lock { .. } => kind::LOCK,
            Self::GetLock { .. } => kind::GETLOCK,
            Self::Link { .. } => kind::LINK,
            Self::MakeDir { .. } => kind::MKDIR,
            Self::RenameAt { .. } => kind::RENAMEAT,
            Self::UnlinkAt { .. } => kind::UNLINKAT,
            Self::Symlink { .. } => kind::SYMLINK,
            Self::MakeNode { .. } => kind::MKNOD,
        }
    }

    /// The message with `tag`. `TooLong`: a string of more than 65535 bytes, or too many names. `NoMemory`.
    pub fn encode(&self, tag: u16) -> Result<Vec<u8>> {
        let mut out = Writer(Vec::new());
        out.u32(0)?;
        out.put(&[self.kind()])?;
        out.u16(tag)?;
        self.body(&mut out)?;
        let mut bytes = out.0;
        let data = if let Self::Write { count, .. } = self { *count } else { 0 };
        let size = u32::try_from(bytes.len()).ok().and_then(|len| len.checked_add(data));
        let size = size.ok_or(Error::TooLong)?;
        if let Some(place) = bytes.first_chunk_mut() {
            *place = size.to_le_bytes();
        }
        Ok(bytes)
    }

    fn body(&self, out: &mut Writer) -> Result<()> {
        match *self {
            Self::Version { msize, version } => {
                out.u32(msize)?;
                out.string(version)
            }
            Self::Attach { fid, uname, aname, uid } => {
                out.u32s(&[fid, crate::NO_FID])?;
                out.string(uname)?;
                out.string(aname)?;
                out.u32(uid)
            }
            Self::Flush { tag } => out.u16(tag),
            Self::Walk { fid, new_fid, names } => {
                if names.len() > MAX_WALK {
                    return Err(Error::TooLong);
                }
                out.u32s(&[fid, new_fid])?;
                out.u16(names.len() as u16)?;
                names.iter().try_for_each(|name| out.string(name))
            }
            Self::Open { fid, flags } => out.u32s(&[fid, flags]),
            Self::Create { fid, name, flags, mode, gid } => {
                out.u32(fid)?;
                out.string(name)?;
                out.u32s(&[flags, mode, gid])
            }
            Self::Read { fid, offset, count }
            | Self::Write { fid, offset, count }
            | Self::ReadDir { fid, offset, count } => {
                out.u32(fid)?;
                out.u64(offset)?;
                out.u32(count)
            }
            Self::Clunk { fid } | Self::Remove { fid } | Self::Statfs { fid } | Self::ReadLink { fid } => {
                out.u32(fid)
            }
            Self::Rename { fid, dir, name } => {
                out.u32s(&[fid, dir])?;
                out.string(name)
            }
            Self::GetAttr { fid } => {
                out.u32(fid)?;
                out.u64(BASIC)
            }
            Self::SetAttr { fid, change } => out.change(fid, &change),
            Self::Fsync { fid, data_only } => out.u32s(&[fid, data_only]),
            Self::XattrWalk { fid, new_fid, name } => {
                out.u32s(&[fid, new_fid])?;
                out.string(name)
            }
            Self::XattrCreate { fid, name, size, flags } => {
                out.u32(fid)?;
                out.string(name)?;
                out.u64(size)?;
                out.u32(flags)
            }
            Self::Lock { fid, flags, lock } => {
                out.u32(fid)?;
                out.put(&[lock.kind])?;
                out.u32(flags)?;
                out.lock(&lock)
            }
            Self::GetLock { fid, lock } => {
                out.u32(fid)?;
                out.put(&[lock.kind])?;
                out.lock(&lock)
            }
            _ => self.name_body(out),
        }
    }

    /// The bodies of requests that change names.
    fn name_body(&self, out: &mut Writer) -> Result<()> {
        match *self {
            Self::Link { dir, fid, name } => {
                out.u32s(&[dir, fid])?;
                out.string(name)
            }
            Self::MakeDir { dir, name, mode, gid } => {
                out.u32(dir)?;
                out.string(name)?;
                out.u32s(&[mode, gid])
            }
            Self::RenameAt { old_dir, old_name, new_dir, new_name } => {
                out.u32(old_dir)?;
                out.string(old_name)?;
                out.u32(new_dir)?;
                out.string(new_name)
            }
            Self::UnlinkAt { dir, name, flags } => {
                out.u32(dir)?;
                out.string(name)?;
                out.u32(flags)
            }
            Self::Symlink { dir, name, target, gid } => {
                out.u32(dir)?;
                out.string(name)?;
                out.string(target)?;
                out.u32(gid)
            }
            Self::MakeNode { dir, name, mode, major, minor, gid } => {
                out.u32(dir)?;
                out.string(name)?;
                out.u32s(&[mode, major, minor, gid])
            }
            _ => Ok(()),
        }
    }
}

/// A message that grows.
struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.try_reserve(bytes.len()).map_err(|_| Error::NoMemory)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn u16(&mut self, value: u16) -> Result<()> {
        self.put(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> Result<()> {
        self.put(&value.to_le_bytes())
    }

    fn u32s(&mut self, values: &[u32]) -> Result<()> {
        values.iter().try_for_each(|value| self.u32(*value))
    }

    fn u64(&mut self, value: u64) -> Result<()> {
        self.put(&value.to_le_bytes())
    }

    fn string(&mut self, text: &[u8]) -> Result<()> {
        self.u16(u16::try_from(text.len()).map_err(|_| Error::TooLong)?)?;
        self.put(text)
    }

    fn change(&mut self, fid: u32, change: &Change) -> Result<()> {
        self.u32s(&[fid, change.valid(), change.mode.unwrap_or(0)])?;
        self.u32s(&[change.uid.unwrap_or(crate::NO_ID), change.gid.unwrap_or(crate::NO_ID)])?;
        self.u64(change.size.unwrap_or(0))?;
        for (seconds, ns) in [change.atime.unwrap_or((0, 0)), change.mtime.unwrap_or((0, 0))] {
            self.u64(seconds)?;
            self.u64(ns)?;
        }
        Ok(())
    }

    fn lock(&mut self, lock: &Lock<'_>) -> Result<()> {
        self.u64(lock.start)?;
        self.u64(lock.len)?;
        self.u32(lock.proc_id)?;
        self.string(lock.client)
    }
}
