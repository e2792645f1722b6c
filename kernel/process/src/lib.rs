#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acct;
mod clone;
pub mod coredump;
pub mod cred;
pub mod exec;
pub mod exit;
pub mod failing;
mod family;
mod group;
pub mod helper;
pub mod hooks;
pub mod ioprio;
mod kthread;
pub mod membership;
pub mod nsproxy;
pub mod oom;
pub mod pgrp;
pub mod pid;
pub mod pidns;
pub mod prctl;
mod roster;
pub mod rseq;
pub mod seccomp;
mod show;
pub mod signal;
mod task;
pub mod timer;
pub mod trace;
mod unforked;
pub mod usage;
pub mod wait;

pub use clone::{CloneRequest, clone, max_threads, set_max_threads, spawn_init};
pub use family::ExitState;
pub use group::ThreadGroup;
pub use nsproxy::NsProxy;
pub use pidns::PidNs;
pub use task::{CurrentTask, Restart, Task, TaskFlags, TaskWatcher, current, try_current};
