//! Protection keys: rights that are kept per host thread, and that nothing checks.

use core::cell::Cell;

use crate::pkey::INITIAL;

std::thread_local! {
    static RIGHTS: Cell<u32> = const { Cell::new(INITIAL) };
}

pub fn is_supported() -> bool {
    true
}

pub fn rights() -> u32 {
    RIGHTS.get()
}

pub fn set_rights(rights: u32) {
    RIGHTS.set(rights);
}
