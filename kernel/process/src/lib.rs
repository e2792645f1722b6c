//! Keel's `process` crate.
#![no_std]
#![forbid(unsafe_code)]
