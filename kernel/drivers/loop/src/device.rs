//! One loop device: its settings, its queue and its thread.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use block::{BlockDevice, Caller, Disk, DiskInfo, Driver, Limits, Op, Request};
use hal::UserAddr;
use hal::sync::{IrqLock, Once};
use hal::uio::{Dest, Src};
use hal::user;
use sched::{Mutex, WaitQueue};
use vfs::{File, SyncMode};

use crate::info::{AUTOCLEAR, CONFIG_LEN, INFO_LEN, PARTSCAN, READ_ONLY, Settings};

/// The major of loop devices.
pub const MAJOR: u32 = 7;
/// Requests that wait for the thread before the block layer keeps them.
const MAX_QUEUED: usize = 128;
/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;

// ioctl(2) requests.
const LOOP_SET_FD: u32 = 0x4c00;
const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_SET_STATUS64: u32 = 0x4c04;
const LOOP_GET_STATUS64: u32 = 0x4c05;
const LOOP_CHANGE_FD: u32 = 0x4c06;
const LOOP_SET_CAPACITY: u32 = 0x4c07;
const LOOP_SET_DIRECT_IO: u32 = 0x4c08;
const LOOP_SET_BLOCK_SIZE: u32 = 0x4c09;
const LOOP_CONFIGURE: u32 = 0x4c0a;

// fallocate(2) mode flags.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

/// The file behind a device.
struct Backing {
    file: Arc<File>,
    settings: Settings,
    work: Arc<Work>,
}

/// What the thread works on.
struct Work {
    file: Arc<File>,
    offset: u64,
    queue: IrqLock<VecDeque<Request>>,
    arrived: WaitQueue,
    is_stopped: AtomicBool,
}

/// A loop device.
pub struct LoopDevice {
    number: u32,
    disk: Once<Weak<Disk>>,
    backing: Mutex<Option<Backing>>,
    /// The thread's queue, for [`Driver::queue`], which must not sleep.
    work: IrqLock<Option<Arc<Work>>>,
}

impl LoopDevice {
    /// Makes /dev/loop`number`. `EEXIST`: it is there.
    pub fn add(number: u32) -> Result<Arc<LoopDevice>> {
        let device = Arc::new(LoopDevice {
            number,
            disk: Once::new(),
            backing: Mutex::new("loop.backing", None),
            work: IrqLock::new("loop.work", None),
        });
        let info = DiskInfo {
            name: alloc::format!("loop{number}"),
            major: MAJOR,
            first_minor: number,
            minors: 1,
            parent: String::from("virtual"),
            capacity: 0,
            is_read_only: false,
            nr_queues: 1,
            limits: Limits {
                physical_block_size: 512,
                max_discard_sectors: u32::MAX >> 9,
                discard_granularity: 4096,
                max_write_zeroes_sectors: u32::MAX >> 9,
                has_volatile_cache: true,
                ..Limits::default()
            },
        };
        let disk = Disk::new(info, device.clone());
        device.disk.call_once(|| Arc::downgrade(&disk));
        block::add_disk(&disk)?;
        Ok(device)
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// Has it no file?
    pub fn is_free(&self) -> bool {
        self.backing.lock().is_none()
    }

    pub fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.get().and_then(Weak::upgrade)
    }

    /// The path and settings of the file, for /sys.
    fn set_up(
        &self,
        whole: &Arc<BlockDevice>,
        caller: &Caller,
        fd: i32,
        mut settings: Settings,
    ) -> Result<()> {
        let files = process::current().files().ok_or(Errno::EBADF)?;
        let file = files.get(fd)?;
        if !file.inode().is_regular() && file.inode().kind() != vfs::inode::FileKind::Block {
            return Err(Errno::EINVAL);
        }
        let mut backing = self.backing.lock();
        if backing.is_some() {
            return Err(Errno::EBUSY);
        }
        if !file.flags().can_write() || !caller.can_write {
            settings.flags |= READ_ONLY;
        }
        let work = Arc::new(Work {
            file: file.clone(),
            offset: settings.offset,
            queue: IrqLock::new("loop.queue", VecDeque::new()),
            arrived: WaitQueue::new(),
            is_stopped: AtomicBool::new(false),
        });
        work.queue.lock().try_reserve(MAX_QUEUED).map_err(|_| Errno::ENOMEM)?;
        let (thread, disk) = (work.clone(), self.disk.get().cloned().unwrap_or_default());
        sched::spawn(&alloc::format!("loop{}", self.number), move || run(&thread, &disk))
            .map_err(|_| Errno::ENOMEM)?;
        *self.work.lock() = Some(work.clone());
        whole.set_read_only(settings.flags & READ_ONLY != 0)?;
        let wants_scan = settings.flags & PARTSCAN != 0;
        let sectors = settings.sectors(size_of_file(&file));
        *backing = Some(Backing { file, settings, work });
        drop(backing);
        whole.resize(sectors);
        whole.disk().set_partscan(wants_scan);
        if wants_scan {
            // A file without a table has no partitions.
            let _ = block::scan_partitions(whole);
        }
        Ok(())
    }

    /// Takes the file away. `ENXIO`: there is none.
    fn clear(&self, whole: &Arc<BlockDevice>) -> Result<()> {
        let backing = self.backing.lock().take().ok_or(Errno::ENXIO)?;
        let written = whole.sync();
        *self.work.lock() = None;
        whole.resize(0);
        let _ = block::set_partitions(whole.disk(), &[]);
        whole.disk().set_partscan(false);
        whole.set_read_only(false)?;
        backing.work.is_stopped.store(true, Ordering::SeqCst);
        backing.work.arrived.wake_all();
        written
    }

    fn set_status(&self, whole: &Arc<BlockDevice>, info: UserAddr) -> Result<()> {
        const SETTABLE: u32 = AUTOCLEAR | PARTSCAN;
        let mut bytes = [0; INFO_LEN];
        user::read_bytes(info, &mut bytes)?;
        let new = Settings::parse(&bytes)?;
        let (sectors, wants_scan) = {
            let mut backing = self.backing.lock();
            let backing = backing.as_mut().ok_or(Errno::ENXIO)?;
            if new.offset != backing.settings.offset {
                // The thread has its offset for good.
                return Err(Errno::EBUSY);
            }
            let kept = backing.settings.flags & !SETTABLE;
            // Once looked for, partitions stay.
            let flags = kept | new.flags & SETTABLE | backing.settings.flags & PARTSCAN;
            let wants_scan = flags & PARTSCAN != 0 && backing.settings.flags & PARTSCAN == 0;
            backing.settings = Settings { flags, ..new };
            (backing.settings.sectors(size_of_file(&backing.file)), wants_scan)
        };
        whole.resize(sectors);
        if wants_scan {
            whole.disk().set_partscan(true);
            let _ = block::scan_partitions(whole);
        }
        Ok(())
    }

    fn get_status(&self, info: UserAddr) -> Result<()> {
        let backing = self.backing.lock();
        let backing = backing.as_ref().ok_or(Errno::ENXIO)?;
        let inode = backing.file.inode();
        let bytes = backing.settings.to_bytes(self.number, (inode.sb().dev(), inode.ino()));
        user::write_bytes(info, &bytes)?;
        Ok(())
    }

    fn configure(&self, whole: &Arc<BlockDevice>, caller: &Caller, config: UserAddr) -> Result<()> {
        let mut bytes = [0; CONFIG_LEN];
        user::read_bytes(config, &mut bytes)?;
        let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let (fd, block_size) = (word(0), word(4));
        if block_size != 0 && block_size != 512 {
            return Err(Errno::EINVAL);
        }
        let info: &[u8; INFO_LEN] = bytes[8..8 + INFO_LEN].try_into().map_err(|_| Errno::EINVAL)?;
        let settings = Settings::parse(info)?;
        if settings.flags & !(READ_ONLY | AUTOCLEAR | PARTSCAN) != 0 {
            return Err(Errno::EINVAL);
        }
        self.set_up(whole, caller, fd as i32, settings)
    }
}

fn size_of_file(file: &File) -> u64 {
    if file.inode().is_regular() {
        return file.inode().size();
    }
    block::by_number(file.inode().rdev()).map_or(0, |device| device.len_bytes())
}

impl Driver for LoopDevice {
    fn attributes(&self) -> Option<(&'static str, Vec<(&'static str, String)>)> {
        let (name, settings) = {
            let backing = self.backing.lock();
            let Backing { file, settings, .. } = backing.as_ref()?;
            (file.path().display(None), settings.clone())
        };
        let flag = |flag: u32| String::from(if settings.flags & flag != 0 { "1" } else { "0" });
        let values = [
            ("autoclear", flag(AUTOCLEAR)),
            ("backing_file", String::from_utf8_lossy(&name).into_owned()),
            ("dio", flag(0)),
            ("offset", format!("{}", settings.offset)),
            ("partscan", flag(PARTSCAN)),
            ("sizelimit", format!("{}", settings.size_limit)),
        ];
        Some(("loop", Vec::from(values)))
    }

    fn queue(&self, _hw: usize, request: Request) -> Result<(), Request> {
        let work = self.work.lock().clone();
        let Some(work) = work else {
            request.complete(Err(Errno::EIO));
            return Ok(());
        };
        {
            let mut queue = work.queue.lock();
            if queue.len() >= MAX_QUEUED {
                return Err(request);
            }
            queue.push_back(request);
        }
        work.arrived.wake_one();
        Ok(())
    }

    fn ioctl(&self, device: &Arc<BlockDevice>, caller: &Caller, cmd: u32, arg: UserAddr) -> Result<usize> {
        let needs_right = matches!(cmd, LOOP_SET_STATUS64 | LOOP_SET_CAPACITY | LOOP_CLR_FD);
        if needs_right && !caller.can_write && !caller.is_admin {
            return Err(Errno::EPERM);
        }
        match cmd {
            LOOP_SET_FD => self.set_up(device, caller, arg.0 as i32, Settings::default()),
            LOOP_CONFIGURE => self.configure(device, caller, arg),
            LOOP_CLR_FD => {
                // Others have it open: the last of them takes the file away.
                if device.nr_openers() > 1 {
                    let mut backing = self.backing.lock();
                    backing.as_mut().ok_or(Errno::ENXIO)?.settings.flags |= AUTOCLEAR;
                    return Ok(0);
                }
                self.clear(device)
            }
            LOOP_SET_STATUS64 => self.set_status(device, arg),
            LOOP_GET_STATUS64 => self.get_status(arg),
            LOOP_SET_CAPACITY => {
                let sectors = {
                    let backing = self.backing.lock();
                    let backing = backing.as_ref().ok_or(Errno::ENXIO)?;
                    backing.settings.sectors(size_of_file(&backing.file))
                };
                device.resize(sectors);
                Ok(())
            }
            LOOP_SET_BLOCK_SIZE if arg.0 == 512 => Ok(()),
            LOOP_SET_DIRECT_IO if arg.0 == 0 => Ok(()),
            LOOP_SET_BLOCK_SIZE | LOOP_SET_DIRECT_IO | LOOP_CHANGE_FD => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }?;
        Ok(0)
    }

    fn closed(&self, whole: &Arc<BlockDevice>) {
        let is_autoclear =
            self.backing.lock().as_ref().is_some_and(|backing| backing.settings.flags & AUTOCLEAR != 0);
        if is_autoclear {
            let _ = self.clear(whole);
        }
    }
}

/// The thread: executes requests until the device is cleared.
fn run(work: &Arc<Work>, disk: &Weak<Disk>) {
    let mut buffer = Vec::new();
    let has_buffer = buffer.try_reserve_exact(CHUNK).is_ok();
    buffer.resize(if has_buffer { CHUNK } else { 0 }, 0);
    loop {
        let next = work.arrived.wait(|| {
            let request = work.queue.lock().pop_front();
            match request {
                Some(request) => Some(Some(request)),
                None => work.is_stopped.load(Ordering::SeqCst).then_some(None),
            }
        });
        let Some(request) = next else { return };
        let result = if has_buffer { execute(work, &request, &mut buffer) } else { Err(Errno::ENOMEM) };
        request.complete(result);
        if let Some(disk) = disk.upgrade() {
            disk.run(0);
        }
    }
}

fn execute(work: &Work, request: &Request, buffer: &mut [u8]) -> Result<()> {
    let file = &work.file;
    let start = work.offset + (request.sector() << block::SECTOR_SHIFT);
    let len = request.nr_sectors() << block::SECTOR_SHIFT;
    match request.op() {
        Op::Flush => file.ops().fsync(file, SyncMode::Data),
        Op::Discard | Op::WriteZeroes => {
            let _exclusive = file.inode().sem.write();
            file.ops().fallocate(file, PUNCH_HOLE | KEEP_SIZE, start, len).map_err(|_| Errno::EOPNOTSUPP)
        }
        Op::Read | Op::Write => transfer(file, request, start, buffer),
    }
}

fn transfer(file: &Arc<File>, request: &Request, mut pos: u64, buffer: &mut [u8]) -> Result<()> {
    for segment in request.segments() {
        let mut done = 0;
        while done < segment.len() as usize {
            let len = (segment.len() as usize - done).min(buffer.len());
            let part = &mut buffer[..len];
            let signed = i64::try_from(pos).map_err(|_| Errno::EIO)?;
            let moved = if request.op() == Op::Read {
                let n = vfs::rw::pread(file, &mut Dest::kernel(part), signed)?;
                // The file may have become shorter: what is missing reads as zeroes, as on Linux.
                part[n..].fill(0);
                segment.write(done, part);
                len
            } else {
                segment.read(done, part);
                vfs::rw::pwrite(file, &mut Src::kernel(part), signed, u64::MAX)?
            };
            if moved == 0 {
                return Err(Errno::EIO);
            }
            done += moved;
            pos += moved as u64;
        }
    }
    Ok(())
}
