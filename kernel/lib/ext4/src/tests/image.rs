//! An image in memory, changed in place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::extent::{Extent, Mapping, RemoveOutcome};
use crate::inode::{Inode, ROOT_INO, Time};
use crate::*;

pub struct Image {
    pub layout: Layout,
    pub disk: Disk,
}

/// Blocks by number, and what is to be sealed.
pub struct Disk {
    block_size: usize,
    pub bytes: RefCell<Vec<u8>>,
    cache: RefCell<BTreeMap<u64, BlockRef>>,
    dirty: BTreeMap<u64, Seal>,
    held: Vec<(u64, u64)>,
}

impl Blocks for Disk {
    fn read(&self, nr: u64) -> Result<BlockRef> {
        if let Some(block) = self.cache.borrow().get(&nr) {
            return Ok(block.clone());
        }
        let at = nr as usize * self.block_size;
        let bytes = self.bytes.borrow();
        let bytes = bytes.get(at..at + self.block_size).ok_or(Error::Io)?;
        let block = Arc::new(Block::new(bytes.into()));
        self.cache.borrow_mut().insert(nr, block.clone());
        Ok(block)
    }
}

impl Edit for Disk {
    fn write_block(&mut self, nr: u64, seal: Seal) -> Result<&mut Block> {
        self.read(nr)?;
        let before = self.dirty.get(&nr).copied().unwrap_or(seal);
        self.dirty.insert(nr, before.and(seal));
        Block::make_unique(self.cache.get_mut().get_mut(&nr).unwrap())
    }

    fn create(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]> {
        let block = Block::zeroed(self.block_size)?;
        block.set_checked();
        self.cache.get_mut().insert(nr, Arc::new(block));
        self.write(nr, seal)
    }

    fn is_at_hand(&self, nr: u64) -> bool {
        self.cache.borrow().contains_key(&nr)
    }

    fn freed(&mut self, start: u64, count: u64, _what: block::Freed) {
        for nr in start..start + count {
            self.cache.get_mut().remove(&nr);
            self.dirty.remove(&nr);
        }
        self.held.push((start, start + count));
    }

    fn first_held(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let cut = |&(a, b): &(u64, u64)| (a.max(start), b.min(end));
        self.held.iter().map(cut).filter(|(a, b)| a < b).min()
    }

    fn promised(&self) -> u64 {
        0
    }

    fn now(&self) -> u64 {
        1_700_000_000
    }
}

fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nr = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ext4-image-{}-{nr}-{name}", std::process::id()))
}

fn tool(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    Command::new(if sbin.exists() { sbin } else { name.into() })
}

impl Image {
    /// An image made by mke2fs; `None`, with a message, where that is not installed.
    pub fn make(args: &[&str], size: u64, contents: Option<&Path>) -> Option<Self> {
        let path = scratch("image");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let mut command = tool("mke2fs");
        command.env("MKE2FS_DETERMINISTIC", "1").arg("-q").arg("-F").args(args);
        if let Some(contents) = contents {
            command.arg("-d").arg(contents);
        }
        let output = match command.arg(&path).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: mke2fs (package e2fsprogs) cannot run: {error}");
                let _ = std::fs::remove_file(&path);
                return None;
            }
        };
        assert!(output.status.success(), "mke2fs {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        Some(Self::open(bytes).unwrap())
    }

    pub fn open(bytes: Vec<u8>) -> Result<Self> {
        let raw = bytes.get(1024..2048).ok_or(Error::Io)?;
        let mut layout = Layout::new(raw, bytes.len() as u64)?;
        let disk = Disk {
            block_size: layout.block_size,
            bytes: RefCell::new(bytes),
            cache: RefCell::default(),
            dirty: BTreeMap::new(),
            held: Vec::new(),
        };
        layout.load_groups(&disk)?;
        Ok(Self { layout, disk })
    }

    /// Seals what changed and writes it into the image, as the end of a transaction does.
    pub fn commit(&mut self) {
        let dirty = std::mem::take(&mut self.disk.dirty);
        let is_group = |seal: &Seal| matches!(seal, Seal::Groups(_));
        for pass in [false, true] {
            for (&nr, &how) in dirty.iter().filter(|(_, how)| is_group(how) == pass) {
                seal(&self.layout, &mut self.disk, nr, how).unwrap();
            }
        }
        let more = std::mem::take(&mut self.disk.dirty);
        for (nr, _) in dirty.into_iter().chain(more) {
            let block = self.disk.read(nr).unwrap();
            let at = nr as usize * self.layout.block_size;
            self.disk.bytes.borrow_mut()[at..at + self.layout.block_size].copy_from_slice(block.bytes());
        }
        // What is read from now on is checked again.
        self.disk.cache.get_mut().clear();
        self.disk.held.clear();
    }

    pub fn inode(&self, ino: u32) -> Inode {
        Inode::load(&self.layout, &self.disk, ino).unwrap()
    }

    pub fn lookup(&self, dir: u32, name: &str) -> Option<u32> {
        dir::lookup(&self.layout, &self.disk, &self.inode(dir), name.as_bytes()).unwrap().map(|found| found.0)
    }

    /// The inode at an absolute path.
    pub fn path(&self, path: &str) -> u32 {
        path.split('/').filter(|name| !name.is_empty()).fold(ROOT_INO, |dir, name| {
            self.lookup(dir, name).unwrap_or_else(|| panic!("no {name} of {path}"))
        })
    }

    pub fn read_file(&self, ino: u32) -> Vec<u8> {
        let inode = self.inode(ino);
        if inode.has_flags(crate::inode::flags::INLINE_DATA) {
            return crate::inline::file(&inode).unwrap();
        }
        let bs = self.layout.block_size;
        let mut bytes = vec![0; inode.size() as usize];
        for (logical, chunk) in bytes.chunks_mut(bs).enumerate() {
            match dir::map(&self.layout, &self.disk, &inode, logical as u32).unwrap() {
                Mapping::Extent(extent) if !extent.is_unwritten => {
                    let at = extent.physical as usize * bs;
                    chunk.copy_from_slice(&self.disk.bytes.borrow()[at..at + chunk.len()]);
                }
                _ => {}
            }
        }
        bytes
    }

    pub fn create(&mut self, dir: u32, name: &str, mode: u32) -> u32 {
        self.try_create(dir, name, mode).unwrap()
    }

    pub fn try_create(&mut self, dir: u32, name: &str, mode: u32) -> Result<u32> {
        let is_dir = mode & 0o170_000 == 0o040_000;
        let mut parent = self.inode(dir);
        let time = Time { sec: 1_700_000_000, nsec: 5 };
        let nlink = if is_dir { 2 } else { 1 };
        let new = NewInode { mode, uid: 70_000, gid: 3, nlink, time, generation: 77 };
        let mut inode = alloc_inode(&self.layout, &mut self.disk, &parent, &new)?;
        if is_dir {
            dir::init(&self.layout, &mut self.disk, &mut inode, dir)?;
            parent.set_nlink(parent.nlink() + 1);
        }
        let kind = dir::kind_of_mode(mode);
        dir::add(&self.layout, &mut self.disk, &mut parent, name.as_bytes(), inode.ino(), kind)?;
        parent.store(&self.layout, &mut self.disk)?;
        Ok(inode.ino())
    }

    pub fn unlink(&mut self, dir: u32, name: &str) {
        let ino = self.lookup(dir, name).unwrap();
        let mut parent = self.inode(dir);
        dir::remove(&self.layout, &mut self.disk, &mut parent, name.as_bytes()).unwrap();
        let mut inode = self.inode(ino);
        if inode.is_dir() {
            assert!(dir::is_empty(&self.layout, &self.disk, &inode).unwrap());
            parent.set_nlink(parent.nlink() - 1);
            inode.set_nlink(0);
        } else {
            inode.set_nlink(inode.nlink() - 1);
        }
        parent.store(&self.layout, &mut self.disk).unwrap();
        inode.store(&self.layout, &mut self.disk).unwrap();
        if inode.nlink() == 0 {
            self.delete(ino);
        }
    }

    pub fn delete(&mut self, ino: u32) {
        let mut inode = self.inode(ino);
        if !inode.is_short_link(&self.layout) {
            self.cut(&mut inode, 0, 1 << 32);
        }
        xattr::release_block(&self.layout, &mut self.disk, &mut inode).unwrap();
        free_inode(&self.layout, &mut self.disk, inode).unwrap();
    }

    pub fn cut(&mut self, inode: &mut Inode, from: u32, to: u64) {
        while dir::unmap(&self.layout, &mut self.disk, inode, from, to, 3).unwrap() == RemoveOutcome::More {}
    }

    /// Puts `data` into the file at block `logical`, where there is a hole.
    pub fn fill(&mut self, ino: u32, logical: u32, data: &[u8]) -> Result<()> {
        let bs = self.layout.block_size;
        let mut inode = self.inode(ino);
        let mut at = logical;
        for mut rest in [data] {
            while !rest.is_empty() {
                let want = (rest.len().div_ceil(bs) as u32).min(dir::room(&self.layout, &inode, at));
                let (physical, len) = alloc_blocks(&self.layout, &mut self.disk, 0, want)?;
                let take = rest.len().min(len as usize * bs);
                let place = physical as usize * bs;
                self.disk.bytes.borrow_mut()[place..place + take].copy_from_slice(&rest[..take]);
                let extent = Extent { logical: at, len, physical, is_unwritten: false };
                dir::insert_run(&self.layout, &mut self.disk, &mut inode, extent)?;
                at += len;
                rest = &rest[take..];
            }
        }
        let end = u64::from(logical) * bs as u64 + data.len() as u64;
        inode.set_size(inode.size().max(end));
        inode.store(&self.layout, &mut self.disk)
    }

    /// Fails unless e2fsck finds nothing to complain about.
    #[track_caller]
    pub fn fsck(&mut self) {
        self.commit();
        fsck(&self.disk.bytes.borrow());
    }
}

/// Runs e2fsck on a copy of the image; journals are replayed.
#[track_caller]
pub fn fsck(bytes: &[u8]) {
    let path = scratch("check");
    std::fs::write(&path, bytes).unwrap();
    let replay = tool("e2fsck").args(["-E", "journal_only", "-p"]).arg(&path).output().unwrap();
    let output = tool("e2fsck").args(["-f", "-n"]).arg(&path).output().unwrap();
    if !output.status.success() {
        let kept = path.with_extension("bad");
        std::fs::rename(&path, &kept).unwrap();
        panic!(
            "e2fsck on {}:\n{}{}",
            kept.display(),
            String::from_utf8_lossy(&replay.stdout),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    std::fs::remove_file(&path).unwrap();
}

/// Random numbers: xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The image after e2fsck replayed its journal.
pub fn replayed(bytes: &[u8]) -> Vec<u8> {
    let path = scratch("replay");
    std::fs::write(&path, bytes).unwrap();
    let output = tool("e2fsck").args(["-E", "journal_only", "-p"]).arg(&path).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 4), "{}", String::from_utf8_lossy(&output.stdout));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}
