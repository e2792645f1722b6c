//! What a server answers; see the crate's front page for what is believed of it.

use crate::request::kind;
use crate::{Error, Result};

/// The longest value of an extended attribute, and the longest list of names (xattr(7)).
const XATTR_MAX: u64 = 65536;

/// Takes the message in `bytes` apart, which is to answer a request of type `wanted` with `tag`.
///
/// `Refused`: the server's error. `Malformed`: it is no such message.
pub fn reply(bytes: &[u8], wanted: u8, tag: u16) -> Result<Reader<'_>> {
    let mut reader = Reader(bytes);
    let size = reader.u32()? as usize;
    let (found, its_tag) = (reader.u8()?, reader.u16()?);
    if size < 7 || size > bytes.len() {
        return Err(Error::Malformed("a size that is not the message's"));
    }
    if its_tag != tag {
        return Err(Error::Malformed("another request's tag"));
    }
    let mut body = Reader(bytes.get(7..size).unwrap_or_default());
    if found == kind::RLERROR {
        return Err(Error::Refused(body.u32()?));
    }
    if wanted.checked_add(1) != Some(found) {
        return Err(Error::Malformed("an answer to another question"));
    }
    Ok(body)
}

/// The size that a server tells of an attribute's value, or of the list of names. `TooLong`: more than there can be.
pub fn xattr_len(body: &mut Reader<'_>) -> Result<usize> {
    let len = body.u64()?;
    if len > XATTR_MAX { Err(Error::TooLong) } else { Ok(len as usize) }
}

/// Fields in their order.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

const SHORT: Error = Error::Malformed("a message that ends too early");

impl<'a> Reader<'a> {
    /// The fields of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes that are left.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Is nothing left?
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(first)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// 16 bits.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string.
    pub fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    /// A qid.
    pub fn qid(&mut self) -> Result<Qid> {
        Ok(Qid { kind: self.u8()?, version: self.u32()?, path: self.u64()? })
    }

    fn time(&mut self) -> Result<(i64, u32)> {
        let (seconds, ns) = (self.u64()? as i64, self.u64()?);
        // Programs may count on it.
        if ns < 1_000_000_000 { Ok((seconds, ns as u32)) } else { Err(Error::Malformed("a time")) }
    }

    /// How far a walk came: the qids of the names that were there. `Malformed`: more than `wanted`.
    pub fn walked(&mut self, wanted: usize) -> Result<(usize, Option<Qid>)> {
        let count = usize::from(self.u16()?);
        if count > wanted {
            return Err(Error::Malformed("a walk beyond its end"));
        }
        let mut last = None;
        for _ in 0..count {
            last = Some(self.qid()?);
        }
        Ok((count, last))
    }

    /// The count of a read or write of `wanted` bytes. `Malformed`: more.
    pub fn count(&mut self, wanted: u32) -> Result<u32> {
        let count = self.u32()?;
        if count <= wanted { Ok(count) } else { Err(Error::Malformed("more bytes than were asked for")) }
    }

    /// The answer to a question for attributes.
    pub fn attributes(&mut self) -> Result<Attributes> {
        let _valid = self.u64()?;
        Ok(Attributes {
            qid: self.qid()?,
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            nlink: self.u64()?,
            rdev: self.u64()?,
            size: self.u64()?,
            block_size: self.u64()?,
            blocks: self.u64()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
        })
    }

    /// The answer to a question for the state of the file system.
    pub fn statfs(&mut self) -> Result<Statfs> {
        Ok(Statfs {
            kind: self.u32()?,
            block_size: self.u32()?,
            blocks: self.u64()?,
            free: self.u64()?,
            available: self.u64()?,
            files: self.u64()?,
            files_free: self.u64()?,
            fsid: self.u64()?,
            name_len: self.u32()?,
        })
    }
}

/// What a file is to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qid {
    /// Kind: 0x80 a directory, 2 a symbolic link.
    pub kind: u8,
    /// Changes with the data.
    pub version: u32,
    /// A number that no other file has.
    pub path: u64,
}

/// The attributes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Which file it is.
    pub qid: Qid,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u64,
    /// Number of a device, as the server counts.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Best size of I/O.
    pub block_size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Last access, in seconds and nanoseconds.
    pub atime: (i64, u32),
    /// Last change of the data.
    pub mtime: (i64, u32),
    /// Last change.
    pub ctime: (i64, u32),
}

/// The state of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in statfs(2)")]
pub struct Statfs {
    pub kind: u32,
    pub block_size: u32,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
    pub fsid: u64,
    pub name_len: u32,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Which file it is.
    pub qid: Qid,
    /// Where the next entry begins.
    pub next: u64,
    /// `d_type` of getdents64(2).
    pub kind: u8,
    /// The name, as it came.
    pub name: &'a [u8],
}

impl Entry<'_> {
    /// Can a name be that, and be shown? "." and ".." can.
    pub fn is_sane(&self) -> bool {
        !self.name.is_empty()
            && self.name.len() <= 255
            && !self.name.iter().any(|byte| matches!(byte, 0 | b'/'))
    }
}

/// The entries in the data of a read of a directory. After an error it gives nothing.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(Reader<'a>);

impl<'a> Entries<'a> {
    /// The entries in `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(Reader(bytes))
    }

    fn entry(&mut self) -> Result<Entry<'a>> {
        let reader = &mut self.0;
        Ok(Entry { qid: reader.qid()?, next: reader.u64()?, kind: reader.u8()?, name: reader.string()? })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.0 = Reader(&[]);
        }
        Some(entry)
    }
}
