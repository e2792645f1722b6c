//! Keel's `hal` crate.
#![no_std]
