//! Keel's `vfs` crate.
#![no_std]
#![forbid(unsafe_code)]
