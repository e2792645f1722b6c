#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod decide;
mod filter;
mod install;
mod listener;
mod notify;

pub use install::{FilterFlags, get_filter, get_metadata, set_filter, set_strict};

/// `SECCOMP_RET_*`: what a filter answers, in the upper half of the word.
pub mod action {
    /// Ends the process.
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    /// Ends the thread.
    pub const KILL_THREAD: u32 = 0;
    /// `SIGSYS`.
    pub const TRAP: u32 = 0x0003_0000;
    /// The call fails with the number in the lower half.
    pub const ERRNO: u32 = 0x0005_0000;
    /// Another process answers.
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    /// The tracer decides.
    pub const TRACE: u32 = 0x7ff0_0000;
    /// The call is made and logged.
    pub const LOG: u32 = 0x7ffc_0000;
    /// The call is made.
    pub const ALLOW: u32 = 0x7fff_0000;
    /// The bits of the action.
    pub const MASK: u32 = 0xffff_0000;

    /// Whether there is such an action (`SECCOMP_GET_ACTION_AVAIL`).
    pub fn exists(action: u32) -> bool {
        [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW].contains(&action)
    }
}

/// `AUDIT_ARCH_X86_64`, the one architecture of system calls.
pub(crate) const ARCH: u32 = 0xc000_003e;

/// Sizes of the structures of user notification (`SECCOMP_GET_NOTIF_SIZES`): notification, answer, data.
pub const NOTIF_SIZES: [u16; 3] =
    [notify::NOTIF_LEN as u16, notify::RESPONSE_LEN as u16, cbpf::DATA_LEN as u16];

/// Registers what system calls ask for. Call it once at boot.
pub fn init() {
    process::hooks::register_seccomp(&decide::Seccomp);
}
