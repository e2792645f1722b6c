//! Shared memory (shmget(2), shmop(2), shmctl(2)).
//!
//! ```text
//! Table ──Arc──▶ Segment ◀──Arc── VMAs that show it   (each counts itself: `attached`)
//! IPC_RMID, attached > 0: the key goes, the segment stays until the last VMA goes
//! ```

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::sync::SpinLock;
use limits::Resource;
use mm::hugetlb::{self, HugeObject};
use mm::{Backing, FileId, MapRequest, Mappable, Mapping, ShmemObject, VmFlags};
use process::{ThreadGroup, pid};
use security::{Cap, Cred};

use crate::perm::{Found, IPC_CREAT, Object, Perm, PermDs, READ, WRITE, now_s};
use crate::sem::Named;
use crate::state::{Ipc, current};

/// `SHM_RDONLY`: attach for reading only.
pub const SHM_RDONLY: i32 = 0o10000;
/// `SHM_RND`: round the address down.
pub const SHM_RND: i32 = 0o20000;
/// `SHM_REMAP`: replace what is mapped there.
pub const SHM_REMAP: i32 = 0o40000;
/// `SHM_EXEC`: attach for execution too.
pub const SHM_EXEC: i32 = 0o100000;
/// `SHM_HUGETLB`: huge pages of the pool.
const SHM_HUGETLB: i32 = 0o4000;
/// `SHM_NORESERVE`: nobody is promised the pages.
const SHM_NORESERVE: i32 = 0o10000;
/// Where the flags name the size of huge pages (`SHM_HUGE_SHIFT`).
const HUGE_SIZE_SHIFT: u32 = 26;
/// `SHM_DEST` of the mode: it goes with its last attachment.
const MODE_DEST: u32 = 0o1000;
/// `SHM_LOCKED` of the mode.
const MODE_LOCKED: u32 = 0o2000;

struct State {
    perm: Perm,
    attached: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    last_pid: u32,
}

/// A segment.
pub struct Segment {
    /// Itself, for the mappings.
    me: Weak<Segment>,
    state: SpinLock<State>,
    object: Box<dyn Mappable>,
    size: u64,
    creator_pid: u32,
    /// The process that made it, for kernel.shm_rmid_forced.
    creator: Weak<ThreadGroup>,
    ipc: Weak<Ipc>,
}

impl Object for Segment {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// Segments of all namespaces.
static NR_SEGMENTS: AtomicUsize = AtomicUsize::new(0);

fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE as u64)
}

impl Drop for Segment {
    fn drop(&mut self) {
        NR_SEGMENTS.fetch_sub(1, Relaxed);
        if let Some(ipc) = self.ipc.upgrade() {
            ipc.shm_pages.fetch_sub(pages(self.size), Relaxed);
        }
    }
}

/// Who attaches or detaches; nobody where a kernel thread drops an address space.
fn acting_pid() -> u32 {
    process::try_current().map_or(0, |task| task.pid())
}

impl Segment {
    /// Takes it out of the table if it is to go and nobody has it attached.
    fn remove_if_unused(&self) {
        let Some(ipc) = self.ipc.upgrade() else { return };
        let is_forced = ipc.shm_rmid_forced.load(Relaxed) != 0;
        let (id, goes) = {
            let state = self.state.lock();
            let is_orphan = is_forced && self.creator.upgrade().is_none_or(|group| group.is_zombie());
            (state.perm.id, state.attached == 0 && (state.perm.mode & MODE_DEST != 0 || is_orphan))
        };
        if goes {
            ipc.segments.remove(id);
        }
    }
}

impl Mappable for Segment {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.object.mapping()
    }

    fn name(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.perm().key as u32).into_bytes()
    }

    fn id(&self) -> FileId {
        FileId { ino: self.perm().id as u64, ..self.object.id() }
    }

    fn vma_opened(&self) {
        let pid = acting_pid();
        let mut state = self.state.lock();
        state.attached += 1;
        state.atime = now_s();
        state.last_pid = pid;
    }

    fn vma_closed(&self) {
        let pid = acting_pid();
        let is_last = {
            let mut state = self.state.lock();
            state.attached = state.attached.saturating_sub(1);
            state.dtime = now_s();
            state.last_pid = pid;
            state.attached == 0
        };
        if is_last {
            self.remove_if_unused();
        }
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// The last thread of `group` ends: with kernel.shm_rmid_forced its unattached segments go.
pub(crate) fn process_exit(group: &Arc<ThreadGroup>) {
    if NR_SEGMENTS.load(Relaxed) == 0 {
        return;
    }
    let Some(task) = group.live_task() else { return };
    // Only a namespace that was used has a state.
    let Some(ns) = task.ipc() else { return };
    let Some(ipc) = ns.existing_state().and_then(|state| state.clone().downcast::<Ipc>().ok()) else {
        return;
    };
    if ipc.shm_rmid_forced.load(Relaxed) == 0 {
        return;
    }
    for segment in ipc.segments.all() {
        let is_ours = segment.creator.upgrade().is_some_and(|creator| Arc::ptr_eq(&creator, group));
        if is_ours {
            let (id, is_unused) = {
                let state = segment.state.lock();
                (state.perm.id, state.attached == 0)
            };
            if is_unused {
                ipc.segments.remove(id);
            }
        }
    }
}

/// shmget(2). `EINVAL`: a size that is none, or more than the segment has. `ENOSPC`: too many segments or pages.
pub fn shmget(key: i32, size: u64, flags: i32) -> Result<i32> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    loop {
        match ipc.segments.find(key, flags)? {
            Found::Old(segment) => {
                if size > segment.size {
                    return Err(Errno::EINVAL);
                }
                let perm = segment.perm();
                perm.check(&cred, ns.id().owner(), flags as u32 & 0o777)?;
                return Ok(perm.id);
            }
            Found::Missing => match make(&ipc, key, size, flags) {
                Err(Errno::EEXIST) if flags & IPC_CREAT != 0 => {}
                made => return made,
            },
        }
    }
}

fn make(ipc: &Arc<Ipc>, key: i32, size: u64, flags: i32) -> Result<i32> {
    if size == 0 || size > ipc.shm_max.load(Relaxed) {
        return Err(Errno::EINVAL);
    }
    let nr_pages = pages(size);
    let fits = |used: u64| used.checked_add(nr_pages).filter(|sum| *sum <= ipc.shm_all.load(Relaxed));
    ipc.shm_pages.fetch_update(Relaxed, Relaxed, fits).map_err(|_| Errno::ENOSPC)?;
    let bytes = match nr_pages.checked_mul(PAGE_SIZE as u64).filter(|bytes| *bytes <= i64::MAX as u64) {
        Some(bytes) => bytes,
        None => {
            ipc.shm_pages.fetch_sub(nr_pages, Relaxed);
            return Err(Errno::ENOMEM);
        }
    };
    let task = process::current();
    let cred = task.cred();
    let object = make_object(bytes, flags, &cred).inspect_err(|_| {
        ipc.shm_pages.fetch_sub(nr_pages, Relaxed);
    })?;
    let mut object = Some(object);
    let mut make = |id, me: &Weak<Segment>| {
        let perm = Perm::new(key, id, flags as u32, &cred);
        let state = State { perm, attached: 0, atime: 0, dtime: 0, ctime: now_s(), last_pid: 0 };
        Segment {
            me: me.clone(),
            state: SpinLock::new("ipc.shm", state),
            object: object.take().unwrap_or_else(|| Box::new(ShmemObject::new(bytes))),
            size,
            creator_pid: task.pid(),
            creator: Arc::downgrade(task.group()),
            ipc: Arc::downgrade(ipc),
        }
    };
    let mut is_made = false;
    let added = ipc.segments.add_cyclic(key, ipc.shm_mni.load(Relaxed), |id, me| {
        is_made = true;
        NR_SEGMENTS.fetch_add(1, Relaxed);
        make(id, me)
    });
    if added.is_err() && !is_made {
        ipc.shm_pages.fetch_sub(nr_pages, Relaxed);
    }
    Ok(added?.perm().id)
}

/// The memory of a new segment. `EINVAL`: huge pages of a size that there is not. `EPERM`: the caller may not have huge
/// pages. `ENOMEM`: there are not so many.
fn make_object(bytes: u64, flags: i32, cred: &Cred) -> Result<Box<dyn Mappable>> {
    if flags & SHM_HUGETLB == 0 {
        return Ok(Box::new(ShmemObject::new(bytes)));
    }
    if ![0, hugetlb::SHIFT].contains(&(flags as u32 >> HUGE_SIZE_SHIFT & 0x3f)) {
        return Err(Errno::EINVAL);
    }
    let bytes = hugetlb::align_up(bytes).ok_or(Errno::ENOMEM)?;
    // LINUX: others may lock as much as RLIMIT_MEMLOCK says, with a warning that this will end.
    if !cred.capable(Cap::IPC_LOCK) && !cred.in_group(hugetlb::SHM_GROUP.load(Relaxed)) {
        return Err(Errno::EPERM);
    }
    if flags & SHM_NORESERVE != 0 {
        return Ok(Box::new(HugeObject::new(bytes)));
    }
    Ok(Box::new(HugeObject::new_reserved(bytes)?))
}

/// shmat(2): gives the address. `EINVAL`: an address that is not aligned, or where something is. `EACCES`, `ENOMEM`.
pub fn shmat(id: i32, addr: u64, flags: i32) -> Result<u64> {
    let (ns, ipc) = current()?;
    let page = PAGE_SIZE as u64;
    let replaces = flags & SHM_REMAP != 0;
    let mut addr = addr;
    if !addr.is_multiple_of(page) {
        if flags & SHM_RND == 0 {
            return Err(Errno::EINVAL);
        }
        addr -= addr % page;
    }
    if addr == 0 && replaces {
        return Err(Errno::EINVAL);
    }
    let mut wanted = READ;
    let (mut prot, mut may) = (Prot::READ, VmFlags::MAYREAD | VmFlags::MAYEXEC);
    if flags & SHM_RDONLY == 0 {
        wanted |= WRITE;
        prot |= Prot::WRITE;
        may |= VmFlags::MAYWRITE;
    }
    if flags & SHM_EXEC != 0 {
        wanted |= 0o111;
        prot |= Prot::EXEC;
    }
    let task = process::current();
    let segment = ipc.segments.get(id)?;
    segment.perm().check(&task.cred(), ns.id().owner(), wanted)?;
    let mut map_flags = MapFlags::SHARED;
    if addr != 0 {
        addr.checked_add(segment.size).ok_or(Errno::EINVAL)?;
        map_flags |= if replaces { MapFlags::FIXED } else { MapFlags::FIXED_NOREPLACE };
    }
    let object = segment.me.upgrade().ok_or(Errno::EIDRM)?;
    let request = MapRequest {
        addr,
        flags: map_flags,
        backing: Backing::file(object),
        may,
        ..MapRequest::anonymous(pages(segment.size) * page, prot)
    };
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    mm.map(request).map_err(|errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno })
}

/// shmdt(2): detaches the segment whose first page was attached at `addr`. `EINVAL`: there is none.
pub fn shmdt(addr: u64) -> Result<()> {
    if !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let mm = process::current().mm().ok_or(Errno::ESRCH)?;
    let mut found: Option<(*const Segment, u64)> = None;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut is_full = false;
    mm.for_each_raw(addr, |vma| {
        if found.is_some_and(|(_, size)| vma.start.saturating_sub(addr) >= size) {
            return ControlFlow::Break(());
        }
        let object = vma.attr.backing.object().and_then(|object| object.as_any());
        let Some(segment) = object.and_then(|any| any.downcast_ref::<Segment>()) else {
            return ControlFlow::Continue(());
        };
        // It must be where the attachment put it: its offset is its distance from `addr`.
        let is_in_place = vma.start >= addr && vma.start - addr == vma.attr.offset;
        let is_same = found.is_none_or(|(known, _)| core::ptr::eq(known, segment));
        if is_in_place && is_same {
            found = Some((core::ptr::from_ref(segment), pages(segment.size) * PAGE_SIZE as u64));
            if parts.try_reserve(1).is_err() {
                is_full = true;
                return ControlFlow::Break(());
            }
            parts.push((vma.start, vma.len()));
        }
        ControlFlow::Continue(())
    });
    if is_full {
        return Err(Errno::ENOMEM);
    }
    if parts.is_empty() {
        return Err(Errno::EINVAL);
    }
    parts.into_iter().try_for_each(|(start, len)| mm.unmap(start, len))
}

/// A segment as `IPC_STAT` shows it.
pub struct SegmentInfo {
    /// Identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: PermDs,
    /// Bytes.
    pub size: u64,
    /// Times of the last attachment, detachment, and change.
    pub times: [i64; 3],
    /// Who made it and who attached or detached last, as the caller sees them.
    pub pids: [u32; 2],
    /// How often it is attached.
    pub attached: u64,
    /// Pages that it has in memory.
    pub resident: u64,
    /// Pages that it has in swap.
    pub swapped: u64,
}

impl Segment {
    /// How many pages it has in memory, and in swap.
    fn pages(&self) -> (u64, u64) {
        self.object.mapping().map_or((0, 0), |mapping| (mapping.nr_pages(), mapping.nr_swapped()))
    }

    pub(crate) fn info(&self, reader: &security::UserNs) -> SegmentInfo {
        let (resident, swapped) = self.pages();
        let (info, last_pid) = {
            let state = self.state.lock();
            let info = SegmentInfo {
                id: state.perm.id,
                perm: state.perm.show(reader),
                size: self.size,
                times: [state.atime, state.dtime, state.ctime],
                pids: [0; 2],
                attached: state.attached,
                resident,
                swapped,
            };
            (info, state.last_pid)
        };
        SegmentInfo { pids: [self.creator_pid, last_pid].map(pid::visible), ..info }
    }
}

/// `IPC_STAT`, `SHM_STAT`, `SHM_STAT_ANY`.
pub fn stat(named: Named) -> Result<SegmentInfo> {
    let (ns, ipc) = current()?;
    let segment = match named {
        Named::Id(id) => ipc.segments.get(id)?,
        Named::Index(index) | Named::AnyIndex(index) => ipc.segments.at(index)?,
    };
    let cred = process::current().cred();
    if !matches!(named, Named::AnyIndex(_)) {
        segment.perm().check(&cred, ns.id().owner(), READ)?;
    }
    Ok(segment.info(&cred.user_ns))
}

/// `IPC_SET`. `EPERM`: not the owner.
pub fn set_perm(id: i32, perm: &PermDs) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let segment = ipc.segments.get(id)?;
    let mut state = segment.state.lock();
    state.perm.check_owner(&cred, ns.id().owner())?;
    state.perm.set(perm, &cred)?;
    state.ctime = now_s();
    Ok(())
}

/// `IPC_RMID`: it goes, at once or with its last attachment. `EPERM`: not the owner.
pub fn remove(id: i32) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let segment = ipc.segments.get(id)?;
    let key = {
        let mut state = segment.state.lock();
        state.perm.check_owner(&cred, ns.id().owner())?;
        state.perm.mode |= MODE_DEST;
        core::mem::replace(&mut state.perm.key, 0)
    };
    if key != 0 {
        ipc.segments.forget_key(key);
    }
    segment.remove_if_unused();
    Ok(())
}

/// Whether `SHM_LOCK` or `SHM_UNLOCK` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Keep it in memory.
    On,
    /// Do not.
    Off,
}

/// `SHM_LOCK` and `SHM_UNLOCK`. `EPERM`: neither owner nor `CAP_IPC_LOCK`, or no locked memory is allowed.
/// `ENOMEM`: it is larger than the locked memory that is allowed.
///
/// The pages of a locked segment do not go to swap. LINUX: those that are there come back at `SHM_UNLOCK`; here each when
/// it is used.
pub fn lock(id: i32, lock: Lock) -> Result<()> {
    let (ns, ipc) = current()?;
    let task = process::current();
    let cred = task.cred();
    let segment = ipc.segments.get(id)?;
    let mut state = segment.state.lock();
    if !cred.ns_capable(ns.id().owner(), Cap::IPC_LOCK) {
        if cred.euid != state.perm.uid && cred.euid != state.perm.cuid {
            return Err(Errno::EPERM);
        }
        if lock == Lock::On && task.group().rlimits().cur(Resource::Memlock) == 0 {
            return Err(Errno::EPERM);
        }
    }
    let mapping = segment.object.mapping();
    // Huge pages of the pool stay anyway.
    let is_new =
        lock == Lock::On && state.perm.mode & MODE_LOCKED == 0 && !mapping.is_some_and(|m| m.is_huge());
    if is_new && !cred.capable(Cap::IPC_LOCK) {
        // LINUX: what the user has locked otherwise counts, too.
        let limit = task.group().rlimits().cur(Resource::Memlock) / PAGE_SIZE as u64;
        if pages(segment.size) > limit {
            return Err(Errno::ENOMEM);
        }
    }
    match lock {
        Lock::On => state.perm.mode |= MODE_LOCKED,
        Lock::Off => state.perm.mode &= !MODE_LOCKED,
    }
    if let Some(mapping) = mapping {
        mapping.set_locked(lock == Lock::On);
    }
    Ok(())
}

/// `IPC_INFO`: the five numbers of `struct shminfo64`, and the highest index in use.
pub fn limits() -> Result<([u64; 5], i32)> {
    let (_, ipc) = current()?;
    let segments = u64::from(ipc.shm_mni.load(Relaxed));
    let info = [ipc.shm_max.load(Relaxed), 1, segments, segments, ipc.shm_all.load(Relaxed)];
    Ok((info, ipc.segments.usage().1))
}

/// `SHM_INFO`: segments, their pages, the pages in memory, and those in swap; and the highest index in use.
pub fn usage() -> Result<([u64; 4], i32)> {
    let (_, ipc) = current()?;
    let (used, highest) = ipc.segments.usage();
    let add = |sum: (u64, u64), pages: (u64, u64)| (sum.0 + pages.0, sum.1 + pages.1);
    let (resident, swapped) = ipc.segments.all().iter().map(|segment| segment.pages()).fold((0, 0), add);
    Ok(([used as u64, ipc.shm_pages.load(Relaxed), resident, swapped], highest))
}
