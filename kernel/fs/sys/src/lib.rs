//! Keel's `sys` crate.
#![no_std]
#![forbid(unsafe_code)]
