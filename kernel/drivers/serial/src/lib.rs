//! Keel's `serial` crate.
#![no_std]
#![forbid(unsafe_code)]
