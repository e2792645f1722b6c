//! What a VMA is to this crate: flags, backing, and the trait of things that can be mapped.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use bitflags::bitflags;
use hal::frame::Frame;
use vma_set::Attr;

use abi::mman::{MapFlags, Prot};

use crate::fault::FaultError;
use crate::hugetlb::Reserve;
use crate::mapping::Mapping;
use crate::policy::Policy;
use crate::watch::Watch;

/// Bytes kept free below a growing stack (Linux: `stack_guard_gap`, 256 pages).
pub const STACK_GUARD_GAP: u64 = 256 << hal::PAGE_SHIFT;

bitflags! {
    /// State of a VMA. The low ones have the values of Linux's `VM_*`, which /proc/PID/smaps names.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmFlags: u32 {
        /// Readable.
        const READ = 0x1;
        /// Writable.
        const WRITE = 0x2;
        /// Executable.
        const EXEC = 0x4;
        /// Writes reach the backing object and its other mappers.
        const SHARED = 0x8;
        /// mprotect(2) may make it readable.
        const MAYREAD = 0x10;
        /// mprotect(2) may make it writable.
        const MAYWRITE = 0x20;
        /// mprotect(2) may make it executable.
        const MAYEXEC = 0x40;
        /// Mapped with `MAP_SHARED` (`SHARED` is missing when the file is not open for writing).
        const MAYSHARE = 0x80;
        /// Grows towards lower addresses on faults below it.
        const GROWSDOWN = 0x100;
        /// Its frames belong to a device or to the kernel: never counted, copied or dumped.
        const PFNMAP = 0x400;
        /// May hold guard pages (`MADV_GUARD_INSTALL`); stays when they go.
        const MAYBE_GUARD = 0x800;
        /// All of it was clean at the last write of 4 to /proc/PID/clear_refs; a new VMA is not.
        const SOFTCLEAN = 0x1000;
        /// Pages stay in memory.
        const LOCKED = 0x2000;
        /// Device memory.
        const IO = 0x4000;
        /// madvise(2) announced sequential access.
        const SEQ_READ = 0x8000;
        /// madvise(2) announced random access: no fault-around.
        const RAND_READ = 0x1_0000;
        /// Not copied by fork.
        const DONTCOPY = 0x2_0000;
        /// Cannot be grown by mremap(2).
        const DONTEXPAND = 0x4_0000;
        /// Pages are locked as they are touched (`MLOCK_ONFAULT`).
        const LOCKONFAULT = 0x8_0000;
        /// Charged to the commit limit.
        const ACCOUNT = 0x10_0000;
        /// `MAP_NORESERVE`: not charged.
        const NORESERVE = 0x20_0000;
        /// Huge pages of the pool ([`crate::hugetlb`]).
        const HUGETLB = 0x40_0000;
        /// Pages may be merged with equal ones ([`crate::ksm`]).
        const MERGEABLE = 0x80_0000;
        /// A child of fork sees zeroes.
        const WIPEONFORK = 0x200_0000;
        /// Left out of core dumps.
        const DONTDUMP = 0x400_0000;
        /// Pages may vanish under memory pressure (`MAP_DROPPABLE`).
        const DROPPABLE = 0x800_0000;
        /// Was once privately writable, so it may hold pages of its own that a fork must copy.
        const COWED = 0x1000_0000;
        /// Huge pages wanted.
        const HUGEPAGE = 0x2000_0000;
        /// No huge pages wanted.
        const NOHUGEPAGE = 0x4000_0000;
        /// Protected by mseal(2).
        const SEALED = 0x8000_0000;
        /// Any access.
        const ACCESS = Self::READ.bits() | Self::WRITE.bits() | Self::EXEC.bits();
        /// Everything mlock(2) sets.
        const LOCK_MASK = Self::LOCKED.bits() | Self::LOCKONFAULT.bits();
    }
}

impl VmFlags {
    /// The access bits of `prot`.
    pub fn from_prot(prot: Prot) -> Self {
        Self::from_bits_truncate(prot.bits() & 7)
    }

    /// Whether this is a private mapping that may be written.
    pub fn is_private_writable(self) -> bool {
        self & (Self::WRITE | Self::SHARED) == Self::WRITE
    }

    /// Whether the mapping counts as stack, as data or as code for /proc/PID/status.
    pub fn is_data(self) -> bool {
        self & (Self::WRITE | Self::SHARED | Self::GROWSDOWN) == Self::WRITE
    }

    /// With the marks of private writable memory: charged (unless `NORESERVE`) and to be copied by fork.
    pub(crate) fn charged_if_writable(mut self) -> Self {
        if self.is_private_writable() {
            self |= Self::COWED;
            self.set(Self::ACCOUNT, !self.contains(Self::NORESERVE));
        }
        self
    }

    /// The flags mmap(2) gives that outlive the call.
    pub(crate) fn from_map_flags(flags: MapFlags) -> Self {
        let mut vm = Self::empty();
        vm.set(Self::GROWSDOWN, flags.contains(MapFlags::GROWSDOWN));
        vm.set(Self::LOCKED, flags.contains(MapFlags::LOCKED));
        // Who never overcommits does not let a program ask for it.
        let may_overcommit = crate::sysctl::OVERCOMMIT_MEMORY.load(Ordering::Relaxed) != 2;
        vm.set(Self::NORESERVE, flags.contains(MapFlags::NORESERVE) && may_overcommit);
        vm.set(Self::NOHUGEPAGE, flags.contains(MapFlags::STACK));
        vm
    }
}

/// Which file a mapping shows, for /proc/PID/maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode number.
    pub ino: u64,
}

/// Something that can be mapped: an open file, a device, the vDSO.
pub trait Mappable: Send + Sync {
    /// The page cache that backs the mapping; `None` when [`fault`](Self::fault) gives the frames.
    fn mapping(&self) -> Option<&Arc<Mapping>>;

    /// The last column of /proc/PID/maps: a path, or a name such as `[vdso]`. Empty for none.
    fn name(&self) -> Vec<u8>;

    /// Device and inode number; zero for what is not a file.
    fn id(&self) -> FileId {
        FileId::default()
    }

    /// The frame at `offset` of a mapping without a page cache. `write`: the access that needs it.
    ///
    /// The frame is mapped with the rights of the VMA and is not counted in RSS. May sleep.
    fn fault(&self, offset: u64, write: bool) -> Result<Frame, FaultError> {
        let _ = (offset, write);
        Err(FaultError::Bus)
    }

    /// Called for each VMA of this object that comes to be, a split or a fork included.
    #[inline]
    fn vma_opened(&self) {}

    /// Called for each VMA of this object that goes away.
    fn vma_closed(&self) {}

    /// Whether the kernel must not touch its pages on behalf of anyone (memfd_secret(2)).
    fn is_secret(&self) -> bool {
        false
    }

    /// Flags that each of its VMAs has besides.
    fn extra_flags(&self) -> VmFlags {
        VmFlags::empty()
    }

    /// Whether a shared mapping of it may be writable.
    fn may_share_writable(&self) -> bool {
        true
    }

    /// This object as `Any`, for floors that look for their own type behind a VMA.
    fn as_any(&self) -> Option<&dyn core::any::Any> {
        None
    }
}

/// What the pages of a VMA are made of.
#[derive(Clone)]
pub enum Backing {
    /// Zeroes on first touch, private to the address space.
    Anonymous,
    /// A file, a device or another object.
    File(MappedFile),
}

impl Backing {
    /// A mapping of `object`.
    pub fn file(object: Arc<dyn Mappable>) -> Self {
        Self::File(MappedFile::new(object))
    }

    /// The mapped object, if any.
    pub fn object(&self) -> Option<&Arc<dyn Mappable>> {
        match self {
            Self::Anonymous => None,
            Self::File(file) => Some(&file.object),
        }
    }

    /// The page cache behind, if any.
    #[inline]
    pub(crate) fn mapping(&self) -> Option<&Arc<Mapping>> {
        match self {
            Self::Anonymous => None,
            Self::File(file) => file.object.mapping(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (Self::File(a), Self::File(b)) => Arc::ptr_eq(&a.object, &b.object),
            _ => false,
        }
    }
}

impl core::fmt::Debug for Backing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::File(file) => write!(f, "File({:?})", file.object.id()),
        }
    }
}

/// A reference from a VMA to its object. Its life tells the object and the page cache how many VMAs there are.
pub struct MappedFile {
    object: Arc<dyn Mappable>,
    counts: Counts,
}

/// What a reference to an object is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// Nothing: it is a VMA's copy.
    None,
    /// A VMA.
    Vma,
    /// One that may be written in the page cache, so that seals of memfds can deny such.
    Writable,
}

impl MappedFile {
    fn new(object: Arc<dyn Mappable>) -> Self {
        object.vma_opened();
        if let Some(mapping) = object.mapping() {
            mapping.vma_opened();
        }
        Self { object, counts: Counts::Vma }
    }

    /// Takes on a count of writable VMAs that the caller has made (`counted`), and gives back what it was cloned with.
    fn set_writable(&mut self, counted: bool) {
        let Some(mapping) = self.object.mapping() else { return };
        if self.counts == Counts::Writable {
            mapping.drop_writable();
        }
        self.counts = if counted { Counts::Writable } else { Counts::Vma };
    }
}

impl Clone for MappedFile {
    fn clone(&self) -> Self {
        let mut new = Self::new(self.object.clone());
        if self.counts == Counts::Writable
            && let Some(mapping) = self.object.mapping()
        {
            mapping.dup_writable();
            new.counts = Counts::Writable;
        }
        new
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.counts == Counts::None {
            return;
        }
        if let Some(mapping) = self.object.mapping() {
            if self.counts == Counts::Writable {
                mapping.drop_writable();
            }
            mapping.vma_closed();
        }
        self.object.vma_closed();
    }
}

/// What happened to the private pages of a VMA; together with the offset it decides what merges.
///
/// LINUX: the same rule follows there from `anon_vma`: memory that was written to before a fork does not
/// merge in the child with what comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum History {
    /// Nobody wrote to it.
    Fresh = 0,
    /// Written to by this address space.
    Written = 1,
    /// Written to by the parent before fork.
    Inherited = 2,
}

/// A [`History`] that page faults may change while others read the VMA.
#[derive(Debug)]
struct HistoryCell(AtomicU8);

impl Clone for HistoryCell {
    fn clone(&self) -> Self {
        Self(AtomicU8::new(self.0.load(Ordering::Relaxed)))
    }
}

/// A file that a VMA is said to show, though its pages are anonymous (/dev/zero).
pub struct ShownFile(pub Arc<dyn Mappable>);

impl PartialEq for ShownFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl core::fmt::Debug for ShownFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ShownFile({:?})", self.0.id())
    }
}

/// Such a file, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    pub file: ShownFile,
    /// What the VMA's offset is ahead of the offset in the file.
    pub shift: u64,
}

/// The attributes of a VMA.
#[derive(Clone, Debug)]
pub struct VmaAttr {
    /// Rights and state.
    pub flags: VmFlags,
    /// Protection key.
    pub pkey: u8,
    /// Where in the backing object the VMA begins, in bytes. Anonymous memory keeps here the address at which
    /// it began, also when it is moved once it has pages; like Linux's `vm_pgoff`, this decides what merges.
    pub offset: u64,
    /// What it shows.
    pub backing: Backing,
    /// NUMA policy.
    pub(crate) policy: Policy,
    /// The file that anonymous memory came from, for those who ask what is mapped.
    pub(crate) shown_as: Option<Arc<Shown>>,
    /// Name of anonymous memory (`PR_SET_VMA_ANON_NAME`).
    pub(crate) name: Option<Arc<Vec<u8>>>,
    /// Who makes its faults good, when user space does.
    pub(crate) watch: Option<Watch>,
    /// Huge pages that a private mapping was promised; none for a child of fork.
    pub(crate) reserve: Option<Arc<Reserve>>,
    history: HistoryCell,
}

impl Attr for VmaAttr {
    fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.wrapping_add(bytes);
    }

    #[inline]
    fn merges(&self, len: u64, next: &Self) -> bool {
        // LINUX: device mappings (VM_SPECIAL) never merge.
        (self.flags ^ next.flags) - (VmFlags::SOFTCLEAN | VmFlags::MAYBE_GUARD | VmFlags::COWED)
            == VmFlags::empty()
            && self.offset.wrapping_add(len) == next.offset
            && self.pkey == next.pkey
            && self.policy == next.policy
            && self.name == next.name
            && self.shown_as == next.shown_as
            && self.watch == next.watch
            && self.backing.is_same(&next.backing)
            && !self.flags.intersects(VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND)
            && match (self.history(), next.history()) {
                (a, b) if a == b => true,
                (History::Inherited, _) | (_, History::Inherited) => false,
                _ => true,
            }
    }

    fn absorb(&mut self, gone: &Self) {
        if !gone.flags.contains(VmFlags::SOFTCLEAN) {
            self.flags -= VmFlags::SOFTCLEAN;
        }
        self.flags |= gone.flags & (VmFlags::MAYBE_GUARD | VmFlags::COWED);
        if gone.history() != History::Fresh && self.history() == History::Fresh {
            self.history = gone.history.clone();
        }
    }

    fn can_cut(&self, bytes: u64) -> bool {
        !self.flags.contains(VmFlags::HUGETLB) || bytes.is_multiple_of(crate::hugetlb::SIZE)
    }

    fn guard(&self) -> u64 {
        if self.flags.contains(VmFlags::GROWSDOWN) { STACK_GUARD_GAP } else { 0 }
    }
}

impl VmaAttr {
    /// Attributes with protection key 0. `counted`: the caller has counted a writable shared VMA.
    pub(crate) fn new(flags: VmFlags, offset: u64, mut backing: Backing, counted: bool) -> Self {
        if let Backing::File(file) = &mut backing {
            file.set_writable(counted);
        }
        let history = HistoryCell(AtomicU8::new(History::Fresh as u8));
        Self {
            flags,
            pkey: 0,
            offset,
            backing,
            policy: Policy::default(),
            shown_as: None,
            name: None,
            watch: None,
            reserve: None,
            history,
        }
    }

    /// What faults need of it: a copy that is no VMA of its object and holds no promise.
    pub(crate) fn uncounted(&self) -> Self {
        let backing = match &self.backing {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File(file) => {
                Backing::File(MappedFile { object: file.object.clone(), counts: Counts::None })
            }
        };
        Self {
            flags: self.flags,
            pkey: self.pkey,
            offset: self.offset,
            backing,
            policy: self.policy,
            shown_as: None,
            name: None,
            watch: None,
            reserve: None,
            history: self.history.clone(),
        }
    }

    /// What happened to its private pages.
    pub(crate) fn history(&self) -> History {
        match self.history.0.load(Ordering::Relaxed) {
            0 => History::Fresh,
            1 => History::Written,
            _ => History::Inherited,
        }
    }

    /// Notes that a private page was made; whoever edits the set holds it for writing and so sees it.
    #[inline]
    pub(crate) fn note_written(&self) {
        if self.history.0.load(Ordering::Relaxed) == History::Fresh as u8 {
            self.history.0.store(History::Written as u8, Ordering::Relaxed);
        }
    }

    /// The attributes that a child of fork gets.
    pub(crate) fn inherit(&self) -> Self {
        let mut copy = self.clone();
        copy.reserve = None;
        if self.history() != History::Fresh && !self.flags.contains(VmFlags::WIPEONFORK) {
            copy.history = HistoryCell(AtomicU8::new(History::Inherited as u8));
        } else {
            copy.history = HistoryCell(AtomicU8::new(History::Fresh as u8));
        }
        copy
    }

    /// The object that it shows, or is said to show, and where in it the VMA begins.
    pub fn shown(&self) -> Option<(&Arc<dyn Mappable>, u64)> {
        let alias =
            || self.shown_as.as_ref().map(|shown| (&shown.file.0, self.offset.wrapping_sub(shown.shift)));
        self.backing.object().map(|object| (object, self.offset)).or_else(alias)
    }

    /// Whether writes go to pages of the address space's own.
    #[inline]
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::MAYSHARE)
    }

    /// The offset in the backing object of `addr` in a VMA that starts at `start`.
    #[inline]
    pub fn offset_at(&self, start: u64, addr: u64) -> u64 {
        self.offset.wrapping_add(addr.wrapping_sub(start))
    }
}

/// A VMA of an address space.
pub type Vma = vma_set::Vma<VmaAttr>;
