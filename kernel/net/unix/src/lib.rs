//! Keel's `unix` crate.
#![no_std]
#![forbid(unsafe_code)]
