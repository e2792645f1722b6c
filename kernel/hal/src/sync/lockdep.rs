//! The lock checker of debug builds; nothing of it exists in release builds.
//!
//! All locks created with one name are one *class*. Whenever a lock is taken while others are held, the order
//! "that class before this one" is remembered for ever; a new order that closes a circle is reported, even if
//! the deadlock did not happen. Two locks of one class may be held together (parent and child inodes): their
//! order is not checked, only that they are two. A class that interrupt handlers take must never be held with
//! interrupts on. And nothing may sleep while preemption or interrupts are off.
//!
//! A report is a panic on the hosted machine, so that tests fail. On a real one it is a message, once: further
//! checks would only repeat it (Linux: `debug_locks_off`).
//!
//! # Invariants
//!
//! - L1: what a thread holds is recorded in the thread, and only the thread itself and interrupts on it change
//!   that, in order; the changes are made with interrupts off.

#[cfg(debug_assertions)]
use core::sync::atomic::AtomicU32;

/// The class of a lock, embedded in it: its address tells two locks of one class apart.
#[derive(Debug)]
pub struct Class {
    #[cfg(debug_assertions)]
    name: &'static str,
    /// Number of the class, 0 before the first use.
    #[cfg(debug_assertions)]
    number: AtomicU32,
}

impl Class {
    /// The class called `name`.
    #[inline]
    pub const fn new(name: &'static str) -> Class {
        #[cfg(not(debug_assertions))]
        let _ = name;
        Class {
            #[cfg(debug_assertions)]
            name,
            #[cfg(debug_assertions)]
            number: AtomicU32::new(0),
        }
    }

    /// Its name; empty in release builds.
    pub const fn name(&self) -> &'static str {
        #[cfg(debug_assertions)]
        return self.name;
        #[cfg(not(debug_assertions))]
        ""
    }
}

/// Notes that a lock of `class` is about to be taken; reports an order that can deadlock.
#[inline]
#[track_caller]
pub fn acquire(class: &Class) {
    #[cfg(debug_assertions)]
    checker::acquire(class, checker::How::MayWait);
    #[cfg(not(debug_assertions))]
    let _ = class;
}

/// Notes that a lock of `class` was taken without waiting, which cannot deadlock.
#[inline]
#[track_caller]
pub fn acquire_try(class: &Class) {
    #[cfg(debug_assertions)]
    checker::acquire(class, checker::How::Tried);
    #[cfg(not(debug_assertions))]
    let _ = class;
}

/// Notes that a lock of `class` was released.
#[inline]
pub fn release(class: &Class) {
    #[cfg(debug_assertions)]
    checker::release(class);
    #[cfg(not(debug_assertions))]
    let _ = class;
}

/// Reports a bug when sleeping is forbidden here. Debug builds only.
#[inline]
#[track_caller]
pub fn might_sleep() {
    #[cfg(debug_assertions)]
    if crate::preempt::is_atomic() && crate::trap::upcalls().is_some() {
        checker::report_sleep();
    }
}

#[cfg(debug_assertions)]
pub(crate) use checker::Held;

#[cfg(debug_assertions)]
mod checker {
    use core::panic::Location;
    use core::ptr;
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    use super::Class;
    use crate::arch;
    use crate::klog::{self, Level};
    use crate::sync::Once;
    use crate::thread::Thread;

    const MAX_CLASSES: usize = 512;
    const WORDS: usize = MAX_CLASSES / 64;
    /// Locks that one thread can hold at once.
    const MAX_HELD: usize = 40;
    /// Of a class without a number because there were too many: not checked.
    const UNCHECKED: u32 = u32::MAX;

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) enum How {
        MayWait,
        Tried,
    }

    static NAMES: [Once<&'static str>; MAX_CLASSES] = [const { Once::new() }; MAX_CLASSES];
    static NR_CLASSES: AtomicUsize = AtomicUsize::new(1); // number 0 means "none yet"
    static REGISTERING: AtomicBool = AtomicBool::new(false);
    /// Bit c of row h: c was taken while h was held.
    static AFTER: [[AtomicU64; WORDS]; MAX_CLASSES] =
        [const { [const { AtomicU64::new(0) }; WORDS] }; MAX_CLASSES];
    /// Per class: taken in an interrupt handler; taken with interrupts on.
    static USAGE: [AtomicU32; MAX_CLASSES] = [const { AtomicU32::new(0) }; MAX_CLASSES];
    const IN_INTERRUPT: u32 = 1;
    const INTERRUPTS_ON: u32 = 2;
    static OFF: AtomicBool = AtomicBool::new(false);

    struct HeldLock {
        class: AtomicU32,
        lock: AtomicUsize,
        place: AtomicPtr<Location<'static>>,
    }

    impl HeldLock {
        const fn new() -> HeldLock {
            HeldLock {
                class: AtomicU32::new(0),
                lock: AtomicUsize::new(0),
                place: AtomicPtr::new(ptr::null_mut()),
            }
        }
    }

    /// What a thread holds, oldest first (L1).
    pub(crate) struct Held {
        count: AtomicUsize,
        locks: [HeldLock; MAX_HELD],
    }

    impl Held {
        pub(crate) const fn new() -> Held {
            Held { count: AtomicUsize::new(0), locks: [const { HeldLock::new() }; MAX_HELD] }
        }

        fn push(&self, class: u32, lock: usize, place: &'static Location<'static>) {
            let at = self.count.load(Ordering::Relaxed);
            if let Some(entry) = self.locks.get(at) {
                entry.class.store(class, Ordering::Relaxed);
                entry.lock.store(lock, Ordering::Relaxed);
                entry.place.store(ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
                self.count.store(at + 1, Ordering::Relaxed);
            }
        }

        fn remove(&self, lock: usize) {
            let count = self.count.load(Ordering::Relaxed);
            let held = &self.locks[..count];
            // Not there if another thread took it, or there was no room.
            let Some(at) = held.iter().rposition(|entry| entry.lock.load(Ordering::Relaxed) == lock) else {
                return;
            };
            for i in at..count - 1 {
                let (to, from) = (&held[i], &held[i + 1]);
                to.class.store(from.class.load(Ordering::Relaxed), Ordering::Relaxed);
                to.lock.store(from.lock.load(Ordering::Relaxed), Ordering::Relaxed);
                to.place.store(from.place.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.count.store(count - 1, Ordering::Relaxed);
        }

        fn iter(&self) -> impl Iterator<Item = (u32, usize, Option<&'static Location<'static>>)> {
            self.locks[..self.count.load(Ordering::Relaxed)].iter().map(|entry| {
                let place = entry.place.load(Ordering::Relaxed);
                // SAFETY: null or made from a `&'static` in `push`.
                let place = unsafe { place.cast_const().as_ref() };
                (entry.class.load(Ordering::Relaxed), entry.lock.load(Ordering::Relaxed), place)
            })
        }
    }

    /// Runs `f` so that no interrupt comes in between (L1). On the hosted machine none can.
    fn quiet<R>(f: impl FnOnce() -> R) -> R {
        let were_on = cfg!(target_os = "none") && arch::irq::save_and_disable();
        let result = f();
        if were_on {
            arch::irq::enable();
        }
        result
    }

    /// The current thread, if there are threads yet.
    fn current<'a>() -> Option<&'a Thread> {
        // SAFETY: null early at boot, else alive while it runs this code (invariant T1 of `thread`); the
        // reference does not leave this module's calls.
        unsafe { arch::cpu::current_thread().as_ref() }
    }

    fn number(class: &Class) -> u32 {
        match class.number.load(Ordering::Relaxed) {
            0 => {
                let number = quiet(|| register(class.name));
                class.number.store(number, Ordering::Relaxed);
                number
            }
            number => number,
        }
    }

    fn register(name: &'static str) -> u32 {
        while REGISTERING.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        let count = NR_CLASSES.load(Ordering::Relaxed);
        let known = (1..count).find(|&i| NAMES[i].get() == Some(&name));
        let number = match known {
            Some(number) => number as u32,
            None if count < MAX_CLASSES => {
                NAMES[count].call_once(|| name);
                NR_CLASSES.store(count + 1, Ordering::Relaxed);
                count as u32
            }
            None => UNCHECKED,
        };
        REGISTERING.store(false, Ordering::Release);
        number
    }

    fn name(class: u32) -> &'static str {
        NAMES.get(class as usize).and_then(Once::get).copied().unwrap_or("?")
    }

    fn comes_after(first: u32, then: u32) -> bool {
        AFTER[first as usize][then as usize / 64].load(Ordering::Relaxed) >> (then % 64) & 1 != 0
    }

    /// Is there a chain of orders from `from` to `to`? `seen` holds the classes visited.
    fn leads_to(from: u32, to: u32, seen: &mut [u64; WORDS]) -> bool {
        let mut todo = [0u64; WORDS];
        todo[from as usize / 64] |= 1 << (from % 64);
        loop {
            let Some(word) = todo.iter().position(|&bits| bits != 0) else { return false };
            let class = word as u32 * 64 + todo[word].trailing_zeros();
            todo[word] &= todo[word] - 1;
            seen[word] |= 1 << (class % 64);
            if comes_after(class, to) {
                return true;
            }
            for (i, row) in AFTER[class as usize].iter().enumerate() {
                todo[i] |= row.load(Ordering::Relaxed) & !seen[i];
            }
        }
    }

    #[track_caller]
    pub(super) fn acquire(class: &Class, how: How) {
        if OFF.load(Ordering::Relaxed) {
            return;
        }
        let Some(thread) = current() else { return };
        let number = number(class);
        if number == UNCHECKED {
            return;
        }
        let lock = ptr::from_ref(class).addr();
        let place = Location::caller();
        check_usage(number, place);
        for (held, held_lock, held_place) in thread.held.iter() {
            if how == How::Tried {
                break;
            }
            if held_lock == lock {
                return report(format_args!("{} taken twice at {place}", name(number)), held_place);
            }
            if held == number || held == UNCHECKED || comes_after(held, number) {
                continue;
            }
            if leads_to(number, held, &mut [0; WORDS]) {
                let text = format_args!("{} at {place} while holding {}, against", name(number), name(held));
                return report_circle(text, held_place, number, held);
            }
            AFTER[held as usize][number as usize / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
        quiet(|| thread.held.push(number, lock, place));
    }

    fn check_usage(number: u32, place: &'static Location<'static>) {
        let usage = if arch::cpu::in_interrupt() {
            IN_INTERRUPT
        } else if arch::irq::enabled() {
            INTERRUPTS_ON
        } else {
            return;
        };
        let before = USAGE[number as usize].load(Ordering::Relaxed);
        if before & usage != 0 {
            return;
        }
        USAGE[number as usize].fetch_or(usage, Ordering::Relaxed);
        if (before | usage) == IN_INTERRUPT | INTERRUPTS_ON {
            report(
                format_args!("{} taken by interrupts and with interrupts on, at {place}", name(number)),
                None,
            );
        }
    }

    pub(super) fn release(class: &Class) {
        if let Some(thread) = current() {
            quiet(|| thread.held.remove(ptr::from_ref(class).addr()));
        }
    }

    #[cold]
    fn report_circle(
        text: core::fmt::Arguments<'_>,
        held_place: Option<&'static Location<'static>>,
        number: u32,
        held: u32,
    ) {
        // One middle link is enough to find the other side.
        let link = (1..NR_CLASSES.load(Ordering::Relaxed) as u32)
            .find(|&c| comes_after(number, c) && (c == held || leads_to(c, held, &mut [0; WORDS])))
            .unwrap_or(held);
        report(format_args!("{text} {} before {} ... {}", name(number), name(link), name(held)), held_place);
    }

    #[cold]
    fn report(text: core::fmt::Arguments<'_>, held_place: Option<&'static Location<'static>>) {
        if OFF.swap(true, Ordering::Relaxed) {
            return;
        }
        let place: &dyn core::fmt::Display = match &held_place {
            Some(place) => place,
            None => &"?",
        };
        if cfg!(target_os = "none") {
            klog::print(Level::Error, format_args!("lockdep: {text}; held since {place}"));
        } else {
            OFF.store(false, Ordering::Relaxed);
            panic!("lockdep: {text}; held since {place}");
        }
    }

    #[cold]
    #[track_caller]
    pub(super) fn report_sleep() {
        let thread = current();
        let last = thread.and_then(|thread| thread.held.iter().last());
        match last {
            Some((class, _, Some(place))) => {
                panic!("sleeping function called in atomic context; holding {} since {place}", name(class))
            }
            _ => panic!("sleeping function called in atomic context"),
        }
    }
}
