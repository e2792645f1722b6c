//! What probes in programs need to know of an address space: where code of a file is mapped, and when it comes to be.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use hal::paging::Entry;
use hal::sync::Once;
use hal::{PageRange, UserAddr};

use crate::fault::Need;
use crate::mapping::{Mapping, page_flags};
use crate::remote::Secrets;
use crate::space::Mm;
use crate::swap;
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

    /// The page caches that `range` shows the code of and that are `wanted`, which is asked with `space` held for reading.
    /// `ENOMEM`.
    pub fn code_in(
        &self,
        range: Range<u64>,
        wanted: impl Fn(&Arc<Mapping>) -> bool,
    ) -> Result<Vec<Arc<Mapping>>> {
        let mut found: Vec<Arc<Mapping>> = Vec::new();
        let space = self.space.read();
        for vma in space.set.overlapping(range).filter(|vma| is_code(vma)) {
            let Some(mapping) = vma.attr.backing.mapping().filter(|mapping| wanted(mapping)) else {
                continue;
            };
            if !found.iter().any(|known| Arc::ptr_eq(known, mapping)) {
                found.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                found.push(mapping.clone());
            }
        }
        Ok(found)
    }

    /// The addresses in `range` where the byte at `offset` of `mapping` is mapped as code; as code that cannot be written,
    /// where `unwritable` asks for that. Takes `space` for reading. `ENOMEM`.
    pub fn code_places(
        &self,
        mapping: &Arc<Mapping>,
        offset: u64,
        range: Range<u64>,
        unwritable: bool,
    ) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        let space = self.space.read();
        for vma in space.set.overlapping(range.clone()) {
            let is_it = is_code(vma)
                && !(unwritable && vma.attr.flags.contains(VmFlags::WRITE))
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

    /// Whether the page at `addr` is, or is in swap as, a copy that is not the file's own. Nothing is faulted in.
    pub fn has_private_copy(&self, addr: u64) -> bool {
        let Some(page) = PageRange::page_of(UserAddr(addr)) else { return false };
        match self.page_table().cursor(page).query(page.start()) {
            Entry::Present { frame, .. } => {
                frame.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0
            }
            Entry::Special(value) => swap::is_swap(value),
            Entry::None | Entry::Huge(_) => false,
        }
    }

    /// The byte of code at `addr`, as a debugger sees it. May sleep, but waits for no watcher of the memory.
    ///
    /// `EFAULT`: there is none, or it is not for others. `ENOMEM`.
    pub fn read_code(&self, addr: u64) -> Result<u8> {
        let need = Need { force: true, unwatched: true, ..Need::READ };
        let mut byte = [0];
        self.access(addr, need, Secrets::Hidden, |frame| {
            frame.read(UserAddr(addr).page_offset(), &mut byte);
        })?;
        let [byte] = byte;
        Ok(byte)
    }

    /// Replaces the byte of code at `addr` in a private copy of its page, as a debugger does. May sleep, but waits for no
    /// watcher of the memory.
    ///
    /// `EFAULT`: there is none, or it is not for others. `ENOMEM`.
    pub fn write_code(&self, addr: u64, byte: u8) -> Result<()> {
        let need = Need { force: true, unwatched: true, ..Need::WRITE };
        self.access(addr, need, Secrets::Hidden, |frame| {
            frame.write(UserAddr(addr).page_offset(), &[byte]);
        })?;
        Ok(())
    }

    /// Whether there ever was a probe in this address space, or in one that it was forked from.
    #[inline]
    pub fn has_probes(&self) -> bool {
        self.has_probes.load(Ordering::Relaxed)
    }

    /// There will be a probe in this address space.
    pub fn expect_probes(&self) {
        self.has_probes.store(true, Ordering::Relaxed);
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
