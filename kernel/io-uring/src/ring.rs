//! A ring: the object behind the descriptor of io_uring_setup(2).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::fs::OpenFlags;
use abi::io_uring::{Cqe, Features, MAX_CQ_ENTRIES, MAX_ENTRIES, Params, SetupFlags, Sqe, SqeFlags};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::{Once, SpinLock};
use hal::thread::{self, Slot};
use hashbrown::HashMap;
use limits::UserCounts;
use limits::events::{IO_URING_DISABLED, IO_URING_GROUP};
use mm::Backing;
use sched::{Mutex, PollTable, WaitQueue};
use security::{Cap, Cred};
use vfs::{File, FileMode, FileOps};

use crate::buffers::Groups;
use crate::completion::Completions;
use crate::context::Context;
use crate::fixed::{Fixed, PageCharge};
use crate::job::Job;
use crate::memory::{Memory, Shape, backing};
use crate::ops;
use crate::register::Restrictions;
use crate::request::{self, Request};
use crate::roster::Roster;
use crate::waiting::Waiting;

/// What this kernel can do, as io_uring_setup(2) tells it.
const FEATURES: Features = Features::SINGLE_MMAP
    .union(Features::NODROP)
    .union(Features::SUBMIT_STABLE)
    .union(Features::RW_CUR_POS)
    .union(Features::CUR_PERSONALITY)
    .union(Features::FAST_POLL)
    .union(Features::POLL_32BITS)
    .union(Features::EXT_ARG)
    .union(Features::CQE_SKIP)
    .union(Features::LINKED_FILE)
    .union(Features::RSRC_TAGS)
    .union(Features::REG_REG_RING);

/// The flags that are there. LINUX: those that are not (polling for submissions and for completions, memory of the
/// process's own, ...) are refused as by a version that did not have them.
const KNOWN: SetupFlags = SetupFlags::CQSIZE
    .union(SetupFlags::CLAMP)
    .union(SetupFlags::ATTACH_WQ)
    .union(SetupFlags::R_DISABLED)
    .union(SetupFlags::SUBMIT_ALL)
    .union(SetupFlags::COOP_TASKRUN)
    .union(SetupFlags::TASKRUN_FLAG)
    .union(SetupFlags::SQE128)
    .union(SetupFlags::CQE32)
    .union(SetupFlags::SINGLE_ISSUER)
    .union(SetupFlags::DEFER_TASKRUN)
    .union(SetupFlags::NO_SQARRAY);

/// What submission changes.
pub(crate) struct Submitting {
    /// The next entry to take.
    pub head: u32,
    /// The chain that is being put together.
    pub chain: VecDeque<Box<Request>>,
    /// Completions that nobody was woken for yet.
    pub untold: u32,
}

/// A ring.
pub struct Ring {
    pub(crate) flags: SetupFlags,
    pub(crate) memory: Arc<Memory>,
    pub(crate) cq: Completions,
    /// Completions came.
    pub(crate) wait: WaitQueue,
    pub(crate) submitting: Mutex<Submitting>,
    /// A copy of the head, for poll.
    pub(crate) sq_head: AtomicU32,
    pub(crate) waiting: Mutex<Roster<Arc<Waiting>>>,
    next_key: AtomicU64,
    /// Waits that are over and that the submitter has to come for (`DEFER_TASKRUN`).
    pub(crate) nr_deferred: AtomicU32,
    /// A note of them is on its way and has not been read.
    has_note: AtomicBool,
    /// Somebody has polled it.
    is_polled: AtomicBool,
    /// Requests that were begun and have not ended.
    pub(crate) nr_open: AtomicU32,
    /// Requests that wait for all before them, and those that came after these; each with its chain.
    drained: Mutex<VecDeque<Box<Request>>>,
    nr_drained: AtomicU32,
    /// Timeouts that wait for completions, with the number of these.
    pub(crate) counted: Mutex<Vec<(u32, Weak<Waiting>)>>,
    pub(crate) nr_counted: AtomicU32,
    pub(crate) fixed: Fixed,
    pub(crate) groups: Groups,
    pub(crate) personalities: Mutex<HashMap<u16, Arc<Cred>>>,
    /// Set before it is enabled, if ever.
    pub(crate) restrictions: Once<Restrictions>,
    is_disabled: AtomicBool,
    is_dead: AtomicBool,
    /// The only task that may submit (`SINGLE_ISSUER`); 0 while there is none.
    issuer: AtomicU32,
    /// Who made it: what it makes the kernel keep is theirs.
    pub(crate) user: Arc<UserCounts>,
    /// Its pages count against `RLIMIT_MEMLOCK`.
    _charge: Option<PageCharge>,
    /// The next one in a list of [`Closed`].
    next_closed: SpinLock<Option<Arc<Ring>>>,
}

static CLOSED: Slot<Closed> = Slot::new();

/// Rings whose descriptors a thread closed and that it has yet to end.
///
/// What a ring lets go of at its end may be the last of another ring, and so on without bound: they end one after the
/// other, and the stack does not grow.
struct Closed {
    /// Linked by `next_closed`, the last one first.
    list: SpinLock<Option<Arc<Ring>>>,
    /// The thread is at it, further out on its stack.
    is_ending: AtomicBool,
}

impl Closed {
    fn push(&self, ring: Arc<Ring>) {
        let mut list = self.list.lock();
        *ring.next_closed.lock() = list.take();
        *list = Some(ring);
    }

    fn pop(&self) -> Option<Arc<Ring>> {
        let mut list = self.list.lock();
        let ring = list.take()?;
        *list = ring.next_closed.lock().take();
        Some(ring)
    }
}

/// The last descriptor of `ring` was closed: ends it, or leaves that to the end of another that the thread is at. May
/// sleep.
fn close(ring: &Arc<Ring>) {
    ring.is_dead.store(true, SeqCst);
    let thread = thread::current();
    if thread.slot(&CLOSED).is_none() {
        let new = Closed { list: SpinLock::new("io_uring.closed", None), is_ending: AtomicBool::new(false) };
        // Only the thread itself fills its slot, and it was empty.
        let _ = thread.set_slot(&CLOSED, new);
    }
    let Some(closed) = thread.slot(&CLOSED) else { return ring.end() };
    closed.push(ring.clone());
    if closed.is_ending.swap(true, Relaxed) {
        return;
    }
    while let Some(next) = closed.pop() {
        next.end();
    }
    closed.is_ending.store(false, Relaxed);
}

/// The ring behind `file`. `EOPNOTSUPP`: it is none.
pub fn ring_of(file: &File) -> Result<&Arc<Ring>> {
    file.ops_as::<RingFile>().map(|ops| &ops.0).ok_or(Errno::EOPNOTSUPP)
}

/// Whether `file` is a ring.
pub(crate) fn is_ring(file: &File) -> bool {
    file.ops_as::<RingFile>().is_some()
}

/// May the caller have rings? `EPERM`: kernel.io_uring_disabled says no.
fn check_allowed() -> Result<()> {
    let disabled = IO_URING_DISABLED.load(Relaxed);
    if disabled == 0 {
        return Ok(());
    }
    let group = IO_URING_GROUP.load(Relaxed);
    let is_let = |cred: &Cred| {
        security::capable(cred, Cap::SYS_ADMIN)
            || u32::try_from(group).is_ok_and(|group| cred.in_group(group))
    };
    if disabled == 1 && process::current().with_cred(is_let) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The sizes and flags that `params` ask for. `EINVAL`.
fn shape_of(entries: u32, params: &Params) -> Result<(Shape, SetupFlags)> {
    let flags = SetupFlags::from_bits(params.flags).ok_or(Errno::EINVAL)?;
    let has = |wanted: SetupFlags| flags.contains(wanted);
    let defers = has(SetupFlags::DEFER_TASKRUN);
    if params.resv != [0; 3]
        || !KNOWN.contains(flags)
        || (has(SetupFlags::TASKRUN_FLAG) && !has(SetupFlags::COOP_TASKRUN) && !defers)
        || (defers && !has(SetupFlags::SINGLE_ISSUER))
    {
        return Err(Errno::EINVAL);
    }
    let clamp = |wanted: u32, most: u32| match wanted {
        0 => Err(Errno::EINVAL),
        _ if wanted <= most => Ok(wanted),
        _ if has(SetupFlags::CLAMP) => Ok(most),
        _ => Err(Errno::EINVAL),
    };
    let sq_entries = clamp(entries, MAX_ENTRIES)?.next_power_of_two();
    let cq_entries = if has(SetupFlags::CQSIZE) {
        let wanted = clamp(params.cq_entries, MAX_CQ_ENTRIES)?.next_power_of_two();
        if wanted < sq_entries {
            return Err(Errno::EINVAL);
        }
        wanted
    } else {
        2 * sq_entries
    };
    let shape = Shape {
        sq_entries,
        cq_entries,
        sqe_size: if has(SetupFlags::SQE128) { 128 } else { 64 },
        cqe_size: if has(SetupFlags::CQE32) { 32 } else { 16 },
        has_array: !has(SetupFlags::NO_SQARRAY),
    };
    Ok((shape, flags))
}

/// io_uring_setup(2): makes a ring of `entries` requests, and completes `params`. May sleep.
///
/// `EPERM`: rings are not allowed. `EINVAL`, `EBADF`, `ENOMEM`.
pub fn setup(entries: u32, params: &mut Params) -> Result<Arc<File>> {
    check_allowed()?;
    let (shape, flags) = shape_of(entries, params)?;
    if flags.contains(SetupFlags::ATTACH_WQ) {
        let other = process::current().file(params.wq_fd as i32).map_err(|_| Errno::ENXIO)?;
        ring_of(&other).map_err(|_| Errno::EINVAL)?;
    }
    let ring = Ring::new(shape, flags)?;
    params.sq_entries = shape.sq_entries;
    params.cq_entries = shape.cq_entries;
    params.features = FEATURES.bits();
    params.sq_off = shape.sq_offsets();
    params.cq_off = shape.cq_offsets();
    let cred = process::current().cred();
    vfs::anon::file("[io_uring]", Arc::new(RingFile(ring)), OpenFlags::RDWR | OpenFlags::CLOEXEC, &cred)
}

impl Ring {
    fn new(shape: Shape, flags: SetupFlags) -> Result<Arc<Self>> {
        let (rings, sqes) = shape.pages();
        let charge = PageCharge::new((rings + sqes) as u64)?;
        let memory = Arc::new(Memory::new(shape)?);
        Ok(hal::in_place::arc(Self::build(flags, memory, charge)))
    }

    #[inline(never)]
    fn build(flags: SetupFlags, memory: Arc<Memory>, charge: Option<PageCharge>) -> Self {
        let is_disabled = flags.contains(SetupFlags::R_DISABLED);
        let is_single = flags.contains(SetupFlags::SINGLE_ISSUER);
        let submitting = Submitting { head: 0, chain: VecDeque::new(), untold: 0 };
        let issuer = if is_single && !is_disabled { process::current().tid() } else { 0 };
        Self {
            flags,
            cq: Completions::new(memory.clone()),
            memory,
            wait: WaitQueue::new(),
            submitting: Mutex::new("io_uring.submitting", submitting),
            sq_head: AtomicU32::new(0),
            waiting: Mutex::new("io_uring.waiting", Roster::new()),
            next_key: AtomicU64::new(0),
            nr_deferred: AtomicU32::new(0),
            has_note: AtomicBool::new(false),
            is_polled: AtomicBool::new(false),
            nr_open: AtomicU32::new(0),
            drained: Mutex::new("io_uring.drained", VecDeque::new()),
            nr_drained: AtomicU32::new(0),
            counted: Mutex::new("io_uring.counted", Vec::new()),
            nr_counted: AtomicU32::new(0),
            fixed: Fixed::new(),
            groups: Groups::new(),
            personalities: Mutex::new("io_uring.personalities", HashMap::new()),
            restrictions: Once::new(),
            is_disabled: AtomicBool::new(is_disabled),
            is_dead: AtomicBool::new(false),
            issuer: AtomicU32::new(issuer),
            user: process::cred::user_of(process::current().with_cred(|cred| cred.uid)),
            _charge: charge,
            next_closed: SpinLock::new("io_uring.next_closed", None),
        }
    }

    /// A number for what waits, higher than all before.
    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Relaxed)
    }

    /// Whether nobody can use it any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(SeqCst)
    }

    /// Whether it was made with `R_DISABLED` and not enabled yet.
    pub(crate) fn is_disabled(&self) -> bool {
        self.is_disabled.load(SeqCst)
    }

    /// `IORING_REGISTER_ENABLE_RINGS`. `EBADFD`: it is enabled.
    pub(crate) fn enable(&self) -> Result<()> {
        if self.flags.contains(SetupFlags::SINGLE_ISSUER) {
            let _ = self.issuer.compare_exchange(0, process::current().tid(), SeqCst, SeqCst);
        }
        if self.is_disabled.swap(false, SeqCst) { Ok(()) } else { Err(Errno::EBADFD) }
    }

    /// Whether the caller may use a ring of one submitter. `EEXIST`: it is another.
    pub(crate) fn check_issuer(&self) -> Result<()> {
        if !self.flags.contains(SetupFlags::SINGLE_ISSUER) {
            return Ok(());
        }
        let issuer = self.issuer.load(SeqCst);
        if issuer == 0 || issuer == process::current().tid() { Ok(()) } else { Err(Errno::EEXIST) }
    }

    /// The checks that requests of all kinds share. `EINVAL`, `EOPNOTSUPP`. `EACCES`: a restriction.
    #[inline]
    pub(crate) fn check_entry(&self, sqe: &Sqe) -> Result<()> {
        let flags = SqeFlags::from_bits(sqe.flags).ok_or(Errno::EINVAL)?;
        if !ops::is_supported(sqe.opcode) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(SqeFlags::BUFFER_SELECT) && !ops::may_select(sqe.opcode) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.restrictions.get().map_or(Ok(()), |limits| limits.check_request(sqe.opcode, flags))
    }

    /// Tells the end of a request with `flags`, unless it wants that only of failures. Who waits for completions is not
    /// woken yet; whether there is something to wake them for. May sleep.
    #[inline]
    pub(crate) fn post_end(&self, flags: SqeFlags, cqe: Cqe) -> bool {
        let is_told = cqe.res < 0 || !flags.contains(SqeFlags::CQE_SKIP_SUCCESS);
        if is_told {
            self.cq.post(cqe);
        }
        is_told
    }

    /// The rights that were kept as `id`. `EINVAL`: none were.
    pub(crate) fn personality(&self, id: u16) -> Result<Arc<Cred>> {
        self.personalities.lock().get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// Completions were told: wakes who waits for them.
    pub(crate) fn told(&self) {
        self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
        self.cq.signal();
        crate::timeout::count_completions(self);
    }

    /// A note to be sent, if somebody is interested and none is on its way. Usable in any context.
    pub(crate) fn note(self: &Arc<Self>) -> Option<Note> {
        let is_wanted = self.is_polled.load(SeqCst) || self.cq.has_eventfd();
        (is_wanted && !self.has_note.swap(true, SeqCst)).then(|| Note(self.clone()))
    }

    /// The submitter has come for one of the waits that are over.
    pub(crate) fn was_looked_at(&self) {
        if self.flags.contains(SetupFlags::DEFER_TASKRUN) {
            self.nr_deferred.fetch_sub(1, SeqCst);
        }
    }

    /// A request ended.
    pub(crate) fn ended(&self) {
        self.nr_open.fetch_sub(1, SeqCst);
    }

    /// The first request that waits and passes `test`, the newest first.
    pub(crate) fn find(&self, test: impl Fn(&Job) -> bool) -> Option<Arc<Waiting>> {
        self.find_below(u64::MAX, test)
    }

    /// As [`find`](Self::find) among those that came before `limit`.
    pub(crate) fn find_below(&self, limit: u64, test: impl Fn(&Job) -> bool) -> Option<Arc<Waiting>> {
        self.waiting.lock().below(limit).find(|one| one.is(&test)).cloned()
    }

    /// Lets `request` wait for all before it. Without memory it comes back.
    pub(crate) fn drain(&self, request: Box<Request>) -> Option<Box<Request>> {
        let mut drained = self.drained.lock();
        if drained.try_reserve(1).is_err() {
            return Some(request);
        }
        self.nr_drained.fetch_add(1, SeqCst);
        drained.push_back(request);
        None
    }

    /// Whether requests wait for all before them, so later ones wait, too.
    pub(crate) fn has_drained(&self) -> bool {
        self.nr_drained.load(SeqCst) > 0
    }

    /// The next request that need not wait any more for those before it.
    pub(crate) fn next_drained(&self) -> Option<Box<Request>> {
        if !self.has_drained() {
            return None;
        }
        let mut drained = self.drained.lock();
        let front = drained.front()?;
        let is_alone = self.nr_open.load(SeqCst) == 0;
        if front.job.flags.contains(SqeFlags::IO_DRAIN) && !is_alone {
            return None;
        }
        let next = drained.pop_front()?;
        self.nr_drained.fetch_sub(1, SeqCst);
        self.nr_open.fetch_add(1 + next.rest.len() as u32, SeqCst);
        Some(next)
    }

    /// Cancels the first of those that wait for others and passes `test`; was there one?
    pub(crate) fn cancel_drained(&self, test: impl Fn(&Job) -> bool) -> bool {
        self.cancel_drained_request(|request| test(&request.job))
    }

    fn cancel_drained_request(&self, test: impl Fn(&Request) -> bool) -> bool {
        let mut drained = self.drained.lock();
        let Some(at) = drained.iter().position(|request| test(request)) else { return false };
        let Some(request) = drained.remove(at) else { return false };
        self.nr_drained.fetch_sub(1, SeqCst);
        self.nr_open.fetch_add(1 + request.rest.len() as u32, SeqCst);
        drop(drained);
        request.cancel();
        true
    }

    /// Cancels all that `context` waits for, without doing what was to follow. Others' requests that waited for these
    /// to end are given to their tasks. May sleep.
    pub(crate) fn cancel_of(&self, context: &Arc<Context>) {
        while self.cancel_drained_request(|request| Arc::ptr_eq(&request.context, context)) {}
        self.cancel_waiting(|waiting| waiting.is_of(context));
        while let Some(next) = self.next_drained() {
            request::later(next);
        }
    }

    fn cancel_waiting(&self, test: impl Fn(&Waiting) -> bool) {
        let mut limit = u64::MAX;
        loop {
            let found = self.waiting.lock().below(limit).find(|one| test(one)).cloned();
            let Some(waiting) = found else { return };
            limit = waiting.key();
            if let Some(request) = waiting.take() {
                request.cancel();
            }
        }
    }

    /// Lets go of all that it has. May sleep.
    fn end(&self) {
        while self.cancel_drained(|_| true) {}
        self.cancel_waiting(|_| true);
        let _ = self.fixed.unregister_files();
        let _ = self.fixed.unregister_buffers();
        self.groups.clear();
        let old = self.cq.set_eventfd(None);
        drop(old);
    }

    fn readiness(&self) -> PollEvents {
        let mut events = PollEvents::empty();
        let taken = self.memory.sq_tail().wrapping_sub(self.sq_head.load(Relaxed));
        events.set(PollEvents::OUT | PollEvents::WRNORM, taken < self.memory.shape().sq_entries);
        let is_deferred = self.nr_deferred.load(SeqCst) > 0;
        let has_events = self.cq.ready() > 0 || self.cq.has_overflow() || is_deferred;
        events.set(PollEvents::IN | PollEvents::RDNORM, has_events);
        events
    }
}

/// News for those who poll a ring or its eventfd: its submitter has something to come for.
///
/// It comes from under the lock of any queue, so a worker tells them.
pub(crate) struct Note(Arc<Ring>);

impl Note {
    /// Usable in any context.
    pub fn send(self) {
        sched::workqueue::queue(Box::new(move || {
            let ring = self.0;
            // What comes from now on makes another note.
            ring.has_note.store(false, SeqCst);
            ring.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
            ring.cq.signal();
        }));
    }
}

/// The operations of the descriptor.
struct RingFile(Arc<Ring>);

impl FileOps for RingFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.wait);
        self.0.is_polled.store(true, SeqCst);
        self.0.readiness()
    }

    fn mmap_at(&self, _file: &Arc<File>, offset: u64, _len: u64) -> Result<Backing> {
        backing(&self.0.memory, offset)
    }

    fn release(&self, _file: &File) {
        close(&self.0);
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let (ring, memory) = (&self.0, &self.0.memory);
        let shape = memory.shape();
        let (sq_head, sq_tail) = (ring.sq_head.load(Relaxed), memory.sq_tail());
        let (cq_head, cq_tail) = (memory.cq_head(), ring.cq.tail());
        out.extend_from_slice(
            format!(
                "SqMask:\t0x{:x}\nSqHead:\t{sq_head}\nSqTail:\t{sq_tail}\nCachedSqHead:\t{sq_head}\n\
                 CqMask:\t0x{:x}\nCqHead:\t{cq_head}\nCqTail:\t{cq_tail}\nCachedCqTail:\t{cq_tail}\n\
                 SQEs:\t{}\nCQEs:\t{}\nSqThread:\t-1\nSqThreadCpu:\t-1\nUserFiles:\t{}\nUserBufs:\t{}\n",
                shape.sq_entries - 1,
                shape.cq_entries - 1,
                sq_tail.wrapping_sub(sq_head).min(shape.sq_entries),
                ring.cq.ready(),
                ring.fixed.nr_files().unwrap_or(0),
                ring.fixed.nr_buffers().unwrap_or(0),
            )
            .as_bytes(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(flags: SetupFlags, cq_entries: u32) -> Params {
        Params { flags: flags.bits(), cq_entries, ..Params::default() }
    }

    fn sizes(entries: u32, flags: SetupFlags, cq_entries: u32) -> Result<(u32, u32)> {
        shape_of(entries, &params(flags, cq_entries)).map(|(shape, _)| (shape.sq_entries, shape.cq_entries))
    }

    #[test]
    fn sizes_are_rounded_up_and_bounded() {
        let none = SetupFlags::empty();
        assert_eq!(sizes(5, none, 0), Ok((8, 16)));
        assert_eq!(sizes(0, none, 0), Err(Errno::EINVAL));
        assert_eq!(sizes(MAX_ENTRIES + 1, none, 0), Err(Errno::EINVAL));
        assert_eq!(sizes(MAX_ENTRIES + 1, SetupFlags::CLAMP, 0), Ok((MAX_ENTRIES, MAX_CQ_ENTRIES)));
        assert_eq!(sizes(4, SetupFlags::CQSIZE, 100), Ok((4, 128)));
        assert_eq!(sizes(8, SetupFlags::CQSIZE, 4), Err(Errno::EINVAL));
        assert_eq!(sizes(8, SetupFlags::CQSIZE, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn flags_that_need_others_are_refused_alone() {
        assert_eq!(sizes(1, SetupFlags::DEFER_TASKRUN, 0), Err(Errno::EINVAL));
        assert!(sizes(1, SetupFlags::DEFER_TASKRUN | SetupFlags::SINGLE_ISSUER, 0).is_ok());
        assert_eq!(sizes(1, SetupFlags::TASKRUN_FLAG, 0), Err(Errno::EINVAL));
        assert!(sizes(1, SetupFlags::TASKRUN_FLAG | SetupFlags::COOP_TASKRUN, 0).is_ok());
        assert_eq!(sizes(1, SetupFlags::IOPOLL, 0), Err(Errno::EINVAL));
        let odd = Params { resv: [0, 1, 0], ..Params::default() };
        assert!(shape_of(1, &odd).is_err());
    }
}
