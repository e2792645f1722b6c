//! Keel's `tmpfs` crate.
#![no_std]
#![forbid(unsafe_code)]
