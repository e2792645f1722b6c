//! Disks in memory, for tests and for RAM disks (Linux: brd).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::sync::IrqLock;

use crate::bio::Op;
use crate::device::BlockDevice;
use crate::disk::{Disk, DiskInfo, Driver, Limits};
use crate::request::Request;
use crate::{SECTOR_SHIFT, SECTOR_SIZE, registry, sync};

/// Says what goes wrong: called with the operation, first sector and number of sectors.
pub type Fault = dyn Fn(Op, u64, u64) -> Result<()> + Send + Sync;

/// A disk whose sectors are frames. Requests complete before they return, but for those that are held up.
pub struct MemDisk {
    frames: Vec<Frame>,
    fault: IrqLock<Option<Arc<Fault>>>,
    held: IrqLock<Option<Vec<Request>>>,
}

/// The major of RAM disks.
const RAMDISK_MAJOR: u32 = 1;

impl MemDisk {
    /// A disk of `len` bytes (rounded up to sectors), all zero, that is not registered. `ENOMEM`.
    pub fn new(len: u64, limits: Limits) -> Result<(Arc<MemDisk>, Arc<BlockDevice>)> {
        MemDisk::named("ram", registry::next_index(RAMDISK_MAJOR, 1), len, limits)
    }

    /// As [`MemDisk::new`], with the bytes of `image`.
    pub fn from_image(image: &[u8], limits: Limits) -> Result<(Arc<MemDisk>, Arc<BlockDevice>)> {
        let (memory, device) = MemDisk::new(image.len() as u64, limits)?;
        for (frame, bytes) in memory.frames.iter().zip(image.chunks(PAGE_SIZE)) {
            frame.write(0, bytes);
        }
        Ok((memory, device))
    }

    fn named(base: &str, index: u32, len: u64, limits: Limits) -> Result<(Arc<MemDisk>, Arc<BlockDevice>)> {
        let memory = Arc::new(MemDisk {
            frames: sync::alloc_frames(len)?,
            fault: IrqLock::new("block.memdisk.fault", None),
            held: IrqLock::new("block.memdisk.held", None),
        });
        let info = DiskInfo {
            name: alloc::format!("{base}{index}"),
            major: RAMDISK_MAJOR,
            first_minor: index,
            minors: 1,
            parent: String::from("virtual"),
            capacity: len.div_ceil(SECTOR_SIZE as u64),
            is_read_only: false,
            nr_queues: 1,
            limits,
        };
        let disk = Disk::new(info, memory.clone());
        let device = BlockDevice::new(&disk, None, (RAMDISK_MAJOR, index));
        Ok((memory, device))
    }

    /// Lets `fault` decide about each request, before it is executed.
    pub fn set_fault(&self, fault: impl Fn(Op, u64, u64) -> Result<()> + Send + Sync + 'static) {
        *self.fault.lock() = Some(Arc::new(fault));
    }

    /// No more faults.
    pub fn clear_fault(&self) {
        *self.fault.lock() = None;
    }

    /// Holds up the requests that come.
    pub fn hold(&self) {
        self.held.lock().get_or_insert_default();
    }

    /// Those that were held up, to be given to [`MemDisk::run`]; others that come are not.
    pub fn take_held(&self) -> Vec<Request> {
        self.held.lock().take().unwrap_or_default()
    }

    /// Executes what was held up.
    pub fn let_go(&self) {
        self.take_held().into_iter().for_each(|request| self.run(request));
    }

    /// Executes `request`.
    pub fn run(&self, request: Request) {
        let result = self.execute(&request);
        request.complete(result);
    }

    /// All bytes as they are now.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; self.frames.len() * PAGE_SIZE];
        for (frame, chunk) in self.frames.iter().zip(bytes.chunks_mut(PAGE_SIZE)) {
            frame.read(0, chunk);
        }
        bytes
    }

    fn execute(&self, request: &Request) -> Result<()> {
        let fault = self.fault.lock().clone();
        if let Some(fault) = fault {
            fault(request.op(), request.sector(), request.nr_sectors())?;
        }
        let mut at = (request.sector() as usize) << SECTOR_SHIFT;
        match request.op() {
            Op::Flush => {}
            Op::Discard | Op::WriteZeroes => {
                let end = at + ((request.nr_sectors() as usize) << SECTOR_SHIFT);
                while at < end {
                    let offset = at % PAGE_SIZE;
                    let n = (end - at).min(PAGE_SIZE - offset);
                    self.frames.get(at / PAGE_SIZE).ok_or(Errno::EIO)?.zero(offset..offset + n);
                    at += n;
                }
            }
            op => {
                for segment in request.segments() {
                    let mut bytes = [0; SECTOR_SIZE];
                    for there in (0..segment.len() as usize).step_by(SECTOR_SIZE) {
                        let frame = self.frames.get(at / PAGE_SIZE).ok_or(Errno::EIO)?;
                        if op == Op::Read {
                            frame.read(at % PAGE_SIZE, &mut bytes);
                            segment.write(there, &bytes);
                        } else {
                            segment.read(there, &mut bytes);
                            frame.write(at % PAGE_SIZE, &bytes);
                        }
                        at += SECTOR_SIZE;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Driver for MemDisk {
    fn queue(&self, _hw: usize, request: Request) -> Result<(), Request> {
        if let Some(held) = self.held.lock().as_mut() {
            held.push(request);
            return Ok(());
        }
        self.run(request);
        Ok(())
    }
}
