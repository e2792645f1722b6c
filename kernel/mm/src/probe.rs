//! What probes in programs need to know of an address space: where code of a file is mapped, and when it comes to be.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use hal::sync::Once;

use crate::mapping::Mapping;
use crate::space::Mm;
use crate::vma::{VmFlags, Vma};

/// Whether there ever was a probe: before, nobody is told of mappings.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Told of ranges that were mapped, with no lock held. May sleep.
pub type MapWatch = fn(&Mm, Range<u64>);

static WATCH: Once<MapWatch> = Once::new();

/// Registers who is told of mappings from now on.
pub fn watch_maps(watch: MapWatch) {
    WATCH.call_once(|| watch);
    IN_USE.store(true, Ordering::SeqCst);
}

/// Whether a probe can be in code of this VMA.
fn is_code(vma: &Vma) -> bool {
    let flags = VmFlags::HUGETLB | VmFlags::MAYEXEC | VmFlags::MAYSHARE;
    vma.attr.flags & flags == VmFlags::MAYEXEC
}

impl Mm {
    /// Tells that `range` was mapped.
    #[inline]
    pub(crate) fn tell_mapped(&self, range: &Range<u64>) {
        if IN_USE.load(Ordering::Relaxed)
            && let Some(watch) = WATCH.get()
        {
            watch(self, range.clone());
        }
    }

    /// The page cache and the offset in it of the code at `addr`; `None` where no code of a file is. Takes `space` for
    /// reading.
    pub fn code_at(&self, addr: u64) -> Option<(Arc<Mapping>, u64)> {
        let space = self.space.read();
        let vma = space.set.at(addr).filter(|vma| is_code(vma))?;
        Some((vma.attr.backing.mapping()?.clone(), vma.attr.offset_at(vma.start, addr)))
    }

    /// The addresses in `range` where the byte at `offset` of `mapping` is mapped as code that cannot be written. Takes
    /// `space` for reading. `ENOMEM`.
    pub fn code_places(&self, mapping: &Arc<Mapping>, offset: u64, range: Range<u64>) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        let space = self.space.read();
        for vma in space.set.overlapping(range.clone()) {
            let is_it = is_code(vma)
                && !vma.attr.flags.contains(VmFlags::WRITE)
                && vma.attr.backing.mapping().is_some_and(|own| Arc::ptr_eq(own, mapping));
            let Some(distance) = offset.checked_sub(vma.attr.offset).filter(|_| is_it) else { continue };
            let addr = vma.start.saturating_add(distance);
            if addr < vma.end && range.contains(&addr) {
                places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                places.push(addr);
            }
        }
        Ok(places)
    }

    /// What [`Mm::set_probe_area`] was given.
    pub fn probe_area(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.probe_area.get().cloned()
    }

    /// Keeps the area in which probed instructions are carried out; only the first call counts.
    pub fn set_probe_area(&self, area: Arc<dyn Any + Send + Sync>) {
        self.probe_area.call_once(|| area);
    }
}
