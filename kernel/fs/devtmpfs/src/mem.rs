//! Memory devices: null(4), zero, full(4), random(4), urandom; mem(4) is in `physmem`.

use alloc::sync::Arc;

use abi::fs::minor;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::UserAddr;
use hal::uio::{Dest, Src};
use mm::Backing;
use sched::{Interruptible, PollTable};
use security::Cap;
use vfs::dev::{DeviceDriver, DeviceKind, add_node, register_chrdev};
use vfs::{File, FileOps, Inode, OpenRequest, Whence};

use crate::kmsg::Kmsg;
use crate::physmem;

/// The major number of memory devices (Documentation/admin-guide/devices.txt).
const MEM_MAJOR: u32 = 1;
const MEM: u32 = 1;
const NULL: u32 = 3;
const ZERO: u32 = 5;
const FULL: u32 = 7;
const RANDOM: u32 = 8;
const URANDOM: u32 = 9;
const KMSG: u32 = 11;

struct Mem;

impl DeviceDriver for Mem {
    fn open(&self, rdev: u64, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        match minor(rdev) {
            MEM => physmem::open(request),
            NULL => Ok(Arc::new(Null)),
            ZERO => Ok(Arc::new(Zero)),
            FULL => Ok(Arc::new(Full)),
            RANDOM | URANDOM => Ok(Arc::new(Random)),
            KMSG => {
                if request.flags.can_read() {
                    syslog::check(syslog::Action::ReadAll, request.cred)?;
                }
                Ok(Arc::new(Kmsg::new()))
            }
            _ => Err(Errno::ENXIO),
        }
    }
}

/// Registers the driver and announces its devices.
pub(crate) fn register() -> Result<()> {
    register_chrdev(MEM_MAJOR, 0..256, "mem", Arc::new(Mem))?;
    let nodes = [
        ("mem", MEM, 0o600),
        ("null", NULL, 0o666),
        ("zero", ZERO, 0o666),
        ("full", FULL, 0o666),
        ("random", RANDOM, 0o666),
        ("urandom", URANDOM, 0o666),
        ("kmsg", KMSG, 0o644),
    ];
    nodes
        .iter()
        .try_for_each(|(name, minor, mode)| add_node(name, DeviceKind::Char, (MEM_MAJOR, *minor), *mode))
}

fn take_all(src: &mut Src<'_>) -> usize {
    let len = src.remaining();
    src.advance(len);
    len
}

struct Null;

impl FileOps for Null {
    fn read(&self, _file: &File, _dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        Ok(take_all(src))
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }
}

struct Zero;

impl FileOps for Zero {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let len = dst.remaining();
        Ok(dst.put_zero(len)?)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        Ok(take_all(src))
    }

    fn mmap(&self, _file: &Arc<File>) -> Result<Backing> {
        Ok(Backing::Anonymous)
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }
}

struct Full;

impl FileOps for Full {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let len = dst.remaining();
        Ok(dst.put_zero(len)?)
    }

    fn write(&self, _file: &File, _src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        Err(Errno::ENOSPC)
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }
}

/// Bytes made or mixed in at once.
const CHUNK: usize = 256;
/// `RNDGETENTCNT` (random(4)).
const RNDGETENTCNT: u32 = 0x8004_5200;
/// `RNDADDTOENTCNT`, `RNDADDENTROPY`, `RNDZAPENTCNT`, `RNDCLEARPOOL`, `RNDRESEEDCRNG`.
const RND_PRIVILEGED: [u32; 5] = [0x4004_5201, 0x4008_5203, 0x5204, 0x5206, 0x5207];
/// What the pool holds once it is seeded.
const POOL_BITS: i32 = 256;

/// Whether a signal ends a transfer after `done` bytes: it is looked for after each page (random(4)).
fn ends_early(done: usize) -> bool {
    done > 0 && done.is_multiple_of(hal::PAGE_SIZE) && sched::current().is_interrupted(Interruptible::Yes)
}

struct Random;

impl FileOps for Random {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while dst.remaining() > 0 {
            let part = &mut chunk[..CHUNK.min(dst.remaining())];
            random::fill(part);
            match dst.put_bytes(part) {
                Ok(len) => done += len,
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
            if ends_early(done) {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while src.remaining() > 0 && !ends_early(done) {
            match src.take_bytes(&mut chunk) {
                Ok(len) => {
                    random::stir(&chunk[..len]);
                    done += len;
                }
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(done)
    }

    fn poll(&self, _file: &File, _table: &mut PollTable) -> PollEvents {
        PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM
    }

    fn ioctl(&self, file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        match cmd {
            RNDGETENTCNT => {
                hal::user::write(UserAddr(arg as u64), &POOL_BITS)?;
                Ok(0)
            }
            cmd if RND_PRIVILEGED.contains(&cmd) => {
                if file.cred().capable(Cap::SYS_ADMIN) {
                    Ok(0)
                } else {
                    Err(Errno::EPERM)
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }
}
