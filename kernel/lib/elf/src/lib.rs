//! Keel's `elf` crate.
#![no_std]
#![forbid(unsafe_code)]
