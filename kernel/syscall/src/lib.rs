//! Keel's `syscall` crate.
#![no_std]
#![forbid(unsafe_code)]
