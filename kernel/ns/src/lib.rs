//! Namespaces (namespaces(7)). So far there is one of each kind, and only [`uts`] has state of its own.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod uts;
