//! Keel's `limits` crate.
#![no_std]
#![forbid(unsafe_code)]
