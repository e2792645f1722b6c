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
//! - L2: every entry is 0 or a data segment of user privilege with the accessed bit set, so the CPU never writes to a
//!   table, and no far jump finds code in one.
//! - L3: [`write_selectors`](super::thread) loads only what [`is_loadable`] has accepted with interrupts off: loading it
//!   cannot fault.
//!
//! Source: Intel SDM vol. 3 ch. 3.4.5 (descriptors), 3.5.1 (descriptor tables).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{cpu, gdt};
use crate::cpu::MAX_CPUS;
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

/// The descriptor of `segment` (L2).
fn descriptor(segment: &Segment) -> u64 {
    /// Data, accessed, S, DPL 3.
    const KIND: u64 = 0xf1;
    let bit = |on: bool, at: u32| u64::from(on) << at;
    let (base, limit) = (u64::from(segment.base), u64::from(segment.limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (KIND & !0x80) << 40
        | bit(segment.writable, 41)
        | bit(segment.grows_down, 42)
        | bit(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bit(segment.available, 52)
        | bit(segment.is_32bit, 54)
        | bit(segment.in_pages, 55)
        | (base >> 24) << 56
}

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
            entries[index] = segment.map_or(0, descriptor);
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

/// Whether `selector` may be loaded into DS, ES, FS or GS without a fault on this CPU. Interrupts are off.
fn is_loadable(selector: u16) -> bool {
    const RPL: u16 = 3;
    if selector & LOCAL == 0 {
        let base = selector & !RPL;
        return base == 0 || [gdt::USER_DS, gdt::USER_CS, gdt::CPU_NUMBER].contains(&(base | RPL));
    }
    const PRESENT: u64 = 1 << 47;
    let ldt = LOADED[cpu::current_id() as usize].load(Ordering::Relaxed);
    // SAFETY: L1: what LDTR covers is alive, and with interrupts off it stays loaded.
    let table = unsafe { ldt.as_ref() };
    let entry = table.and_then(|table| table.entries.get(usize::from(selector >> 3)));
    // L2: data of user privilege.
    entry.is_some_and(|entry| entry & PRESENT != 0)
}

/// `selectors` with null for those that would fault. Interrupts are off until they are loaded.
pub(super) fn loadable(selectors: Selectors) -> Selectors {
    selectors.map(|selector| if is_loadable(selector) { selector } else { 0 })
}
