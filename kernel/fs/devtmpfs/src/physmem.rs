//! Physical memory as a file: /dev/mem (mem(4)), as Linux has it with `STRICT_DEVMEM`.
//!
//! ```text
//! address              read(2)               write(2)       mmap(2)
//! below 1 MiB, RAM     zeroes                goes nowhere   zeroes, read-only
//! below 1 MiB, others  the firmware's bytes  EPERM          the bytes at the first touch, read-only; not the screen's
//! RAM above            EPERM                 EPERM          EPERM
//! beyond all RAM       EFAULT                EFAULT         EPERM
//! ```
//!
//! No frame that the allocator manages is ever shown: not what a program's page could become, nor the start-up code of
//! the other CPUs, which lies in low memory.
//!
//! LINUX: a mapping shows RAM below 1 MiB as it is, writes reach it and the firmware's bytes, and devices' memory that
//! no driver has claimed can be mapped.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use hal::boot::{self, LOW_END};
use hal::frame::Frame;
use hal::sync::Once;
use hal::uio::{Dest, Src};
use hal::{PAGE_SIZE, PhysAddr};
use mm::{Backing, FaultError, FileId, Mappable, VmFlags};
use security::Cap;
use vfs::rw::seek_unsized;
use vfs::{File, FileOps, OpenRequest, Whence};

const PAGE: u64 = PAGE_SIZE as u64;
/// The memory of the screen (PC): what is there changes and is written for a purpose, so a copy is no use.
const SCREEN: Range<u64> = 0xa_0000..0xc_0000;

/// Who may open it. `EPERM`: not without `CAP_SYS_RAWIO`.
pub(crate) fn open(request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
    if request.cred.capable(Cap::SYS_RAWIO) { Ok(Arc::new(PhysMem)) } else { Err(Errno::EPERM) }
}

/// What a page of physical memory is to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Memory that programs may know of, but not look into.
    LowRam,
    /// Tables and code of the firmware.
    Firmware,
    /// Anything else.
    Denied,
}

fn kind_of(page: u64) -> Kind {
    if page >= LOW_END {
        Kind::Denied
    } else if boot::is_ram(page..page + PAGE) {
        Kind::LowRam
    } else {
        Kind::Firmware
    }
}

/// The bytes from `pos` on in its page, `len` at most.
fn in_page(pos: u64, len: usize) -> usize {
    len.min((PAGE - pos % PAGE) as usize)
}

/// The end of a transfer of `len` bytes. `EFAULT`: beyond all memory.
fn check_end(pos: u64, len: usize) -> Result<u64> {
    pos.checked_add(len as u64).filter(|end| *end <= boot::ram_end()).ok_or(Errno::EFAULT)
}

/// `EFAULT`: less than `len` bytes could be told.
fn whole(told: usize, len: usize) -> Result<()> {
    if told < len { Err(Errno::EFAULT) } else { Ok(()) }
}

struct PhysMem;

impl FileOps for PhysMem {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let end = check_end(pos, dst.remaining())?;
        let mut at = pos;
        while at < end {
            let len = in_page(at, (end - at) as usize);
            match kind_of(at & !(PAGE - 1)) {
                // LINUX: a page that is denied makes an error of the whole, also behind others.
                Kind::Denied => return Err(Errno::EPERM),
                Kind::LowRam => whole(dst.put_zero(len)?, len)?,
                Kind::Firmware => {
                    let mut bytes = Vec::new();
                    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
                    bytes.resize(len, 0);
                    boot::read_firmware(PhysAddr(at), &mut bytes).ok_or(Errno::EFAULT)?;
                    whole(dst.put_bytes(&bytes)?, len)?;
                }
            }
            at += len as u64;
        }
        Ok((at - pos) as usize)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let end = check_end(pos, src.remaining())?;
        let mut at = pos;
        while at < end {
            if kind_of(at & !(PAGE - 1)) != Kind::LowRam {
                return Err(Errno::EPERM);
            }
            let len = in_page(at, (end - at) as usize);
            src.advance(len);
            at += len as u64;
        }
        Ok((at - pos) as usize)
    }

    fn mmap_at(&self, file: &Arc<File>, offset: u64, len: u64) -> Result<Backing> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        let is_screen = offset < SCREEN.end && SCREEN.start < end;
        if end > LOW_END || is_screen {
            return Err(Errno::EPERM);
        }
        Ok(Backing::file(Arc::new(LowMemory(file.clone()))))
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        seek_unsized(file, offset, whence)
    }
}

/// A mapping of it.
struct LowMemory(Arc<File>);

impl Mappable for LowMemory {
    fn mapping(&self) -> Option<&Arc<mm::Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        self.0.display_name()
    }

    fn id(&self) -> FileId {
        Mappable::id(&*self.0)
    }

    fn extra_flags(&self) -> VmFlags {
        VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::DONTDUMP
    }

    fn may_share_writable(&self) -> bool {
        false
    }

    fn fault(&self, offset: u64, _write: bool) -> core::result::Result<Frame, FaultError> {
        /// Of RAM.
        static ZEROES: Once<Frame> = Once::new();
        /// Of the firmware, by number of the page: one copy for all mappings.
        static FIRMWARE: [Once<Frame>; (LOW_END / PAGE) as usize] =
            [const { Once::new() }; (LOW_END / PAGE) as usize];
        match kind_of(offset) {
            Kind::LowRam => shown(&ZEROES, || Frame::alloc_zeroed().ok_or(FaultError::Oom)),
            Kind::Firmware => {
                let page = FIRMWARE.get((offset / PAGE) as usize).ok_or(FaultError::Bus)?;
                shown(page, || copy_of_firmware(PhysAddr(offset)))
            }
            Kind::Denied => Err(FaultError::Bus),
        }
    }
}

/// What `page` shows, made at the first touch; a failure is not kept.
fn shown(
    page: &'static Once<Frame>,
    make: impl FnOnce() -> core::result::Result<Frame, FaultError>,
) -> core::result::Result<Frame, FaultError> {
    if let Some(frame) = page.get() {
        return Ok(frame.clone());
    }
    let frame = make()?;
    Ok(page.call_once(|| frame).clone())
}

/// A page of what the firmware left at `at`.
fn copy_of_firmware(at: PhysAddr) -> core::result::Result<Frame, FaultError> {
    let frame = Frame::alloc_user().ok_or(FaultError::Oom)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(PAGE_SIZE).map_err(|_| FaultError::Oom)?;
    bytes.resize(PAGE_SIZE, 0);
    boot::read_firmware(at, &mut bytes).ok_or(FaultError::Bus)?;
    frame.write(0, &bytes);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_low_addresses_are_shown() {
        assert_eq!(kind_of(0), Kind::Firmware, "the first page is nobody's");
        assert_eq!(kind_of(PAGE), Kind::LowRam);
        assert_eq!(kind_of(LOW_END), Kind::Denied);
        assert_eq!(kind_of(!(PAGE - 1)), Kind::Denied);
    }

    #[test]
    fn transfers_end_at_a_page_and_at_the_end_of_memory() {
        assert_eq!((in_page(0, 9000), in_page(4000, 9000), in_page(4000, 5)), (4096, 96, 5));
        assert_eq!(check_end(10, 20), Ok(30));
        assert_eq!(check_end(boot::ram_end(), 1), Err(Errno::EFAULT));
        assert_eq!(check_end(u64::MAX, 1), Err(Errno::EFAULT));
    }
}
