//! Keel's `core` crate.
#![no_std]
#![forbid(unsafe_code)]
