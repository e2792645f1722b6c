//! The page of each address space in which copies of probed instructions are stepped (`[uprobes]` in /proc/PID/maps).
//!
//! Slot 0 holds a breakpoint: the place to which probed functions return. The others are taken for one step each.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SIZE, UserAddr};
use mm::{Backing, FaultError, MapRequest, Mappable, Mapping, Mm, VmFlags};
use sched::Mutex;

/// The breakpoint instruction.
pub(super) const BREAKPOINT: u8 = 0xcc;
/// Bytes of a slot.
const SLOT_LEN: u64 = 64;
const NR_SLOTS: u32 = (PAGE_SIZE as u64 / SLOT_LEN) as u32;
const _: () = assert!(NR_SLOTS == u64::BITS);

/// What is mapped.
struct Page(Frame);

impl Mappable for Page {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        b"[uprobes]".to_vec()
    }

    fn fault(&self, _offset: u64, _write: bool) -> Result<Frame, FaultError> {
        Ok(self.0.clone())
    }
}

/// The area of one address space.
pub(super) struct Area {
    frame: Frame,
    /// Where it is mapped.
    addr: u64,
    /// The slots that are not taken, as bits.
    free: AtomicU64,
}

/// Held while an address space gets its area, so that it gets one.
static MAKING: Mutex<()> = Mutex::new("perf.uprobe.area", ());

/// A slot, given back when it is dropped.
pub(super) struct Slot {
    area: Arc<Area>,
    number: u32,
}

impl Area {
    /// The area of `mm`, if it has one.
    pub(super) fn existing(mm: &Mm) -> Option<Arc<Self>> {
        let area: Arc<dyn Any + Send + Sync> = mm.probe_area()?;
        area.downcast().ok()
    }

    /// The area of `mm`, which gets one if it has none. `ENOMEM`. May sleep.
    pub(super) fn of(mm: &Mm) -> Result<Arc<Self>> {
        match Self::existing(mm) {
            Some(area) => Ok(area),
            None => Self::at(mm, None),
        }
    }

    /// As [`Area::of`], at the given address if it is made now.
    pub(super) fn at(mm: &Mm, addr: Option<u64>) -> Result<Arc<Self>> {
        let _making = MAKING.lock();
        if let Some(area) = Self::existing(mm) {
            return Ok(area);
        }
        let frame = Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
        frame.write(0, &[BREAKPOINT]);
        let place = if addr.is_some() { MapFlags::FIXED_NOREPLACE } else { MapFlags::empty() };
        let request = MapRequest {
            addr: addr.unwrap_or(0),
            flags: MapFlags::PRIVATE | place,
            backing: Backing::file(Arc::new(Page(frame.clone()))),
            may: VmFlags::MAYREAD | VmFlags::MAYEXEC,
            extra: VmFlags::PFNMAP
                | VmFlags::IO
                | VmFlags::DONTEXPAND
                | VmFlags::DONTCOPY
                | VmFlags::DONTDUMP,
            ..MapRequest::anonymous(PAGE_SIZE as u64, Prot::EXEC)
        };
        let addr = mm.map(request)?;
        let area = Arc::new(Self { frame, addr, free: AtomicU64::new(!1) });
        mm.set_probe_area(area.clone());
        Ok(area)
    }

    /// Where it is.
    pub(super) fn addr(&self) -> u64 {
        self.addr
    }

    /// The address to which probed functions return.
    pub(super) fn trampoline(&self) -> UserAddr {
        UserAddr(self.addr)
    }

    /// Takes a slot; `None`: all are in use.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let lowest = |free: u64| (free != 0).then(|| free & (free - 1));
        let before = self.free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, lowest).ok()?;
        Some(Slot { area: self.clone(), number: before.trailing_zeros() })
    }
}

impl Slot {
    /// Its address.
    pub(super) fn addr(&self) -> u64 {
        self.area.addr + u64::from(self.number) * SLOT_LEN
    }

    /// Puts an instruction in.
    pub(super) fn fill(&self, copy: &[u8]) {
        self.area.frame.write(self.number as usize * SLOT_LEN as usize, copy);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.area.free.fetch_or(1 << self.number, Ordering::Release);
    }
}
