//! The address space of a process.
//!
//! [`Mm`] joins the VMA set (what should be there), the page table (what is there) and the counters.
//!
//! # Locks, outermost first
//!
//! ```text
//! inode lock (vfs)
//!   Mm::space               RwSem: faults and walks read, edits write; may be held while reading a page from disk
//!     a part of it          RwSem: what a fault of one of several threads takes instead (`parts`)
//!       Mapping::filling    sleeps
//!         page-table cursor spin; nothing that sleeps below
//!           Mapping::pages  spin
//! ```
//!
//! What an edit takes out of the set (and with it the last reference to a file) is dropped after `space`
//! was unlocked, since closing a file may take an inode lock.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use hal::PAGE_SHIFT;
use hal::paging::{Entry, PageTable};
use hal::sync::{Once, SpinLock};
use vma_set::VmaSet;

use crate::commit;
use crate::fork::Copies;
use crate::ksm::Membership;
use crate::layout::Layout;
use crate::mapping::page_flags;
use crate::parts::SpaceLock;
use crate::pkey::Keys;
use crate::vma::{VmFlags, VmaAttr};
use crate::watch::Events;
use crate::{hugetlb, registry, swap};

/// Resource limits of the process that an address space obeys, in bytes; `u64::MAX` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`.
    pub data: u64,
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; `u64::MAX` for a process with `CAP_IPC_LOCK`.
    pub memlock: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20, memlock: 8 << 20 }
    }
}

/// What `Mm::space` guards.
#[derive(Debug)]
pub(crate) struct Space {
    pub set: VmaSet<VmaAttr>,
    pub layout: Layout,
    pub limits: Limits,
    /// Flags of each new VMA (mlockall with `MCL_FUTURE`).
    pub def_flags: VmFlags,
    /// Largest `set.bytes()` so far.
    pub hiwater_vm: u64,
    /// Protection keys in use.
    pub keys: Keys,
    /// To be told once unlocked; see `watch`.
    pub events: Events,
}

/// Resident pages by kind.
#[derive(Debug, Default)]
pub(crate) struct Rss {
    pub anon: AtomicI64,
    pub file: AtomicI64,
    pub shmem: AtomicI64,
    /// Not resident: in swap.
    pub swap: AtomicI64,
    /// Huge pages of the pool, in small pages; no part of what is resident.
    pub hugetlb: AtomicI64,
    hiwater: AtomicI64,
}

/// Changes of [`Rss`] that an operation collects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RssDelta {
    pub anon: i64,
    pub file: i64,
    pub shmem: i64,
    pub swap: i64,
    pub hugetlb: i64,
}

impl RssDelta {
    /// Notes that `entry` was taken out of a page table.
    #[inline]
    pub fn count_gone(&mut self, entry: &Entry) {
        match entry {
            Entry::Present { frame, .. } => self.count(frame.meta().flags.load(Ordering::Relaxed), -1),
            Entry::Huge(_) if hugetlb::is_pooled(entry) => {
                self.hugetlb -= hal::frame::HUGE_FRAMES as i64;
            }
            Entry::Huge(huge) => {
                self.count(huge.meta().flags.load(Ordering::Relaxed), -(hal::frame::HUGE_FRAMES as i64));
            }
            Entry::Special(value) if swap::is_swap(*value) => {
                swap::put(*value);
                self.swap -= 1;
            }
            _ => {}
        }
    }

    /// Counts `n` pages with the frame flags `flags`.
    #[inline]
    pub fn count(&mut self, flags: u32, n: i64) {
        if flags & page_flags::HUGETLB != 0 {
            self.hugetlb += n;
        } else if flags & page_flags::ANON != 0 {
            self.anon += n;
        } else if flags & page_flags::SHMEM != 0 {
            self.shmem += n;
        } else if flags & page_flags::FILE != 0 {
            self.file += n;
        }
    }
}

impl Rss {
    pub fn apply(&self, delta: RssDelta) {
        let Self { anon, file, shmem, swap, hugetlb, .. } = self;
        let changes = [
            (anon, delta.anon),
            (file, delta.file),
            (shmem, delta.shmem),
            (swap, delta.swap),
            (hugetlb, delta.hugetlb),
        ];
        for (counter, n) in changes {
            if n != 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// Lets the peak begin anew at what is resident now.
    pub fn reset_peak(&self) {
        self.hiwater.store(self.sum(), Ordering::Relaxed);
    }

    fn sum(&self) -> i64 {
        self.anon.load(Ordering::Relaxed)
            + self.file.load(Ordering::Relaxed)
            + self.shmem.load(Ordering::Relaxed)
    }

    /// Notes the peak; called before pages go.
    pub fn note_peak(&self) -> i64 {
        let now = self.sum();
        if now > self.hiwater.load(Ordering::Relaxed) {
            self.hiwater.fetch_max(now, Ordering::Relaxed);
        }
        self.hiwater.load(Ordering::Relaxed)
    }
}

/// Sizes of an address space in pages, for /proc/PID/{stat,statm,status} and getrusage(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in proc_pid_status(5)")]
pub struct Counters {
    pub total_vm: u64,
    pub hiwater_vm: u64,
    pub data: u64,
    pub stack: u64,
    pub exec: u64,
    pub locked: u64,
    pub rss_anon: u64,
    pub rss_file: u64,
    pub rss_shmem: u64,
    pub swap: u64,
    pub hugetlb: u64,
    pub hiwater_rss: u64,
    pub map_count: u64,
}

impl Counters {
    /// All resident pages.
    #[inline]
    pub fn rss(&self) -> u64 {
        self.rss_anon + self.rss_file + self.rss_shmem
    }
}

/// The address space of a process; see the module's front page.
pub struct Mm {
    page_table: Arc<PageTable>,
    pub(crate) space: SpaceLock,
    pub(crate) rss: Rss,
    /// Names this address space for as long as it lives (futex keys).
    id: u64,
    slot: usize,
    auxv: SpinLock<Vec<u64>>,
    /// Bytes of all VMAs when one was last made.
    pub(crate) total_vm: AtomicU64,
    /// Whether guard markers were ever set (madvise).
    pub(crate) has_guards: AtomicBool,
    /// Whether a huge page of shared memory ever was mapped by one entry.
    pub(crate) has_shared_huge: AtomicBool,
    /// Whether pages ever went to swap.
    pub(crate) has_swapped: AtomicBool,
    /// Whether pages of it were ever pinned for long.
    pub(crate) has_pinned: AtomicBool,
    /// Commands that membarrier(2) was registered for.
    membarrier: AtomicU32,
    /// [`Prefs`], as bits.
    prefs: AtomicU32,
    /// Whether [`crate::ksm`] looks at it.
    pub(crate) ksm: Membership,
    companions: [Once<Box<dyn Any + Send + Sync>>; NR_COMPANIONS],
    /// Whether there ever was a probe in it, or in what it was forked from.
    pub(crate) has_probes: AtomicBool,
    /// See [`crate::probe`].
    pub(crate) probe_area: Once<Arc<dyn Any + Send + Sync>>,
}

bitflags::bitflags! {
    /// What a process asked of its memory with prctl(2); a child and the next program inherit it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prefs: u32 {
        /// `PR_MDWE_REFUSE_EXEC_GAIN`: nothing becomes executable that is or was writable.
        const NO_EXEC_GAIN = 1;
        /// `PR_MDWE_NO_INHERIT`: a child of fork does not get the one above.
        const NOT_INHERITED = 2;
        /// `PR_SET_THP_DISABLE`.
        const NO_HUGE_PAGES = 4;
        /// `PR_THP_DISABLE_EXCEPT_ADVISED`.
        const ADVISED_HUGE_PAGES = 8;
        /// `PR_SET_MEMORY_MERGE`.
        const MERGE_ANY = 16;
    }
}

/// Companions that an address space can have: asynchronous I/O and futexes.
const NR_COMPANIONS: usize = 2;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Mm {
    /// An empty address space. `ENOMEM`: no memory.
    pub fn new() -> Result<Arc<Self>> {
        let layout = Layout { mmap_base: hal::USER_END, ..Layout::default() };
        let mm = Self::unpublished(layout, Limits::default(), Copies::NONE)?;
        mm.publish();
        Ok(mm)
    }

    /// An address space with `copies` that no walk over all of them meets before [`publish`](Self::publish). `ENOMEM`.
    pub(crate) fn unpublished(layout: Layout, limits: Limits, copies: Copies) -> Result<Arc<Self>> {
        let page_table = Arc::new(PageTable::new().ok_or(Errno::ENOMEM)?);
        let slot = registry::reserve()?;
        let set = copies.into_set();
        let hiwater_vm = set.bytes();
        let def_flags = VmFlags::empty();
        let space = Space {
            set,
            layout,
            limits,
            def_flags,
            hiwater_vm,
            keys: Keys::default(),
            events: Events::default(),
        };
        Ok(hal::in_place::arc(Self {
            page_table,
            space: SpaceLock::new(space),
            rss: Rss::default(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            slot,
            auxv: SpinLock::new("mm.auxv", Vec::new()),
            total_vm: AtomicU64::new(hiwater_vm),
            has_guards: AtomicBool::new(false),
            has_shared_huge: AtomicBool::new(false),
            has_swapped: AtomicBool::new(false),
            has_pinned: AtomicBool::new(false),
            membarrier: AtomicU32::new(0),
            prefs: AtomicU32::new(0),
            ksm: Membership::default(),
            companions: [const { Once::new() }; NR_COMPANIONS],
            has_probes: AtomicBool::new(false),
            probe_area: Once::new(),
        }))
    }

    /// Shows it to walks over all address spaces.
    pub(crate) fn publish(self: &Arc<Self>) {
        registry::publish(self.slot, self);
    }

    /// Several threads will use it: their faults are to run side by side.
    pub fn expect_threads(&self) {
        self.space.expect_threads();
    }

    /// The page table, for `hal::thread`.
    #[inline]
    pub fn page_table(&self) -> &Arc<PageTable> {
        &self.page_table
    }

    /// A number that no other address space had or will have.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a higher floor keeps with this address space, made by `make` at the first call; it ends with the last
    /// reference to the address space, and a fork does not copy it. `None`: [`NR_COMPANIONS`] of other types are there.
    pub fn companion<T: Any + Send + Sync>(&self, make: impl Fn() -> T) -> Option<&T> {
        // The first free place, unless another thread fills it first with something else.
        self.companions.iter().find_map(|place| place.call_once(|| Box::new(make())).downcast_ref())
    }

    /// The companion of this type, if there is one.
    #[inline]
    pub fn known_companion<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.companions.iter().map_while(Once::get).find_map(|companion| companion.downcast_ref())
    }

    /// The commands that membarrier(2) was registered for, as bits; a fork copies them.
    pub fn membarrier(&self) -> &AtomicU32 {
        &self.membarrier
    }

    /// What the process asked for.
    pub fn prefs(&self) -> Prefs {
        Prefs::from_bits_truncate(self.prefs.load(Ordering::Relaxed))
    }

    /// Replaces what the process asked for.
    pub fn set_prefs(&self, prefs: Prefs) {
        self.prefs.store(prefs.bits(), Ordering::Relaxed);
    }

    /// Takes over what survives fork and exec; the mappings that are there stay as they are. May sleep.
    pub fn inherit_prefs(&self, from: &Mm) {
        let mut prefs = from.prefs();
        if prefs.contains(Prefs::NOT_INHERITED) {
            prefs -= Prefs::NO_EXEC_GAIN | Prefs::NOT_INHERITED;
        }
        self.set_prefs(prefs);
        if prefs.contains(Prefs::MERGE_ANY) {
            self.space.edit().def_flags |= VmFlags::MERGEABLE;
            self.ksm.join();
        }
    }

    /// Whether a mapping with `old` rights may not get `new` ones (`PR_SET_MDWE`).
    pub(crate) fn denies_exec(&self, old: VmFlags, new: VmFlags) -> bool {
        self.prefs().contains(Prefs::NO_EXEC_GAIN)
            && new.contains(VmFlags::EXEC)
            && (new.contains(VmFlags::WRITE) || !old.contains(VmFlags::EXEC))
    }

    /// The addresses exec noted. Takes `space` for reading; may sleep.
    pub fn layout(&self) -> Layout {
        self.space.read().layout
    }

    /// Resident pages now, without a walk.
    pub fn rss_pages(&self) -> u64 {
        u64::try_from(self.rss.sum()).unwrap_or(0)
    }

    /// Pages mapped, and of them resident: anonymous, of files, of shared memory. Takes no lock, so the sum of all
    /// mappings is what it was when one was last made.
    pub fn sizes_now(&self) -> [u64; 4] {
        let pages = |n: &AtomicI64| u64::try_from(n.load(Ordering::Relaxed)).unwrap_or(0);
        let total = self.total_vm.load(Ordering::Relaxed) >> PAGE_SHIFT;
        [total, pages(&self.rss.anon), pages(&self.rss.file), pages(&self.rss.shmem)]
    }

    /// Pages in swap. Takes no lock.
    pub fn swap_pages(&self) -> u64 {
        u64::try_from(self.rss.swap.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The most pages that were ever resident, for `ru_maxrss`. Takes no lock.
    pub fn hiwater_rss(&self) -> u64 {
        u64::try_from(self.rss.note_peak()).unwrap_or(0)
    }

    /// Changes the noted addresses (exec, prctl). Takes `space` for writing; may sleep.
    pub fn update_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.space.edit().layout);
    }

    /// Sets the limits to obey from now on. Takes `space` for writing; may sleep.
    pub fn set_limits(&self, limits: Limits) {
        self.space.edit().limits = limits;
    }

    /// Stores the auxiliary vector for /proc/PID/auxv.
    pub fn set_auxv(&self, auxv: Vec<u64>) {
        let old = core::mem::replace(&mut *self.auxv.lock(), auxv);
        drop(old);
    }

    /// A copy of the auxiliary vector, empty when there is none or no memory for it.
    pub fn auxv(&self) -> Vec<u64> {
        let mut copy = Vec::new();
        // Reserve outside of the lock; an auxiliary vector has at most 32 pairs.
        if copy.try_reserve_exact(64).is_ok() {
            copy.extend(self.auxv.lock().iter().take(64));
        }
        copy
    }

    /// Collects the sizes. Takes `space` for reading; may sleep. Cost: a walk over the VMAs.
    pub fn counters(&self) -> Counters {
        let space = self.space.read();
        let pages = |n: &AtomicI64| u64::try_from(n.load(Ordering::Relaxed)).unwrap_or(0);
        let mut c = Counters {
            total_vm: space.set.bytes() >> PAGE_SHIFT,
            hiwater_vm: space.hiwater_vm.max(space.set.bytes()) >> PAGE_SHIFT,
            rss_anon: pages(&self.rss.anon),
            rss_file: pages(&self.rss.file),
            rss_shmem: pages(&self.rss.shmem),
            swap: pages(&self.rss.swap),
            hugetlb: pages(&self.rss.hugetlb),
            hiwater_rss: u64::try_from(self.rss.note_peak()).unwrap_or(0),
            map_count: space.set.len() as u64,
            ..Counters::default()
        };
        for vma in space.set.iter() {
            let (flags, n) = (vma.attr.flags, vma.len() >> PAGE_SHIFT);
            if flags.contains(VmFlags::GROWSDOWN) {
                c.stack += n;
            } else if flags.is_data() {
                c.data += n;
            } else if flags & (VmFlags::EXEC | VmFlags::WRITE) == VmFlags::EXEC {
                c.exec += n;
            }
            if flags.contains(VmFlags::LOCKED) {
                c.locked += n;
            }
        }
        c
    }

    /// Checks that the set is in order and that the page table shows nothing outside of it (tests, debugging).
    ///
    /// # Panics
    ///
    /// When an invariant does not hold.
    pub fn check_invariants(&self) {
        let space = self.space.read();
        space.set.check_invariants();
        let mut cursor = self.page_table.cursor(hal::PageRange::all());
        let mut found = RssDelta::default();
        let mut at = 0;
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            assert!(space.set.at(addr).is_some(), "page at {addr:#x} outside of every VMA");
            match entry {
                Entry::Present { frame, .. } => found.count(frame.meta().flags.load(Ordering::Relaxed), 1),
                Entry::Special(value) if swap::is_swap(value) => found.swap += 1,
                _ => {}
            }
            at = addr + hal::PAGE_SIZE as u64;
        }
        assert_eq!(found.anon, self.rss.anon.load(Ordering::Relaxed), "anonymous RSS");
        assert_eq!(found.file, self.rss.file.load(Ordering::Relaxed), "file RSS");
        assert_eq!(found.shmem, self.rss.shmem.load(Ordering::Relaxed), "shared-memory RSS");
        assert_eq!(found.hugetlb, self.rss.hugetlb.load(Ordering::Relaxed), "huge pages");
        assert_eq!(found.swap, self.rss.swap.load(Ordering::Relaxed), "swapped pages");
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        registry::release(self.slot);
        let mut charged = 0;
        for vma in self.space.get_mut().set.iter() {
            if vma.attr.flags.contains(VmFlags::ACCOUNT) {
                charged += vma.len() >> PAGE_SHIFT;
            }
        }
        commit::uncharge(charged);
        self.for_each_swapped(hal::PageRange::all(), |_, value| swap::put(value));
        // The page table frees its frames when the last thread has left it, the set its files.
        self.page_table.evict();
    }
}

impl core::fmt::Debug for Mm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mm {{ id: {} }}", self.id)
    }
}
