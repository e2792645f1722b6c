//! The cores of hal's locks and of RCU with loom's atomics in place of core's.
//!
//! [`protocol`] is `hal/src/sync/protocol.rs` itself; `tests/orders.rs` runs it in every order.

#![forbid(unsafe_code)]

/// What [`protocol`] is made of.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

    /// Lets the other threads of the model run.
    pub fn relax() {
        loom::thread::yield_now();
    }
}

#[path = "../../src/sync/protocol.rs"]
pub mod protocol;
