//! The members of an initramfs, one after the other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::decode::{self, Decoder};
use crate::{Error, PageInput};

/// The longest name, with its final NUL (PATH_MAX). Members with longer names are skipped, as on Linux.
pub const NAME_MAX_LEN: u32 = 4096;

const HEADER_LEN: usize = 110;
const PAGE_SIZE: u64 = 4096;
const TRAILER: &[u8] = b"TRAILER!!!";

/// What a member's header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Inode number within the archive.
    pub ino: u32,
    /// File type and permissions (`st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links.
    pub nlink: u32,
    /// Time of last change of the data, in seconds since 1970.
    pub mtime: u32,
    /// Length of the data in bytes.
    pub size: u32,
    /// Device of the file when it was packed, as (major, minor).
    pub dev: (u32, u32),
    /// Device number of a device node, as (major, minor).
    pub rdev: (u32, u32),
    /// Sum of all data bytes, in "crc" archives.
    check: Option<u32>,
    name_len: u32,
}

/// Identifies the file that several members of an archive are links to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkKey {
    dev: (u32, u32),
    ino: u32,
}

impl Header {
    fn parse(raw: &[u8; HEADER_LEN], offset: u64) -> Result<Self, Error> {
        let mut field = [0u32; 13];
        for (value, digits) in field.iter_mut().zip(raw[6..].as_chunks::<8>().0) {
            *value = parse_hex(digits).ok_or(Error::BadHeader { offset })?;
        }
        let check = match &raw[..6] {
            b"070701" => None,
            b"070702" => Some(field[12]),
            _ => return Err(Error::Garbage { offset }),
        };
        Ok(Self {
            ino: field[0],
            mode: field[1],
            uid: field[2],
            gid: field[3],
            nlink: field[4],
            mtime: field[5],
            size: field[6],
            dev: (field[7], field[8]),
            rdev: (field[9], field[10]),
            name_len: field[11],
            check,
        })
    }

    /// The key under which members that are hard links to one file meet; `None` for a file with one link.
    pub fn link_key(&self) -> Option<LinkKey> {
        const S_IFMT: u32 = 0o170_000;
        const S_IFDIR: u32 = 0o040_000;
        (self.nlink >= 2 && self.mode & S_IFMT != S_IFDIR).then_some(LinkKey { dev: self.dev, ino: self.ino })
    }
}

fn parse_hex(digits: &[u8; 8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | (digit as char).to_digit(16)?))
}

/// What [`Archive::next_item`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A member; its data comes from [`Archive::data`] or [`Archive::take_page`].
    Member(Header, &'a [u8]),
    /// The end of one archive: link keys seen so far have no meaning in the next.
    Trailer,
}

/// The reader; see the crate's front page.
pub struct Archive<I> {
    raw: I,
    /// Set while inside a compressed segment.
    decoder: Option<Box<dyn Decoder>>,
    /// Position in the plain bytes of this segment; members are aligned to 4 by it.
    offset: u64,
    name: Vec<u8>,
    /// Data bytes of the current member that were not consumed yet.
    left: u64,
    sum: u32,
    check: Option<u32>,
    failed: Option<Error>,
}

impl<I: PageInput> Archive<I> {
    /// A reader at the start of `raw`.
    pub fn new(raw: I) -> Self {
        Self { raw, decoder: None, offset: 0, name: Vec::new(), left: 0, sum: 0, check: None, failed: None }
    }

    /// Moves to the next member, past data of the last one that was not read. `None` at the end of the input.
    ///
    /// Errors are final: the position is lost.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.advance() {
            Ok(Some((_, true))) => Ok(Some(Item::Trailer)),
            Ok(Some((header, false))) => Ok(Some(Item::Member(header, &self.name))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// The next member and whether it is the trailer.
    fn advance(&mut self) -> Result<Option<(Header, bool)>, Error> {
        loop {
            self.skip_data()?;
            if !self.find_header()? {
                return Ok(None);
            }
            let offset = self.offset;
            let mut raw = [0; HEADER_LEN];
            self.read_exact(&mut raw)?;
            let header = Header::parse(&raw, offset)?;
            if header.name_len == 0 || header.name_len > NAME_MAX_LEN {
                self.skip(u64::from(header.name_len))?;
                self.begin_data(&header)?;
                continue;
            }
            self.read_name(header.name_len as usize)?;
            self.begin_data(&header)?;
            let is_trailer = self.name == TRAILER;
            return Ok(Some((header, is_trailer)));
        }
    }

    /// The next piece of the current member's data; empty when all was consumed.
    ///
    /// The checksum of a "crc" member is compared when its last byte was consumed, by the next call.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.left == 0 {
            return self.finish_data().map(|()| &[][..]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = match &mut self.decoder {
            Some(decoder) => decoder.fill(&mut self.raw)?,
            None => self.raw.fill()?,
        };
        if bytes.is_empty() {
            return Err(Error::Truncated);
        }
        Ok(&bytes[..bytes.len().min(left)])
    }

    /// Moves past `len` bytes of what [`Archive::data`] showed.
    pub fn consume(&mut self, len: usize) {
        if self.check.is_some()
            && let Ok(bytes) = self.data()
        {
            let sum = bytes.iter().take(len).fold(0u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
            self.sum = self.sum.wrapping_add(sum);
        }
        self.left = self.left.saturating_sub(len as u64);
        self.consume_plain(len);
    }

    /// Takes a whole page of the current member's data out of the input, if it lies there page-aligned.
    pub fn take_page(&mut self) -> Option<I::Page> {
        if self.left < PAGE_SIZE || self.decoder.is_some() || self.check.is_some() {
            return None;
        }
        let page = self.raw.take_page()?;
        self.left -= PAGE_SIZE;
        self.offset += PAGE_SIZE;
        Some(page)
    }

    /// Reads all remaining data of the current member into `out`, which must not grow past `max` bytes.
    ///
    /// Gives `false`, with the data partly read, if there is more.
    pub fn read_data(&mut self, out: &mut Vec<u8>, max: usize) -> Result<bool, Error> {
        loop {
            let bytes = self.data()?;
            let len = bytes.len();
            if len == 0 {
                return Ok(true);
            }
            if out.len() + len > max {
                return Ok(false);
            }
            out.try_reserve(len).map_err(|_| Error::NoMemory)?;
            out.extend_from_slice(bytes);
            self.consume(len);
        }
    }

    /// The input, for what follows the archive.
    pub fn into_input(self) -> I {
        self.raw
    }

    fn begin_data(&mut self, header: &Header) -> Result<(), Error> {
        self.skip_padding()?;
        self.left = u64::from(header.size);
        self.sum = 0;
        self.check = header.check;
        Ok(())
    }

    fn finish_data(&mut self) -> Result<(), Error> {
        match self.check.take() {
            Some(check) if check != self.sum => {
                self.failed = Some(Error::BadChecksum);
                Err(Error::BadChecksum)
            }
            _ => Ok(()),
        }
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        if self.left > 0 {
            // Data that nobody read is not checked either.
            self.check = None;
            let left = core::mem::take(&mut self.left);
            self.skip(left)?;
        }
        self.finish_data()
    }

    /// Moves past padding and into the next segment until a header begins; `false` at the end.
    fn find_header(&mut self) -> Result<bool, Error> {
        loop {
            let bytes = self.fill_plain()?;
            let Some(&first) = bytes.first() else {
                if self.decoder.take().is_none() {
                    return Ok(false);
                }
                self.offset = 0;
                continue;
            };
            if first == 0 {
                let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                self.consume_plain(zeros);
                continue;
            }
            if first == b'0' && self.offset.is_multiple_of(4) {
                return Ok(true);
            }
            let offset = self.offset;
            if self.decoder.is_some() {
                return Err(Error::Garbage { offset });
            }
            self.decoder = decode::for_first_byte(first, &mut self.raw)?;
            if self.decoder.is_none() {
                return Err(Error::Garbage { offset });
            }
            self.offset = 0;
        }
    }

    fn read_name(&mut self, len: usize) -> Result<(), Error> {
        self.name.clear();
        self.name.resize(len, 0);
        let mut name = core::mem::take(&mut self.name);
        let result = self.read_exact(&mut name);
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        self.name = name;
        result
    }

    fn skip_padding(&mut self) -> Result<(), Error> {
        self.skip(self.offset.wrapping_neg() % 4)
    }

    fn skip(&mut self, mut len: u64) -> Result<(), Error> {
        while len > 0 {
            let here = self.fill_plain()?.len();
            if here == 0 {
                return Err(Error::Truncated);
            }
            let step = usize::try_from(len).unwrap_or(usize::MAX).min(here);
            self.consume_plain(step);
            len -= step as u64;
        }
        Ok(())
    }

    fn read_exact(&mut self, mut buf: &mut [u8]) -> Result<(), Error> {
        while !buf.is_empty() {
            let bytes = self.fill_plain()?;
            let len = bytes.len().min(buf.len());
            if len == 0 {
                return Err(Error::Truncated);
            }
            let (head, tail) = buf.split_at_mut(len);
            head.copy_from_slice(&bytes[..len]);
            self.consume_plain(len);
            buf = tail;
        }
        Ok(())
    }

    fn fill_plain(&mut self) -> Result<&[u8], Error> {
        match &mut self.decoder {
            Some(decoder) => decoder.fill(&mut self.raw),
            None => self.raw.fill(),
        }
    }

    fn consume_plain(&mut self, len: usize) {
        self.offset += len as u64;
        match &mut self.decoder {
            Some(decoder) => decoder.consume(len),
            None => self.raw.consume(len),
        }
    }
}

#[cfg(test)]
mod tests;
