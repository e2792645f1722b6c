#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bucket;
mod key;
mod pi;
mod private;
mod requeue;
mod robust;
#[cfg(test)]
mod tests;
mod wait;

pub use key::Scope;
pub use pi::{
    FindOwner, Owner, Party, Patience, cmp_requeue_pi, exit_pi, lock_pi, unlock_pi, wait_requeue_pi,
};
pub use private::{grow_for_thread, own_slots, set_own_slots};
pub use requeue::{Two, cmp_requeue, requeue, wake_op};
pub use robust::{PendingSlot, exit_robust_list, robust_unlock};
pub use wait::{MATCH_ANY, WaitError, Word, wait, wait_multiple, wake};
