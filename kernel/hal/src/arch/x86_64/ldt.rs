//! Local descriptor tables.
//!
//! A page table owns at most one [`Ldt`], which never changes: who edits it publishes another one and has every CPU
//! that uses the page table load that, before the old one is freed.
//!
//! ```text
//! editing CPU                                 CPU that activates the page table
//!   publish the new table                       set its bit in `active`      (B of `paging::tlb`)
//!   read `active`, call those CPUs   (A)        read the table's LDT, load it: the new one, or (A) calls
//! ```
//!
//! # Invariants
//!
//! - L1: LDTR of a CPU is null, or covers the [`Ldt`] of the page table in its slot of `paging::tlb`, which is loaded.
//! - L2: every entry is 0 or a data or code segment of user privilege with the accessed bit set, so the CPU never writes
//!   to a table. All are of 32 bits; code that is present does not conform: it runs as user code.
//! - L3: [`write_selectors`](super::thread) loads only what [`loadable`] has accepted with interrupts off: loading it
//!   cannot fault. Likewise `exception::leave` returns to what [`descriptor`] showed it with interrupts off.
//!
//! Source: Intel SDM vol. 3 ch. 3.4.5 (descriptors), 3.5.1 (descriptor tables).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{cpu, gdt};
use crate::cpu::MAX_CPUS;
use crate::descriptor::{Descriptor, PRIVILEGE};
use crate::error::NoMemory;
use crate::segment::{MAX_SEGMENTS, Segment, Selectors};
use crate::sync::SpinLock;

/// The bit of a selector that chooses the local table.
const LOCAL: u16 = 4;

/// One table of descriptors, never empty.
#[derive(Debug)]
struct Ldt {
    entries: Vec<u64>,
}

/// The place of a page table's LDT.
#[derive(Debug)]
pub(super) struct Slot {
    owner: SpinLock<Option<Arc<Ldt>>>,
    /// The same, for CPUs that load it. Changes under the lock.
    published: AtomicPtr<Ldt>,
}

/// What each CPU has in LDTR, or null. Touched by its own CPU only, with interrupts off.
static LOADED: [AtomicPtr<Ldt>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

impl Slot {
    /// No table.
    pub(super) const fn new() -> Slot {
        Slot { owner: SpinLock::new("hal.ldt", None), published: AtomicPtr::new(ptr::null_mut()) }
    }

    fn current(&self) -> Option<Arc<Ldt>> {
        self.owner.lock().clone()
    }

    /// Puts `new` where `old` is and gives `old` back, to be dropped when no CPU has it loaded; `Err` when somebody else
    /// was faster.
    fn replace(&self, old: Option<&Arc<Ldt>>, new: Arc<Ldt>) -> Result<Option<Arc<Ldt>>, Arc<Ldt>> {
        let mut owner = self.owner.lock();
        let same = match (owner.as_ref(), old) {
            (Some(now), Some(old)) => Arc::ptr_eq(now, old),
            (now, old) => now.is_none() && old.is_none(),
        };
        if !same {
            return Err(new);
        }
        // SeqCst: pairs with (A) and (B).
        self.published.store(Arc::as_ptr(&new).cast_mut(), Ordering::SeqCst);
        Ok(owner.replace(new))
    }

    /// Sets the entry `index`, `None` to clear it. `reload` makes every CPU that uses the page table call [`switch`].
    ///
    /// # Panics
    ///
    /// When `index` is not below [`MAX_SEGMENTS`].
    pub(super) fn set(
        &self,
        index: usize,
        segment: Option<&Segment>,
        reload: impl FnOnce(),
    ) -> Result<(), NoMemory> {
        assert!(index < MAX_SEGMENTS, "no selector reaches this entry");
        loop {
            let old = self.current();
            let present = old.as_ref().map_or(&[][..], |ldt| &ldt.entries);
            let len = present.len().max(index + 1);
            let mut entries = Vec::new();
            entries.try_reserve_exact(len).map_err(|_| NoMemory)?;
            entries.extend_from_slice(present);
            entries.resize(len, 0);
            entries[index] = segment.map_or(0, |segment| Descriptor::of(segment).0);
            match self.replace(old.as_ref(), Arc::new(Ldt { entries })) {
                Ok(replaced) => {
                    reload();
                    // L1: every CPU has loaded the new one.
                    drop(replaced);
                    return Ok(());
                }
                Err(late) => drop(late),
            }
        }
    }

    /// Takes over the table of `from`; this slot's page table is not in use yet.
    pub(super) fn copy_from(&self, from: &Slot) {
        if let Some(ldt) = from.current() {
            // Tables never change, so both can have one.
            let _first = self.replace(None, ldt);
        }
    }

    /// Appends all descriptors to `to`.
    pub(super) fn read(&self, to: &mut Vec<u64>) -> Result<(), NoMemory> {
        if let Some(ldt) = self.current() {
            to.try_reserve_exact(ldt.entries.len()).map_err(|_| NoMemory)?;
            to.extend_from_slice(&ldt.entries);
        }
        Ok(())
    }
}

/// Loads the table in `slot`, whose page table this CPU has just loaded (L1). Interrupts are off.
#[inline]
pub(super) fn switch(slot: &Slot) {
    let new = slot.published.load(Ordering::SeqCst);
    let loaded = &LOADED[cpu::current_id() as usize];
    if new.is_null() && loaded.load(Ordering::Relaxed).is_null() {
        return;
    }
    load(new);
}

/// Loads none: the page table goes out of CR3. Interrupts are off.
pub(super) fn unload() {
    if !LOADED[cpu::current_id() as usize].load(Ordering::Relaxed).is_null() {
        load(ptr::null_mut());
    }
}

#[cold]
fn load(ldt: *mut Ldt) {
    LOADED[cpu::current_id() as usize].store(ldt, Ordering::Relaxed);
    // SAFETY: null, or published by a page table that this CPU is loading, which owns it until this CPU has loaded
    // another one (L1): its bit in `active` was set before the pointer was read.
    let table = unsafe { ldt.as_ref() };
    let range = table.map(|table| (table.entries.as_ptr() as u64, table.entries.len() * 8));
    // SAFETY: interrupts are off, and L1 keeps the table where it is for as long as LDTR points to it.
    unsafe { gdt::load_ldt(range) };
}

/// What `selector` leads to on this CPU; of what belongs to the kernel, nothing. Interrupts are off for as long as that
/// shall stay true.
pub(super) fn descriptor(selector: u16) -> Descriptor {
    if selector & LOCAL == 0 {
        return gdt::user_descriptor(selector | PRIVILEGE);
    }
    let ldt = LOADED[cpu::current_id() as usize].load(Ordering::Relaxed);
    // SAFETY: L1: what LDTR covers is alive, and with interrupts off it stays loaded.
    let table = unsafe { ldt.as_ref() };
    let entry = table.and_then(|table| table.entries.get(usize::from(selector >> 3)));
    Descriptor(entry.copied().unwrap_or(0))
}

/// `selectors` with null for those that would fault in DS, ES, FS or GS. Interrupts are off until they are loaded.
pub(super) fn loadable(selectors: Selectors) -> Selectors {
    let is_null = |selector: u16| selector & !PRIVILEGE == 0;
    selectors.map(
        |selector| {
            if is_null(selector) || descriptor(selector).is_loadable() { selector } else { 0 }
        },
    )
}
