//! Keel's `devtmpfs` crate.
#![no_std]
#![forbid(unsafe_code)]
