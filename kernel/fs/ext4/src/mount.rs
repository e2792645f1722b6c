//! Mounting: the superblock, recovery, orphans.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::{BioFlags, BlockDevice};
use ext4_image::extent::{Mapping as Found, RemoveOutcome};
use ext4_image::inode::{self as disk, ROOT_INO, flags};
use ext4_image::journal::{Log, recover};
use ext4_image::superblock::{self, Incompat, RawSuper};
use ext4_image::{Block, Error, Layout, Support, dir, inline, orphan};
use vfs::dentry::Dentry;
use vfs::device_mounts::{DeviceMounts, Wanted};
use vfs::params::Param;
use vfs::superblock::SbFlags;
use vfs::{FileSystemType, MountRequest, SuperBlock, SuperInit};

use crate::disk::Disk;
use crate::error::errno;
use crate::fs::Fs;
use crate::journal::Journal;
use crate::node::has_blocks;
use crate::options::{self, DataMode, Options};
use crate::state::{State, View};
use crate::superops::Super;

/// `EXT4_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0xef53;

struct Ext4Type {
    name: &'static str,
}

/// ext2 and ext3 file systems are mounted by the same code.
static TYPES: [Ext4Type; 3] =
    [Ext4Type { name: "ext4" }, Ext4Type { name: "ext3" }, Ext4Type { name: "ext2" }];

/// Makes the file-system types known.
pub fn register() -> Result<()> {
    TYPES.iter().try_for_each(|fs_type| vfs::register_fs(fs_type))
}

impl FileSystemType for Ext4Type {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    fn allows_idmap(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let device = block::by_path(request.source)?;
        let this = TYPES.iter().find(|known| known.name == self.name).ok_or(Errno::ENODEV)?;
        let wanted = Wanted { rdev: device.rdev(), fs_type: this.name, flags: request.flags };
        MOUNTED.mount(
            wanted,
            || device.claim("ext4"),
            |claim| open(this, &device, request.data, request.flags, Some(claim)),
        )
    }
}

static MOUNTED: DeviceMounts = DeviceMounts::new("ext4.mounted");

/// What mount(2) says of an image that cannot be used: `EINVAL` unless the device is at fault.
fn mount_errno(device: &BlockDevice, error: Error) -> Errno {
    match error {
        Error::Corrupt(what) | Error::Unsupported(what) => {
            log::error!("ext4 ({}): cannot mount: {what}", device.name());
            Errno::EINVAL
        }
        error => errno(error),
    }
}

/// Opens the file system on `device`; gives its root.
pub(crate) fn open(
    this: &'static dyn FileSystemType,
    device: &Arc<BlockDevice>,
    data: &[u8],
    mut flags: SbFlags,
    claim: Option<block::Claim>,
) -> Result<Arc<Dentry>> {
    let fail = |error| mount_errno(device, error);
    let raw = Disk::new(device.clone(), 12).read_bytes(superblock::OFFSET, superblock::LEN)?;
    let mut layout = Layout::new(&raw, device.len_bytes()).map_err(fail)?;
    if device.logical_block_size() as usize > layout.block_size {
        return Err(Errno::EINVAL);
    }
    let errors = view_u16(&raw, core::mem::offset_of!(RawSuper, errors));
    let options = Options::new(errors).parse(data)?;
    if device.is_read_only() && !flags.contains(SbFlags::RDONLY) {
        return Err(Errno::EACCES);
    }
    if let Support::ReadOnly(what) = layout.support()
        && !flags.contains(SbFlags::RDONLY)
    {
        log::warn!("ext4 ({}): {what}: can be mounted read-only only", device.name());
        return Err(Errno::EROFS);
    }
    let disk = Disk::new(device.clone(), layout.block_bits);
    let needs_recovery = layout.incompat.contains(Incompat::RECOVER);
    let mut recovered = None;
    if layout.journal_ino != 0 {
        recovered = open_journal(&mut layout, &disk, &options, needs_recovery, flags)?;
        if needs_recovery && recovered.is_some() {
            // The superblock may have been in the journal.
            let raw = Disk::new(device.clone(), 12).read_bytes(superblock::OFFSET, superblock::LEN)?;
            layout = Layout::new(&raw, device.len_bytes()).map_err(fail)?;
        }
    }
    let journal = recovered.unwrap_or_else(Journal::none);
    layout.journals_data = options.data == DataMode::Journal;
    layout.heeds_journal_flag = options.no_delay;
    if layout.journals_data && layout.journal_ino == 0 {
        return Err(Errno::EINVAL);
    }
    let fs = load(layout, disk, journal, options, claim).map_err(|error| match error {
        LoadError::Format(error) => fail(error),
        LoadError::NoMemory => Errno::ENOMEM,
    })?;
    if device.is_read_only() {
        flags |= SbFlags::RDONLY;
    }
    let root = make_root(this, device, &fs, flags)?;
    if !flags.contains(SbFlags::RDONLY) {
        if needs_recovery {
            // Replayed: the log is empty, and says so when the file system is next quiet.
            log::info!("ext4 ({}): recovery complete", device.name());
        }
        fs.free_orphans()?;
        fs.start_committer()?;
    }
    Ok(root)
}

fn view_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

enum LoadError {
    Format(Error),
    NoMemory,
}

/// The file system with its groups. Apart, as it is made on the stack.
#[inline(never)]
fn load(
    layout: Layout,
    disk: Disk,
    journal: Journal,
    options: Options,
    claim: Option<block::Claim>,
) -> core::result::Result<Arc<Fs>, LoadError> {
    let mut groups = layout.clone();
    let mut fs = Fs::new(layout, disk, journal, options, claim);
    let state = State::default();
    groups.load_groups(&View { fs: &fs, state: &state }).map_err(|error| match error {
        Error::NoMemory => LoadError::NoMemory,
        error => LoadError::Format(error),
    })?;
    let unused = "groups of a file system in use";
    Arc::get_mut(&mut fs).ok_or(LoadError::Format(Error::Corrupt(unused)))?.layout = groups;
    Ok(fs)
}

fn make_root(
    this: &'static dyn FileSystemType,
    device: &Arc<BlockDevice>,
    fs: &Arc<Fs>,
    flags: SbFlags,
) -> Result<Arc<Dentry>> {
    let max_blocks = if fs.layout.incompat.contains(Incompat::EXTENTS) {
        u64::from(u32::MAX)
    } else {
        ext4_image::max_indirect_blocks(&fs.layout)
    };
    let init = SuperInit {
        fs_type: this,
        dev: device.rdev(),
        magic: MAGIC,
        block_size: fs.layout.block_size as u32,
        max_bytes: (max_blocks << fs.layout.block_bits).min(i64::MAX as u64),
        flags,
    };
    let sb = SuperBlock::new(init, Box::new(Super(fs.clone())));
    fs.sb.call_once(|| Arc::downgrade(&sb));
    // Before the superblock was there nobody could shut it down (`vfs::superblock::device_left`).
    if !fs.disk.device().is_alive() {
        fs.shut_down();
        return Err(Errno::EIO);
    }
    let root = fs.iget(ROOT_INO)?;
    if !root.is_dir() {
        return Err(Errno::EUCLEAN);
    }
    Ok(Dentry::new_root(root))
}

/// Finds the journal, replays it if need be, and gives it ready for use; `None`: for looking only.
#[inline(never)]
fn open_journal(
    layout: &mut Layout,
    disk: &Disk,
    options: &Options,
    needs_recovery: bool,
    flags: SbFlags,
) -> Result<Option<Journal>> {
    let fail = |error| mount_errno(disk.device(), error);
    let is_readonly = flags.contains(SbFlags::RDONLY);
    if options.no_recovery || (needs_recovery && disk.device().is_read_only()) {
        // "noload" is for looking at what is there.
        return if is_readonly { Ok(None) } else { Err(Errno::EROFS) };
    }
    let map = journal_map(layout, disk, options).map_err(fail)?;
    let mut sb = disk.read_block(*map.first().ok_or(Errno::EINVAL)?)?;
    let mut log = Log::parse(sb.bytes(), layout, map.len() as u64).map_err(fail)?;
    let mut sequence = log.sequence();
    if needs_recovery && log.start() != 0 {
        let done = replay(&log, layout, disk, &map).map_err(fail)?;
        log::info!(
            "ext4 ({}): replayed {} transactions with {} blocks",
            disk.device().name(),
            done.nr_transactions,
            done.nr_blocks
        );
        // A transaction that was cut short may have left blocks with the next number.
        sequence = done.next_sequence.wrapping_add(1);
        disk.flush()?;
        finish_recovery(&mut log, &mut sb, layout, disk, &map, sequence)?;
        clear_recover(disk, layout)?;
    }
    if is_readonly && disk.device().is_read_only() {
        return Ok(None);
    }
    if !is_readonly {
        log.set_features(sb.bytes_mut(), layout).map_err(fail)?;
        finish_recovery(&mut log, &mut sb, layout, disk, &map, sequence)?;
    }
    Ok(Some(Journal::new(log, map, sb, sequence)))
}

fn write_journal_super(disk: &Disk, map: &[u64], sb: &Block) -> Result<()> {
    let mut copy = Block::zeroed(sb.bytes().len()).map_err(errno)?;
    copy.bytes_mut().copy_from_slice(sb.bytes());
    let home = *map.first().ok_or(Errno::EINVAL)?;
    disk.write_blocks(&[(home, Arc::new(copy))], BioFlags::FUA)?;
    disk.flush()
}

/// Writes that the log is empty.
fn finish_recovery(
    log: &mut Log,
    sb: &mut Block,
    _layout: &Layout,
    disk: &Disk,
    map: &[u64],
    sequence: u32,
) -> Result<()> {
    log.set_tail(sb.bytes_mut(), sequence, 0).map_err(errno)?;
    write_journal_super(disk, map, sb)
}

/// Device blocks of the journal, whose inode is never part of a transaction, so that it can be read before recovery.
#[inline(never)]
fn journal_map(layout: &Layout, disk: &Disk, options: &Options) -> ext4_image::Result<Vec<u64>> {
    let own = Disk::new(disk.device().clone(), layout.block_bits);
    let plain = Fs::new(layout.clone(), own, Journal::none(), *options, None);
    let state = State::default();
    let view = &View { fs: &plain, state: &state };
    let inode = disk::Inode::load(layout, view, layout.journal_ino)?;
    let nr = inode.size() >> layout.block_bits;
    if !inode.is_regular() || nr < 64 || nr > layout.blocks_count {
        return Err(Error::Corrupt("inode of the journal"));
    }
    let mut map = Vec::new();
    map.try_reserve_exact(nr as usize).map_err(|_| Error::NoMemory)?;
    while (map.len() as u64) < nr {
        match dir::map(layout, view, &inode, map.len() as u32)? {
            Found::Extent(extent) if !extent.is_unwritten => {
                let len = u64::from(extent.len).min(nr - map.len() as u64);
                map.extend(extent.physical..extent.physical + len);
            }
            _ => return Err(Error::Corrupt("hole in the journal")),
        }
    }
    Ok(map)
}

fn replay(
    log: &Log,
    layout: &Layout,
    disk: &Disk,
    map: &[u64],
) -> ext4_image::Result<ext4_image::journal::Recovered> {
    let io = |_: Errno| Error::Io;
    recover(
        log,
        &mut |at, bytes| {
            let place = *map.get(at as usize).ok_or(Error::Corrupt("place in the journal"))?;
            let block = disk.read_block(place).map_err(io)?;
            bytes.copy_from_slice(block.bytes());
            Ok(())
        },
        &mut |home, bytes| {
            if home >= layout.blocks_count {
                return Err(Error::Corrupt("the journal leads out of the file system"));
            }
            let mut block = Block::zeroed(bytes.len())?;
            block.bytes_mut().copy_from_slice(bytes);
            disk.write_blocks(&[(home, Arc::new(block))], BioFlags::empty()).map_err(io)
        },
    )
}

/// Notes in the superblock that the journal needs no replay.
fn clear_recover(disk: &Disk, layout: &Layout) -> Result<()> {
    let (nr, at) = layout.super_place();
    let mut block = disk.read_block(nr)?;
    let bytes = block.bytes_mut().get_mut(at..).ok_or(Errno::EIO)?;
    superblock::clear_recover(bytes).map_err(errno)?;
    disk.write_blocks(&[(nr, Arc::new(block))], BioFlags::FUA)?;
    disk.flush()
}

impl Fs {
    /// Frees the inodes, and the ends of files, that were being deleted when the machine stopped.
    fn free_orphans(self: &Arc<Self>) -> Result<()> {
        let listed = self.look(|layout, view| orphan::listed(layout, view))?;
        let filed = self.look(|layout, view| orphan::filed(layout, view))?;
        if listed.is_empty() && filed.is_empty() {
            return Ok(());
        }
        log::info!("ext4 ({}): {} orphans", self.disk.device().name(), listed.len() + filed.len());
        for ino in listed.into_iter().chain(filed.iter().copied()) {
            let raw = self.look(|layout, view| disk::Inode::load(layout, view, ino))?;
            if raw.nlink() == 0 && ino >= self.layout.first_ino {
                if raw.mode() != 0 {
                    self.delete_inode(ino)?;
                }
                continue;
            }
            self.cut_orphan(ino)?;
        }
        if !filed.is_empty() {
            self.begin()?.run(|layout, txn| orphan::clear_file(layout, txn))?;
        }
        self.begin()?.run(|layout, txn| orphan::forget_list(layout, txn))?;
        self.commit(self.running())
    }

    /// Finishes the truncation of a file that has names.
    fn cut_orphan(&self, ino: u32) -> Result<()> {
        loop {
            let outcome = self.begin()?.run(|layout, txn| {
                let mut raw = disk::Inode::load(layout, txn, ino)?;
                if !has_blocks(layout, &raw) {
                    if raw.is_regular() && raw.has_flags(flags::INLINE_DATA) {
                        inline::cut_file(&mut raw)?;
                    }
                    txn.remove_orphan(layout, &mut raw)?;
                    return Ok(RemoveOutcome::Done);
                }
                let first = raw.size().div_ceil(layout.block_size as u64);
                let first = u32::try_from(first).map_err(|_| Error::Corrupt("size of an orphan"))?;
                let outcome = dir::unmap(layout, txn, &mut raw, first, 1 << 32, 8)?;
                if outcome == RemoveOutcome::Done {
                    txn.remove_orphan(layout, &mut raw)?;
                }
                Ok(outcome)
            })?;
            if outcome == RemoveOutcome::Done {
                return Ok(());
            }
        }
    }
}
