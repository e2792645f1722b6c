//! Runs the cores of hal's locks and of RCU through loom: see `tests/orders.rs`.
//!
//! The tests include `hal/src/sync/protocol.rs` itself, with loom's atomics in place of core's.

#![forbid(unsafe_code)]
