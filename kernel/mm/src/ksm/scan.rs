//! The thread that looks at pages, round after round.
//!
//! ```text
//! round   address space by address space, each from its first page to its last; the pages of this round that are alone
//!         are forgotten at its end
//! batch   `pages_to_scan` pages, then a sleep of `sleep_millisecs`; it ends with the round, too
//! slice   some pages under one hold of `STATE`
//! ```

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE, USER_END};
use hashbrown::HashTable;
use sched::{Attributes, Interruptible, WaitQueue};

use super::known::{Known, Seen};
use super::merge::{Next, is_merged};
use super::settings::{self, Round};
use super::tree::{self, Place, Stable, Unstable};
use super::{TAKING_PART, zero_frame, zero_pages};
use crate::counters::Counter;
use crate::mapping::page_flags;
use crate::space::Mm;
use crate::sync::Mutex;
use crate::{oom, registry};

/// Pages looked at under one hold of the state.
const SLICE: u64 = 32;
/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;
/// The thread's nice value, as Linux's.
const NICE: i8 = 5;

/// Pages looked at (`pages_scanned`).
static SCANNED: Counter = Counter::new();
/// Pages left out because looking at them was in vain for long (`pages_skipped`).
static SKIPPED: Counter = Counter::new();
/// Rounds over all memory (`full_scans`).
static FULL_SCANS: Counter = Counter::new();
/// `max_page_sharing`.
static MAX_SHARING: AtomicU64 = AtomicU64::new(256);
/// `merge_across_nodes`.
static ACROSS_NODES: AtomicBool = AtomicBool::new(true);

static WAKE: WaitQueue = WaitQueue::new();
static WANTS_PRUNE: AtomicBool = AtomicBool::new(false);
static RUN: AtomicU8 = AtomicU8::new(Run::Stop as u8);
static STATE: Mutex<State> = Mutex::new("mm.ksm", State::new());

/// `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Run {
    /// The thread sleeps; what is merged stays so.
    Stop = 0,
    /// It merges.
    Merge = 1,
    /// It sleeps, and nothing is merged any more.
    Unmerge = 2,
}

fn id_of(known: &Known) -> u64 {
    known.id
}

/// What `STATE` guards.
struct State {
    stable: Stable,
    unstable: Unstable,
    known: HashTable<Known>,
    /// Of the checksums; 0 until there is one.
    key: u64,
    /// The checksum of a page of zeroes.
    zero_sum: u64,
    /// Where the round is: slot and id of the address space, and the address to go on at.
    slot: usize,
    id: Option<u64>,
    addr: u64,
    round: u64,
    started_ns: u64,
    busy_ns: u64,
    looked_at: u64,
    pruned_ns: u64,
}

impl State {
    const fn new() -> Self {
        Self {
            stable: Stable::new(),
            unstable: Unstable::new(),
            known: HashTable::new(),
            key: 0,
            zero_sum: 0,
            slot: 0,
            id: None,
            addr: 0,
            round: 0,
            started_ns: 0,
            busy_ns: 0,
            looked_at: 0,
            pruned_ns: 0,
        }
    }

    /// Looks at up to `nr` pages; `false` when the round has ended.
    fn scan(&mut self, nr: u64) -> bool {
        let begin = hal::time::now_ns();
        if self.key == 0 {
            self.key = random::next_u64() | 1;
            self.zero_sum = zero_frame().map_or(0, |zero| tree::checksum(zero, self.key));
        }
        let mut left = nr;
        let mut is_over = false;
        while left > 0 && !is_over {
            left -= 1;
            is_over = !self.step();
        }
        self.looked_at += nr - left;
        self.busy_ns += hal::time::now_ns().saturating_sub(begin);
        if is_over {
            self.end_round();
        }
        !is_over
    }

    /// Goes on to the next page or address space, and looks at it; `false` when there is none.
    fn step(&mut self) -> bool {
        let Some((slot, mm)) = registry::at_or_after(self.slot) else { return false };
        if mm.takes_part() {
            self.step_in(slot, &mm);
        } else {
            (self.slot, self.id) = (slot + 1, None);
        }
        registry::let_go(mm);
        true
    }

    /// Goes on to the next page of `mm`, which is in `slot`.
    fn step_in(&mut self, slot: usize, mm: &Mm) {
        if self.id != Some(mm.id()) {
            (self.slot, self.id, self.addr) = (slot, Some(mm.id()), 0);
            if !self.begin(mm.id()) {
                // No memory to remember anything: the next one.
                (self.slot, self.id) = (slot + 1, None);
                return;
            }
        }
        match mm.next_mergeable(self.addr) {
            Next::Page(addr, frame) => {
                self.addr = addr + PAGE_SIZE as u64;
                SCANNED.add(1);
                self.look_at(mm, Place { slot, id: mm.id(), addr }, frame);
            }
            Next::More(addr) => self.addr = addr,
            Next::End => self.addr = USER_END,
        }
        if self.addr >= USER_END {
            if let Some(known) = self.known_mut(mm.id()) {
                known.finish();
            }
            (self.slot, self.id) = (slot + 1, None);
        }
    }

    fn known_mut(&mut self, id: u64) -> Option<&mut Known> {
        self.known.find_mut(id, |known| known.id == id)
    }

    /// Begins with an address space; `false`: no memory.
    fn begin(&mut self, id: u64) -> bool {
        let round = self.round;
        if let Some(known) = self.known_mut(id) {
            known.round = round;
            return true;
        }
        if self.known.try_reserve(1, id_of).is_err() {
            return false;
        }
        self.known.insert_unique(id, Known::new(id, round), id_of);
        true
    }

    /// Looks at one page, and remembers it.
    fn look_at(&mut self, mm: &Mm, place: Place, frame: Frame) {
        let page = place.addr >> PAGE_SHIFT;
        let known = self.known_mut(place.id).and_then(|known| known.take(page));
        let is_new = known.is_none();
        let mut seen = known.unwrap_or(Seen::new(page));
        self.judge(mm, place, frame, &mut seen, is_new);
        if let Some(known) = self.known_mut(place.id) {
            known.put(seen);
        }
    }

    fn judge(&mut self, mm: &Mm, place: Place, frame: Frame, seen: &mut Seen, is_new: bool) {
        seen.is_merged = is_merged(&frame);
        if seen.is_merged {
            return;
        }
        if settings::SMART_SCAN.load(Relaxed) && seen.is_left_out() {
            SKIPPED.add(1);
            return;
        }
        let sum = tree::checksum(&frame, self.key);
        let has_changed = is_new || seen.sum != sum as u32;
        seen.sum = sum as u32;
        if has_changed {
            return;
        }
        if sum == self.zero_sum
            && settings::USE_ZERO_PAGES.load(Relaxed)
            && let Some(zero) = zero_frame()
            && mm.may_show_zeroes(place.addr)
        {
            drop(frame);
            mm.merge_page(place.addr, zero);
            return;
        }
        if let Some(target) = self.stable.find(sum, &frame, MAX_SHARING.load(Relaxed)) {
            // Our reference would look like another holder.
            drop(frame);
            seen.is_merged = mm.merge_page(place.addr, &target);
            return;
        }
        seen.is_merged = self.pair(mm, place, frame, sum);
    }

    /// Merges the page with one that was seen in this round; if there is none, it is remembered as such.
    fn pair(&mut self, mm: &Mm, place: Place, frame: Frame, sum: u64) -> bool {
        let first = self.unstable.get(sum).filter(|first| *first != place);
        let stable = first.and_then(|first| {
            self.stable.reserve().ok()?;
            let (slot, owner) = registry::at_or_after(first.slot)?;
            let is_it = slot == first.slot && owner.id() == first.id;
            let stable = if is_it { owner.make_stable(first.addr, &frame) } else { None };
            registry::let_go(owner);
            stable.map(|stable| (first, stable))
        });
        let Some((first, stable)) = stable else {
            // There is none, it has changed, or cannot be merged now: this one takes its place.
            self.unstable.put(sum, place);
            return false;
        };
        drop(frame);
        if !mm.merge_page(place.addr, &stable) {
            // Alone it is an ordinary page again.
            stable.meta().flags.fetch_and(!page_flags::KSM, Relaxed);
            return false;
        }
        self.stable.insert(sum, stable);
        self.unstable.remove(sum);
        if let Some(known) = self.known_mut(first.id) {
            known.note_merged(first.addr >> PAGE_SHIFT);
        }
        true
    }

    fn end_round(&mut self) {
        FULL_SCANS.add(1);
        self.unstable.clear();
        let (now, round) = (hal::time::now_ns(), self.round);
        self.known.retain(|known| known.round == round);
        settings::advise(Round {
            took_ms: now.saturating_sub(self.started_ns) / NS_PER_MS,
            busy_ms: self.busy_ns / NS_PER_MS,
            pages: self.looked_at,
        });
        (self.slot, self.id, self.round) = (0, None, round + 1);
        (self.started_ns, self.busy_ns, self.looked_at) = (now, 0, 0);
        let age_ms = now.saturating_sub(self.pruned_ns) / NS_PER_MS;
        if age_ms >= settings::PRUNE_MILLISECS.load(Relaxed) {
            self.prune();
        }
    }

    /// Frees the stable pages that nobody shows; how many.
    fn prune(&mut self) -> usize {
        self.pruned_ns = hal::time::now_ns();
        if TAKING_PART.load(Relaxed) == 0 {
            self.forget();
        }
        self.stable.prune(MAX_SHARING.load(Relaxed))
    }

    /// Forgets all pages but the stable ones; the next round begins.
    fn forget(&mut self) {
        self.unstable = Unstable::new();
        self.known = HashTable::new();
        (self.slot, self.id) = (0, None);
    }
}

/// Starts the thread. `ENOMEM`.
pub fn start() -> Result<()> {
    let thread = sched::spawn("ksmd", thread).map_err(|_| Errno::ENOMEM)?;
    thread.set_attributes(Attributes { nice: NICE, ..Attributes::NORMAL });
    oom::register_reclaim(|_| STATE.try_lock().map_or(0, |mut state| state.prune()));
    Ok(())
}

/// Ends the thread's sleep, if it has something to do now.
pub fn wake() {
    WAKE.wake_all();
}

/// Has stable pages looked through for those that nobody shows.
pub(super) fn request_prune() {
    WANTS_PRUNE.store(true, Relaxed);
    WAKE.wake_all();
}

fn has_work() -> bool {
    WANTS_PRUNE.load(Relaxed) || (run() == Run::Merge && TAKING_PART.load(Relaxed) > 0)
}

fn thread() {
    loop {
        WAKE.wait(|| has_work().then_some(()));
        if WANTS_PRUNE.swap(false, Relaxed) {
            STATE.lock().prune();
        }
        batch();
        let sleep_ms = settings::SLEEP_MILLISECS.load(Relaxed);
        if sleep_ms == 0 {
            sched::yield_now();
            continue;
        }
        let until = hal::time::now_ns().saturating_add(sleep_ms.saturating_mul(NS_PER_MS));
        let has_changed = || settings::SLEEP_MILLISECS.load(Relaxed) != sleep_ms;
        // Ends when the time is over, too.
        let _ = WAKE.wait_deadline(|| has_changed().then_some(()), Some(until), Interruptible::No);
    }
}

fn batch() {
    let mut left = settings::PAGES_TO_SCAN.load(Relaxed);
    while left > 0 && run() == Run::Merge && TAKING_PART.load(Relaxed) > 0 {
        let nr = left.min(SLICE);
        let goes_on = {
            let mut state = STATE.lock();
            // Asked again: who changed it has what there is to undo.
            run() == Run::Merge && state.scan(nr)
        };
        if !goes_on {
            return;
        }
        left -= nr;
        sched::yield_now();
    }
}

/// `run`.
pub fn run() -> Run {
    match RUN.load(Relaxed) {
        1 => Run::Merge,
        2 => Run::Unmerge,
        _ => Run::Stop,
    }
}

/// Sets `run`; with [`Run::Unmerge`] all merged pages are private when it returns. May sleep.
///
/// `ENOMEM`: no memory for all of them. `EINTR`: the thread is to die. Merging has stopped then.
pub fn set_run(new: Run) -> Result<()> {
    let mut state = STATE.lock();
    if RUN.swap(new as u8, Relaxed) == new as u8 {
        return Ok(());
    }
    if new == Run::Unmerge {
        state.forget();
        let mut result = Ok(1);
        // Once more after each walk that found any: forks may have copied them to where the walk had been.
        while result.is_ok_and(|found| found > 0) {
            result = unmerge_all();
        }
        state.prune();
        result.inspect_err(|_| RUN.store(Run::Stop as u8, Relaxed))?;
    }
    drop(state);
    WAKE.wake_all();
    Ok(())
}

/// Gives all merged pages' owners copies of their own; how many there were. `ENOMEM`, `EINTR` as [`Mm::unmerge`].
fn unmerge_all() -> Result<usize> {
    let mut result = Ok(0);
    registry::for_each_owned(|mm| {
        if mm.takes_part()
            && let Ok(found) = result
        {
            result = mm.unmerge(0..USER_END).map(|more| found + more);
        }
        registry::let_go(mm);
    });
    result
}

/// Changes a setting that stable pages depend on. `EBUSY`: there are some.
fn with_nothing_shared(change: impl FnOnce()) -> Result<()> {
    let mut state = STATE.lock();
    state.prune();
    if !state.stable.is_empty() {
        return Err(Errno::EBUSY);
    }
    change();
    Ok(())
}

/// Sets `max_page_sharing`. `EINVAL`: less than 2. `EBUSY`: pages are shared.
pub fn set_max_page_sharing(nr: u64) -> Result<()> {
    match nr {
        0 | 1 => Err(Errno::EINVAL),
        _ if nr == MAX_SHARING.load(Relaxed) => Ok(()),
        _ => with_nothing_shared(|| MAX_SHARING.store(nr, Relaxed)),
    }
}

/// Sets `merge_across_nodes`. `EBUSY`: pages are shared.
pub fn set_merge_across_nodes(on: bool) -> Result<()> {
    if on == ACROSS_NODES.load(Relaxed) {
        return Ok(());
    }
    with_nothing_shared(|| ACROSS_NODES.store(on, Relaxed))
}

/// What /sys/kernel/mm/ksm tells of what is merged, named as its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in ksm.rst")]
pub struct Stats {
    pub pages_shared: u64,
    pub pages_sharing: u64,
    pub pages_unshared: u64,
    pub pages_volatile: u64,
    pub general_profit: i64,
}

/// Contents of which there is more than one stable page (`stable_node_chains`), and those pages (`stable_node_dups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chains {
    /// The contents.
    pub chains: u64,
    /// The pages.
    pub dups: u64,
}

/// `max_page_sharing`.
pub fn max_page_sharing() -> u64 {
    MAX_SHARING.load(Relaxed)
}

/// `merge_across_nodes`.
pub fn merge_across_nodes() -> bool {
    ACROSS_NODES.load(Relaxed)
}

/// `pages_scanned`.
pub fn pages_scanned() -> u64 {
    SCANNED.get()
}

/// `pages_skipped`.
pub fn pages_skipped() -> u64 {
    SKIPPED.get()
}

/// `full_scans`.
pub fn full_scans() -> u64 {
    FULL_SCANS.get()
}

/// Counts the [`Chains`]. May sleep. Cost: a sort of the stable pages.
pub fn chains() -> Chains {
    STATE.lock().stable.chains()
}

/// Bytes that remembering `items` pages takes.
pub(super) fn cost_of(items: u64) -> i64 {
    i64::try_from(items.saturating_mul(size_of::<Seen>() as u64)).unwrap_or(i64::MAX)
}

/// Collects [`Stats`]. May sleep. Cost: a step for each stable page.
pub fn stats() -> Stats {
    let state = STATE.lock();
    let sums = state.stable.sums();
    let items: u64 = state.known.iter().map(Known::len).sum();
    let merged: u64 = state.known.iter().map(|known| known.merged).sum();
    let unshared = state.unstable.len();
    drop(state);
    let saved = (sums.sharing + zero_pages()).saturating_mul(PAGE_SIZE as u64);
    Stats {
        pages_shared: sums.shared,
        pages_sharing: sums.sharing,
        pages_unshared: unshared,
        pages_volatile: items.saturating_sub(merged + unshared),
        general_profit: i64::try_from(saved).unwrap_or(i64::MAX).saturating_sub(cost_of(items)),
    }
}

/// What is remembered of an address space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub items: u64,
    pub merged: u64,
}

pub(super) fn known_of(id: u64) -> Memory {
    let state = STATE.lock();
    let known = state.known.find(id, |known| known.id == id);
    known.map_or_else(Memory::default, |known| Memory { items: known.len(), merged: known.merged })
}

/// Looks at all pages `rounds` times, as the thread would (tests: there is no thread).
#[cfg(test)]
pub(super) fn scan_rounds(rounds: usize) {
    for _ in 0..rounds {
        while STATE.lock().scan(SLICE) {}
    }
}
