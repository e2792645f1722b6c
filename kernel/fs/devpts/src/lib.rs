//! Keel's `devpts` crate.
#![no_std]
#![forbid(unsafe_code)]
