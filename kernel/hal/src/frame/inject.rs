//! Fault injection: allocations of frames that fail although there is memory.
//!
//! Whoever decides registers a question ([`register`]), which is asked at each allocation that may fail once somebody
//! turned that on ([`turn_on`]). What the heap takes for itself is not asked about, as most of its users cannot fail.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::sync::Once;

/// Answers whether the allocation that the current thread is about to do fails. Usable anywhere; takes no lock.
pub type Question = fn() -> bool;

static QUESTION: Once<Question> = Once::new();
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Registers the question; only the first call counts.
pub fn register(question: Question) {
    QUESTION.call_once(|| question);
}

/// Has the question asked from now on.
pub fn turn_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether the allocation that is about to be done fails.
#[inline]
pub(super) fn fails() -> bool {
    IS_ON.load(Ordering::Relaxed) && asked()
}

#[cold]
fn asked() -> bool {
    QUESTION.get().is_some_and(|question| question())
}
