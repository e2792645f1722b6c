//! Keel's `security` crate.
#![no_std]
#![forbid(unsafe_code)]
