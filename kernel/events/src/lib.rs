//! Keel's `events` crate.
#![no_std]
#![forbid(unsafe_code)]
