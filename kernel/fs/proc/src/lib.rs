//! Keel's `proc` crate.
#![no_std]
#![forbid(unsafe_code)]
