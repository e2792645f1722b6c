//! Keel's `abi` crate.
#![no_std]
#![forbid(unsafe_code)]
