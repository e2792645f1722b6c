//! The VFS over tmpfs, on the hosted machine: what system calls would see.

mod env;
mod fds;
mod locks;
mod model;
mod mounts;
mod names;
mod pipes;
mod races;
mod rules;
