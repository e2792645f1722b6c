//! Keel's `ipc` crate.
#![no_std]
#![forbid(unsafe_code)]
