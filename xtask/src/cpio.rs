//! Writing cpio archives of the kind that kernels unpack as initramfs ("newc").
//!
//! An archive is a row of entries: a header of hexadecimal digits, the name, the data, each padded to 4
//! bytes. The data of files of a page or more begins at a multiple of 4096, by NULs at the end of the name,
//! so that a kernel may use the pages as they lie instead of copying them. Linux reads such names since
//! they end in NUL; its own `gen_init_cpio -a` makes them the same way.
//!
//! ```text
//!   header (110 bytes)  name NUL NUL NUL ...  data            pad  next header
//!                                             ^ 4096 × n
//! ```
//! Archives may follow each other in one initramfs, with zeros between them; later entries replace earlier.
//!
//! Sources: Linux Documentation/driver-api/early-userspace/buffer-format.rst.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Bytes of an entry's header.
const HEADER_LEN: u64 = 110;
/// A name with its NULs may be no longer (PATH_MAX).
const LONGEST_NAME: u64 = 4096;
/// Where the data of larger files begins: at multiples of this.
const PAGE: u64 = 4096;

/// File types of `st_mode`, see inode(7).
pub mod mode {
    /// Regular file.
    pub const FILE: u32 = 0o100_000;
    /// Folder.
    pub const DIR: u32 = 0o040_000;
    /// Symbolic link.
    pub const LINK: u32 = 0o120_000;
    /// Character device.
    pub const CHAR: u32 = 0o020_000;
    /// Block device.
    pub const BLOCK: u32 = 0o060_000;
    /// FIFO.
    pub const FIFO: u32 = 0o010_000;
}

/// What an entry says beside its name and data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change, in seconds since 1970.
    pub mtime: u32,
    /// Device number of a device node.
    pub rdev: (u32, u32),
    /// Number of names, above 1 for hard links, which then share `ino`.
    pub nlink: u32,
    /// Identity of the file among hard links; [`Writer::fresh_ino`] gives one.
    pub ino: u32,
}

impl Meta {
    /// A file type and permissions, owned by root.
    pub fn new(mode: u32) -> Meta {
        Meta { mode, nlink: 1, ..Meta::default() }
    }
}

/// Writes one archive to `out`.
pub struct Writer<W: Write> {
    out: W,
    offset: u64,
    next_ino: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive at the offset 0 of a page.
    pub fn new(out: W) -> Writer<W> {
        Writer { out, offset: 0, next_ino: 1 }
    }

    /// An inode number that no other entry has.
    pub fn fresh_ino(&mut self) -> u32 {
        self.next_ino += 1;
        self.next_ino
    }

    /// Adds an entry with `len` bytes of `data`.
    pub fn add(&mut self, name: &[u8], mut meta: Meta, data: &mut dyn Read, len: u64) -> Result<()> {
        if u32::try_from(len).is_err() {
            bail!("{} is larger than 4 GiB, which a cpio archive cannot hold", String::from_utf8_lossy(name));
        }
        if meta.ino == 0 {
            meta.ino = self.fresh_ino();
        }
        let name_len = self.padded_name_len(name, len);
        self.header(&meta, name_len, len)?;
        self.write(name)?;
        self.zeros(name_len - name.len() as u64)?;
        self.align(4)?;
        let copied = io::copy(&mut data.take(len), &mut self.out)?;
        if copied != len {
            bail!("{} became shorter while it was packed", String::from_utf8_lossy(name));
        }
        self.offset += len;
        self.align(4)
    }

    /// Adds a file whose contents are at hand.
    pub fn add_bytes(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<()> {
        self.add(name.as_bytes(), Meta::new(mode::FILE | permissions), &mut &data[..], data.len() as u64)
    }

    /// Adds a folder.
    pub fn add_dir(&mut self, name: &str, permissions: u32) -> Result<()> {
        self.add(
            name.as_bytes(),
            Meta { nlink: 2, ..Meta::new(mode::DIR | permissions) },
            &mut io::empty(),
            0,
        )
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, name: &str, target: &str) -> Result<()> {
        self.add(name.as_bytes(), Meta::new(mode::LINK | 0o777), &mut target.as_bytes(), target.len() as u64)
    }

    /// Adds a character device.
    pub fn add_char_device(&mut self, name: &str, permissions: u32, rdev: (u32, u32)) -> Result<()> {
        self.add(name.as_bytes(), Meta { rdev, ..Meta::new(mode::CHAR | permissions) }, &mut io::empty(), 0)
    }

    /// Adds the file or folder `path` with all below it as `name`; modes and times are kept, owners become root.
    pub fn add_tree(&mut self, name: &str, path: &Path) -> Result<()> {
        for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
            let mut inside = name.as_bytes().to_vec();
            let relative = entry.path().strip_prefix(path)?;
            if !relative.as_os_str().is_empty() {
                inside.push(b'/');
                inside.extend_from_slice(relative.as_os_str().as_bytes());
            }
            self.add_path(&inside, entry.path())?;
        }
        Ok(())
    }

    fn add_path(&mut self, name: &[u8], path: &Path) -> Result<()> {
        let info = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut meta = Meta { mtime: u32::try_from(info.mtime()).unwrap_or(0), ..Meta::new(info.mode()) };
        let kind = info.file_type();
        if kind.is_file() {
            let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            return self.add(name, meta, &mut file, info.len());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            let target = target.as_os_str().as_bytes();
            return self.add(name, meta, &mut &target[..], target.len() as u64);
        }
        if kind.is_dir() {
            meta.nlink = 2;
        }
        if kind.is_char_device() || kind.is_block_device() {
            let device = info.rdev();
            meta.rdev = (rustix::fs::major(device), rustix::fs::minor(device));
        }
        self.add(name, meta, &mut io::empty(), 0)
    }

    /// Ends the archive, padded to a page, so that another may follow; returns the stream below.
    pub fn finish(mut self) -> Result<W> {
        self.header(&Meta { nlink: 1, ..Meta::default() }, 11, 0)?;
        self.write(b"TRAILER!!!\0")?;
        self.align(PAGE)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Length of the name with its NULs: one, or as many as bring the data to a page's start.
    fn padded_name_len(&self, name: &[u8], len: u64) -> u64 {
        let plain = name.len() as u64 + 1;
        let end = self.offset + HEADER_LEN + plain;
        let padded = plain + (end.next_multiple_of(PAGE) - end);
        if len >= PAGE && padded <= LONGEST_NAME { padded } else { plain }
    }

    fn header(&mut self, meta: &Meta, name_len: u64, len: u64) -> Result<()> {
        let mut text = String::from("070701");
        let fields = [
            meta.ino,
            meta.mode,
            meta.uid,
            meta.gid,
            meta.nlink,
            meta.mtime,
            u32::try_from(len)?,
            0,
            0,
            meta.rdev.0,
            meta.rdev.1,
            u32::try_from(name_len)?,
            0,
        ];
        for field in fields {
            text.push_str(&format!("{field:08x}"));
        }
        self.write(text.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> Result<()> {
        io::copy(&mut io::repeat(0).take(len), &mut self.out)?;
        self.offset += len;
        Ok(())
    }

    fn align(&mut self, to: u64) -> Result<()> {
        self.zeros(self.offset.next_multiple_of(to) - self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_page_or_more_begins_on_a_page() {
        let mut writer = Writer::new(Vec::new());
        writer.add_dir("bin", 0o755).unwrap();
        writer.add_bytes("bin/small", 0o644, b"small").unwrap();
        writer.add_bytes("bin/large", 0o755, &[b'L'; 5000]).unwrap();
        let archive = writer.finish().unwrap();
        let start = archive.iter().position(|&b| b == b'L').unwrap();
        assert_eq!(archive[start..].iter().take_while(|&&b| b == b'L').count(), 5000);
        assert_eq!(start % 4096, 0);
        assert_eq!(archive.len() % 4096, 0);
    }

    #[test]
    fn headers_have_thirteen_fields_of_eight_digits() {
        let mut writer = Writer::new(Vec::new());
        writer.add_char_device("dev/null", 0o666, (1, 3)).unwrap();
        let archive = writer.finish().unwrap();
        let header = str::from_utf8(&archive[..110]).unwrap();
        assert!(header.starts_with("070701"));
        assert_eq!(&header[14..22], "000021b6");
        assert_eq!(&header[78..94], "0000000100000003");
        assert_eq!(&header[94..102], "00000009");
    }
}
