//! Keel's `tty` crate.
#![no_std]
#![forbid(unsafe_code)]
