//! Keel's `cpio` crate.
#![no_std]
#![forbid(unsafe_code)]
