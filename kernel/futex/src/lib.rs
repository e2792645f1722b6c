//! Keel's `futex` crate.
#![no_std]
#![forbid(unsafe_code)]
