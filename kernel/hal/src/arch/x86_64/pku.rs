//! Protection keys of user pages: the register PKRU.
//!
//! PKRU says for each of 16 keys what the thread may do with user pages that carry it, and user copies of the kernel obey
//! it too. So it changes with the thread, and not lazily as the vector registers do, with which XSAVE could save it.
//!
//! # Invariants
//!
//! - K1: while a user thread runs, PKRU is its own; `ArchThread::pkru` holds the value only while it is switched away.
//!
//! Without protection keys all of this does nothing, and a thread's rights read as 0.
//!
//! Source: Intel SDM vol. 3 ch. 5.6.2 (protection keys), vol. 2 (RDPKRU, WRPKRU).

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::cpu::Feature;
use crate::pkey::INITIAL;

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Looks for protection keys, which `cpu::enable_features` has switched on if there are any. All CPUs are alike.
pub(super) fn init() {
    IS_ON.store(Feature::PKU.present(), Ordering::Relaxed);
}

/// Does the CPU check protection keys?
#[inline]
pub(crate) fn is_supported() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The current thread's rights.
#[inline]
pub(crate) fn rights() -> u32 {
    if !is_supported() {
        return 0;
    }
    let rights;
    // SAFETY: CR4.PKE is set; ECX is 0, as RDPKRU demands.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    rights
}

/// Sets the current thread's rights.
#[inline]
pub(crate) fn set_rights(rights: u32) {
    if is_supported() && self::rights() != rights {
        // SAFETY: CR4.PKE is set; ECX and EDX are 0, as WRPKRU demands. The kernel reaches user pages only by user
        // copies, which expect to be refused; so no access of Rust code depends on the value.
        unsafe {
            asm!("wrpkru", in("ecx") 0, in("eax") rights, in("edx") 0, options(nostack, preserves_flags))
        };
    }
}

/// Saves the rights of the thread that leaves this CPU, whose place is `saved`.
#[inline]
pub(super) fn switch_out(saved: &AtomicU32) {
    if is_supported() {
        saved.store(rights(), Ordering::Relaxed);
    }
}

/// Loads the rights of the thread that enters.
#[inline]
pub(super) fn switch_in(saved: &AtomicU32) {
    set_rights(saved.load(Ordering::Relaxed));
}

/// The rights of a thread that never ran.
pub(super) const fn initial() -> AtomicU32 {
    AtomicU32::new(INITIAL)
}
