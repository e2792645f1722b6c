//! Keel's `vma` crate.
#![no_std]
#![forbid(unsafe_code)]
