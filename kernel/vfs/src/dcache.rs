//! The table of all hashed dentries: found by parent and name, without a lock.
//!
//! ```text
//!   TABLE[hash(parent, name)] -> Node -> Node -> ...        chains of RCU pointers
//!                                 |       |
//!                               Dentry  Dentry
//! ```
//!
//! A chain node is made when a dentry enters the table and never reused, so a reader on a node that was just
//! unlinked still finds its way to the end of the chain.
//!
//! # What a lookup may conclude
//!
//! A hit was true at some moment during the lookup. A miss means nothing: the caller asks the file system with the
//! directory's `sem` held, which excludes changes of that directory. A walk of several steps compares
//! [`Sequence`] before and after: equal means that no rename and no change of mounts came between, so all steps
//! were true at once.
//!
//! # Eviction
//!
//! The table keeps at most [`limit`] dentries. An insertion beyond that sweeps a few chains, and takes out what was
//! not used since the last sweep and is held by nothing but the table. Against a walk that takes a reference at the
//! same moment:
//!
//! ```text
//!   evictor                                walk
//!   set UNHASHED                (A)        clone the Arc                 (B)
//!   count still 1?  (reads B)              UNHASHED set?  (reads A)
//! ```
//!
//! Either the evictor sees the count and puts the dentry back, or the walk sees the flag and walks again; both are
//! sequentially consistent. A directory with cached children is held by them and stays.
//!
//! # Locks
//!
//! A spinlock for each group of chains, inside the inodes' `sem`; two are never held together.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*, fence};

use hal::rcu::{self, ReadGuard};
use hal::sync::{ArcCell, LazyLock, SpinLock};

use crate::dentry::{Dentry, Name, Place};
use crate::superblock::SuperBlock;

struct Node {
    hash: Hash,
    dentry: Arc<Dentry>,
    next: ArcCell<Node>,
}

const NR_LOCKS: usize = 64;

struct Table {
    chains: Box<[ArcCell<Node>]>,
    locks: [SpinLock<()>; NR_LOCKS],
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let nr_chains = (hal::frame::stats().total / 16).next_power_of_two().clamp(1 << 10, 1 << 20);
    Table {
        chains: (0..nr_chains).map(|_| ArcCell::empty()).collect(),
        locks: [const { SpinLock::new("vfs.dcache", ()) }; NR_LOCKS],
    }
});

static NR_DENTRIES: AtomicUsize = AtomicUsize::new(0);
/// The chain at which the next sweep begins.
static HAND: AtomicUsize = AtomicUsize::new(0);
/// Chains that one insertion beyond the limit sweeps.
const SWEEP: usize = 8;

/// How many dentries the table keeps; more are evicted as they come.
pub fn limit() -> usize {
    TABLE.chains.len() * 4
}

/// How many dentries are in the table.
pub fn nr_dentries() -> usize {
    NR_DENTRIES.load(Relaxed)
}

/// What a name in a directory is found by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hash {
    /// Which chain it is in.
    chain: u32,
    /// The start of the name; of a name of up to [`SHORT`] bytes all of it, with its length.
    word: u64,
}

/// Longest names that [`struct@Hash`] holds whole.
const SHORT: usize = 7;

/// The hash of `name` in the directory `parent`.
#[inline]
pub(crate) fn hash(parent: &Arc<Dentry>, name: &[u8]) -> Hash {
    // FxHash-like: a multiply a word; the address of the parent salts it.
    const K: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |state: u64, word: u64| (state.rotate_left(5) ^ word).wrapping_mul(K);
    let word = first_word(name);
    let mut state = mix((Arc::as_ptr(parent) as usize as u64 >> 4).wrapping_mul(K), word);
    if name.len() > SHORT {
        let (words, tail) = name.as_chunks::<8>();
        for word in words {
            state = mix(state, u64::from_le_bytes(*word));
        }
        let last = tail.iter().fold(name.len() as u64, |last, &byte| last << 8 | u64::from(byte));
        state = mix(state, last);
    }
    Hash { chain: (state >> 32) as u32, word }
}

/// The first 7 bytes of `name` and, in the highest one, its length; 255 for longer names.
#[inline]
fn first_word(name: &[u8]) -> u64 {
    let with_len = |bytes: u64| bytes | (name.len() as u64) << 56;
    match *name {
        [] => 0,
        [a] => with_len(u64::from_le_bytes([a, 0, 0, 0, 0, 0, 0, 0])),
        [a, b] => with_len(u64::from_le_bytes([a, b, 0, 0, 0, 0, 0, 0])),
        [a, b, c] => with_len(u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0])),
        [a, b, c, d, e, f, g, _, ..] => u64::from_le_bytes([a, b, c, d, e, f, g, 255]),
        [a, b, c, d, ref rest @ ..] => {
            let first = u64::from(u32::from_le_bytes([a, b, c, d]));
            let rest = rest.iter().rev().fold(0, |rest, &byte| rest << 8 | u64::from(byte));
            with_len(first | rest << 32)
        }
    }
}

impl Table {
    #[inline]
    fn chain(&self, hash: Hash) -> &ArcCell<Node> {
        &self.chains[hash.chain as usize & (self.chains.len() - 1)]
    }

    /// The lock of the chain that a hash or the chain's own number names.
    fn lock(&self, chain: u32) -> &SpinLock<()> {
        &self.locks[chain as usize % NR_LOCKS]
    }
}

/// Finds the dentry of `name` in `parent`. `None` says nothing; see the module's front page.
#[inline]
pub(crate) fn find<'g>(
    guard: &'g ReadGuard,
    parent: &Arc<Dentry>,
    name: &[u8],
    hash: Hash,
) -> Option<&'g Arc<Dentry>> {
    let mut at = TABLE.chain(hash).get(guard);
    while let Some(node) = at {
        if node.hash == hash {
            let place = node.dentry.place(guard);
            let is_here = place.parent.as_ref().is_some_and(|p| Arc::ptr_eq(p, parent));
            if is_here && (name.len() <= SHORT || place.name[..] == *name) {
                return Some(&node.dentry);
            }
        }
        at = node.next.get(guard);
    }
    None
}

/// Takes a reference to a dentry that was found; `None` if it is being evicted.
#[inline]
pub(crate) fn pin(dentry: &Arc<Dentry>) -> Option<Arc<Dentry>> {
    let pinned = dentry.clone(); // (B)
    fence(SeqCst);
    dentry.mark_referenced();
    // Roots and removed names are not in the table and are pinned by who holds them.
    (pinned.is_hashed() || pinned.is_root() || pinned.is_deleted()).then_some(pinned)
}

/// Finds and takes a reference.
pub(crate) fn find_pinned(parent: &Arc<Dentry>, name: &[u8], hash: Hash) -> Option<Arc<Dentry>> {
    let guard = rcu::read_lock();
    pin(find(&guard, parent, name, hash)?)
}

/// Puts `dentry` into the table, unless its name is there already: then gives that one.
pub(crate) fn insert(dentry: Arc<Dentry>) -> Arc<Dentry> {
    let guard = rcu::read_lock();
    let place = dentry.place(&guard);
    let hash = place.hash;
    let parent = place.parent.as_ref();
    let node = Arc::new(Node { hash, dentry: dentry.clone(), next: ArcCell::empty() });
    {
        let _locked = TABLE.lock(hash.chain).lock();
        if let Some(parent) = parent
            && let Some(there) = find(&guard, parent, &place.name, hash)
            && there.is_hashed()
        {
            there.mark_referenced();
            return there.clone();
        }
        let chain = TABLE.chain(hash);
        node.next.swap(chain.load());
        dentry.set_hashed();
        chain.swap(Some(node));
    }
    drop(guard);
    if NR_DENTRIES.fetch_add(1, Relaxed) >= limit() {
        sweep(SWEEP);
    }
    dentry
}

/// Takes `dentry` out of the table, if it is there.
pub(crate) fn remove(dentry: &Arc<Dentry>) {
    let guard = rcu::read_lock();
    let hash = dentry.place(&guard).hash;
    let _locked = TABLE.lock(hash.chain).lock();
    if unlink(&guard, hash, dentry) {
        dentry.set_unhashed();
    }
}

/// Takes the node of `dentry` out of its chain, whose lock is held.
fn unlink(guard: &ReadGuard, hash: Hash, dentry: &Arc<Dentry>) -> bool {
    let mut link = TABLE.chain(hash);
    while let Some(node) = link.get(guard) {
        if Arc::ptr_eq(&node.dentry, dentry) {
            link.swap(node.next.load());
            NR_DENTRIES.fetch_sub(1, Relaxed);
            return true;
        }
        link = &node.next;
    }
    false
}

/// Takes a removed name out for good.
pub(crate) fn remove_deleted(dentry: &Arc<Dentry>) {
    dentry.set_deleted();
    remove(dentry);
}

/// Evicts what it can from `nr_chains` chains.
fn sweep(nr_chains: usize) {
    let mask = TABLE.chains.len() - 1;
    for _ in 0..nr_chains {
        let chain = HAND.fetch_add(1, Relaxed) & mask;
        sweep_chain(chain, |dentry| !dentry.take_referenced() && !dentry.is_mountpoint());
    }
}

/// Evicts the dentries of one chain that `wanted` names and that nobody holds.
fn sweep_chain(chain: usize, wanted: impl Fn(&Arc<Dentry>) -> bool) -> usize {
    let guard = rcu::read_lock();
    let mut victims: [Option<Arc<Dentry>>; 8] = Default::default();
    let mut nr = 0;
    {
        let _locked = TABLE.lock(chain as u32).lock();
        let mut link = &TABLE.chains[chain];
        while let Some(node) = link.get(&guard) {
            let dentry = &node.dentry;
            if nr < victims.len() && Arc::strong_count(dentry) == 1 && wanted(dentry) {
                dentry.set_unhashed(); // (A)
                fence(SeqCst);
                if Arc::strong_count(dentry) == 1 {
                    victims[nr] = Some(dentry.clone());
                    nr += 1;
                    link.swap(node.next.load());
                    NR_DENTRIES.fetch_sub(1, Relaxed);
                    continue;
                }
                dentry.set_hashed();
            }
            link = &node.next;
        }
    }
    drop(guard);
    // The victims' inodes are freed here or with their nodes, in both cases where sleeping is allowed.
    nr
}

/// Evicts all that can be evicted, for memory shortage; gives how many dentries went.
pub fn shrink() -> usize {
    (0..TABLE.chains.len()).map(|chain| sweep_chain(chain, |dentry| !dentry.is_mountpoint())).sum()
}

/// Evicts what can be evicted of `sb`, whose last mount is gone. Children hold their parents, so it takes several
/// rounds.
pub(crate) fn shrink_sb(sb: &Arc<SuperBlock>) {
    let is_of_sb = |dentry: &Arc<Dentry>| Arc::ptr_eq(dentry.sb(), sb);
    while (0..TABLE.chains.len()).map(|chain| sweep_chain(chain, is_of_sb)).sum::<usize>() > 0 {}
}

/// As [`shrink_sb`], but waits, too, for readers of the table, who hold what is out of it already and with that its
/// parents. What is left then is in use. Sleeps, and never in a callback of RCU.
pub(crate) fn empty_sb(sb: &Arc<SuperBlock>) {
    let mut nr_left = usize::MAX;
    loop {
        shrink_sb(sb);
        sched::workqueue::synchronize_rcu();
        let nr = count(sb);
        if nr == 0 || nr >= nr_left {
            return;
        }
        nr_left = nr;
    }
}

/// Dentries of `sb` in the table.
fn count(sb: &Arc<SuperBlock>) -> usize {
    let guard = rcu::read_lock();
    let mut nr = 0;
    for chain in &TABLE.chains {
        let mut at = chain.get(&guard);
        while let Some(node) = at {
            nr += usize::from(Arc::ptr_eq(node.dentry.sb(), sb));
            at = node.next.get(&guard);
        }
    }
    nr
}

/// Counts the changes that can make a walk of several steps wrong: renames and mounts. Odd while one goes on.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);
/// Serialises them.
static CHANGES: SpinLock<()> = SpinLock::new("vfs.namespace_seq", ());

/// The state of the name space at the start of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Sequence(u64);

impl Sequence {
    /// Begins; `None` while something changes.
    #[inline]
    pub(crate) fn begin() -> Option<Self> {
        // Acquire pairs with the release at the end of `change`.
        let seq = SEQUENCE.load(Acquire);
        (seq & 1 == 0).then_some(Self(seq))
    }

    /// Whether nothing has changed since.
    #[inline]
    pub(crate) fn is_same(self) -> bool {
        // Orders the loads of the walk before this one; pairs with the fence in `change`.
        fence(Acquire);
        SEQUENCE.load(Relaxed) == self.0
    }
}

/// Makes a change that walks must notice. Must not sleep.
pub(crate) fn change<R>(f: impl FnOnce() -> R) -> R {
    let _serialised = CHANGES.lock();
    let seq = SEQUENCE.load(Relaxed);
    SEQUENCE.store(seq + 1, Relaxed);
    fence(Release);
    let result = f();
    SEQUENCE.store(seq + 2, Release);
    result
}

/// Moves `dentry` to (`parent`, `name`), as rename(2) does; whatever was there is out of the table already.
pub(crate) fn rename(dentry: &Arc<Dentry>, parent: &Arc<Dentry>, name: &[u8]) {
    let place =
        Place { parent: Some(parent.clone()), name: Name::from_slice(name), hash: hash(parent, name) };
    change(|| {
        remove(dentry);
        dentry.set_place(place);
        insert_moved(dentry);
    });
}

/// Swaps the places of two dentries.
pub(crate) fn exchange(a: &Arc<Dentry>, b: &Arc<Dentry>) {
    let guard = rcu::read_lock();
    let copy = |d: &Arc<Dentry>| {
        let place = d.place(&guard);
        Place { parent: place.parent.clone(), name: place.name.clone(), hash: place.hash }
    };
    let (place_a, place_b) = (copy(a), copy(b));
    change(|| {
        remove(a);
        remove(b);
        a.set_place(place_b);
        b.set_place(place_a);
        insert_moved(a);
        insert_moved(b);
    });
}

fn insert_moved(dentry: &Arc<Dentry>) {
    let guard = rcu::read_lock();
    let hash = dentry.place(&guard).hash;
    let node = Arc::new(Node { hash, dentry: dentry.clone(), next: ArcCell::empty() });
    let _locked = TABLE.lock(hash.chain).lock();
    let chain = TABLE.chain(hash);
    node.next.swap(chain.load());
    dentry.set_hashed();
    chain.swap(Some(node));
    NR_DENTRIES.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::{SHORT, first_word};
    use alloc::vec::Vec;

    #[test]
    fn short_names_have_words_of_their_own() {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for len in 1..=SHORT + 3 {
            for at in 0..len {
                for byte in [0x01, b'b', 0xff] {
                    let mut name = alloc::vec![b'a'; len];
                    name[at] = byte;
                    names.push(name);
                }
            }
        }
        for a in &names {
            for b in names.iter().filter(|b| a.len() <= SHORT || b.len() <= SHORT) {
                assert_eq!(first_word(a) == first_word(b), a == b, "{a:?} {b:?}");
            }
        }
    }
}
