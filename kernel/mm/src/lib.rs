//! Keel's `mm` crate.
#![no_std]
#![forbid(unsafe_code)]
