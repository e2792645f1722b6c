//! Keel's `idalloc` crate.
#![no_std]
#![forbid(unsafe_code)]
