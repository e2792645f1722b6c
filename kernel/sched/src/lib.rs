//! Keel's `sched` crate.
#![no_std]
#![forbid(unsafe_code)]
