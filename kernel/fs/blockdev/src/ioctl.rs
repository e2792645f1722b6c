//! ioctl(2) on block devices.

use abi::{Errno, Result};
use block::{BioFlags, BlockDevice, Caller, Partition, SECTOR_SHIFT};
use hal::UserAddr;
use hal::user;
use security::Cap;
use vfs::File;
use vfs::file::FileMode;

use alloc::sync::Arc;

use crate::file::BlockFile;

const HDIO_GETGEO: u32 = 0x0301;
const BLKROSET: u32 = 0x125d;
const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRASET: u32 = 0x1262;
const BLKRAGET: u32 = 0x1263;
const BLKFRASET: u32 = 0x1264;
const BLKFRAGET: u32 = 0x1265;
const BLKSECTGET: u32 = 0x1267;
const BLKSSZGET: u32 = 0x1268;
const BLKPG: u32 = 0x1269;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKSECDISCARD: u32 = 0x127d;
const BLKROTATIONAL: u32 = 0x127e;
const BLKZEROOUT: u32 = 0x127f;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKBSZSET: u32 = 0x4008_1271;
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKGETDISKSEQ: u32 = 0x8008_1280;
const BLKGETZONESZ: u32 = 0x8004_1284;
const BLKGETNRZONES: u32 = 0x8004_1285;

const BLKPG_ADD_PARTITION: i32 = 1;
const BLKPG_DEL_PARTITION: i32 = 2;
const BLKPG_RESIZE_PARTITION: i32 = 3;

pub(crate) fn ioctl(open: &BlockFile, file: &Arc<File>, cmd: u32, arg: UserAddr) -> Result<usize> {
    let device = open.device();
    let limits = device.limits();
    match cmd {
        BLKROGET => put(arg, u32::from(device.is_read_only())),
        BLKGETSIZE | BLKGETSIZE64 => {
            let size = if cmd == BLKGETSIZE { device.nr_sectors() } else { device.len_bytes() };
            user::write(arg, &size)?;
            Ok(0)
        }
        BLKSSZGET => put(arg, limits.logical_block_size),
        BLKPBSZGET => put(arg, limits.physical_block_size),
        BLKIOMIN => put(arg, limits.io_min),
        BLKIOOPT => put(arg, limits.io_opt),
        BLKBSZGET => put(arg, device.block_size()),
        BLKALIGNOFF | BLKDISCARDZEROES | BLKGETZONESZ | BLKGETNRZONES => put(arg, 0),
        BLKRAGET | BLKFRAGET => {
            user::write(arg, &(u64::from(device.disk().read_ahead_kb()) * 2))?;
            Ok(0)
        }
        BLKRASET | BLKFRASET => {
            require_admin(file)?;
            // The argument is the number itself.
            device.disk().set_read_ahead_kb(u32::try_from(arg.0 / 2).unwrap_or(u32::MAX));
            Ok(0)
        }
        BLKSECTGET => {
            user::write(arg, &u16::try_from(limits.max_sectors).unwrap_or(u16::MAX))?;
            Ok(0)
        }
        BLKROTATIONAL => {
            user::write(arg, &u16::from(limits.is_rotational))?;
            Ok(0)
        }
        BLKGETDISKSEQ => {
            user::write(arg, &device.disk().sequence())?;
            Ok(0)
        }
        HDIO_GETGEO => geometry(device, arg),
        BLKROSET => {
            require_admin(file)?;
            device.set_read_only(user::read::<u32>(arg)? != 0)?;
            Ok(0)
        }
        BLKBSZSET => {
            require_admin(file)?;
            device.set_block_size(user::read::<u32>(arg)?)?;
            Ok(0)
        }
        BLKFLSBUF => {
            require_admin(file)?;
            device.sync()?;
            open.drop_cached(0, u64::MAX)?;
            Ok(0)
        }
        BLKRRPART => reread(device, file),
        BLKPG => edit_partition(device, file, arg),
        BLKDISCARD | BLKZEROOUT => clear(open, file, cmd, arg),
        BLKSECDISCARD => Err(Errno::EOPNOTSUPP),
        _ => {
            let caller = Caller {
                is_admin: file.cred().capable(Cap::SYS_ADMIN),
                can_write: file.mode().contains(FileMode::WRITE),
            };
            device.disk().driver().ioctl(device, &caller, cmd, arg)
        }
    }
}

fn put(arg: UserAddr, value: u32) -> Result<usize> {
    user::write(arg, &value)?;
    Ok(0)
}

/// `EACCES`: not an administrator.
fn require_admin(file: &File) -> Result<()> {
    if file.cred().capable(Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EACCES) }
}

/// `struct hd_geometry`, with the heads and sectors that virtual disks pretend to have.
fn geometry(device: &Arc<BlockDevice>, arg: UserAddr) -> Result<usize> {
    const HEADS: u8 = 64;
    const SECTORS: u8 = 32;
    let cylinders = device.disk().capacity() >> 11;
    let mut bytes = [0; 16];
    bytes[0] = HEADS;
    bytes[1] = SECTORS;
    bytes[2..4].copy_from_slice(&(cylinders as u16).to_le_bytes());
    bytes[8..16].copy_from_slice(&device.start().to_le_bytes());
    user::write_bytes(arg, &bytes)?;
    Ok(0)
}

fn reread(device: &Arc<BlockDevice>, file: &File) -> Result<usize> {
    if device.partition().is_some() || !device.disk().has_partscan() {
        return Err(Errno::EINVAL);
    }
    require_admin(file)?;
    device.sync()?;
    block::scan_partitions(device)?;
    Ok(0)
}

/// `struct blkpg_ioctl_arg` and the `struct blkpg_partition` that it points to.
fn edit_partition(device: &Arc<BlockDevice>, file: &File, arg: UserAddr) -> Result<usize> {
    let op = user::read::<i32>(arg)?;
    let data = UserAddr(user::read::<u64>(arg.add(16))?);
    require_admin(file)?;
    if device.partition().is_some() {
        return Err(Errno::EINVAL);
    }
    let (start, len) = (user::read::<i64>(data)?, user::read::<i64>(data.add(8))?);
    let index = u32::try_from(user::read::<i32>(data.add(16))?).ok().filter(|index| *index > 0);
    let index = index.ok_or(Errno::EINVAL)?;
    let disk = device.disk();
    if op == BLKPG_DEL_PARTITION {
        return block::remove_partition(disk, index).map(|()| 0);
    }
    let sectors = |bytes: i64| {
        let bytes = u64::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        let is_whole = bytes.is_multiple_of(u64::from(device.logical_block_size()));
        if is_whole { Ok(bytes >> SECTOR_SHIFT) } else { Err(Errno::EINVAL) }
    };
    let part = Partition { index, start: sectors(start)?, len: sectors(len)?, ..Partition::default() };
    if part.len == 0 {
        return Err(Errno::EINVAL);
    }
    match op {
        BLKPG_ADD_PARTITION => block::add_partition(disk, part),
        BLKPG_RESIZE_PARTITION => block::resize_partition(disk, &part),
        _ => Err(Errno::EINVAL),
    }?;
    Ok(0)
}

/// `BLKDISCARD` and `BLKZEROOUT` of a range of bytes.
fn clear(open: &BlockFile, file: &File, cmd: u32, arg: UserAddr) -> Result<usize> {
    if !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EBADF);
    }
    let device = open.device();
    if cmd == BLKDISCARD && device.limits().max_discard_sectors == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if device.is_read_only() {
        return Err(Errno::EPERM);
    }
    let (start, len) = (user::read::<u64>(arg)?, user::read::<u64>(arg.add(8))?);
    let mask = u64::from(device.logical_block_size()) - 1;
    let end = start.checked_add(len).filter(|end| *end <= device.len_bytes()).ok_or(Errno::EINVAL)?;
    if (start | len) & mask != 0 || len == 0 {
        return Err(Errno::EINVAL);
    }
    open.drop_cached(start, end)?;
    let (sector, nr_sectors) = (start >> SECTOR_SHIFT, len >> SECTOR_SHIFT);
    let done = if cmd == BLKDISCARD {
        device.discard(sector, nr_sectors)
    } else {
        device.write_zeroes(sector, nr_sectors, BioFlags::NO_UNMAP)
    };
    // What was read meanwhile is old.
    let dropped = open.drop_cached(start, end);
    done.and(dropped).map(|()| 0)
}
