//! Words for tests of mounts: calls and flags that libc does not name, and reading what they tell.

use crate::prelude::*;

pub const OPEN_TREE: i64 = 428;
pub const MOVE_MOUNT: i64 = 429;
pub const FSOPEN: i64 = 430;
pub const FSCONFIG: i64 = 431;
pub const FSMOUNT: i64 = 432;
pub const STATMOUNT: i64 = 457;
pub const LISTMOUNT: i64 = 458;
pub const CLONE: i32 = 1;
pub const RECURSIVE: i32 = 0x8000;
pub const F_EMPTY_PATH: i32 = 4;
pub const BENEATH: i32 = 0x200;

/// A mount namespace of the test's own, so that nothing stays behind.
pub fn own_namespace() {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
}

pub fn number(buf: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(buf[at..at + 8].try_into().unwrap())
}

/// The string whose offset is at `at`.
pub fn string(buf: &[u8], at: usize) -> String {
    let start = 512 + u32::from_ne_bytes(buf[at..at + 4].try_into().unwrap()) as usize;
    String::from_utf8(buf[start..].iter().copied().take_while(|b| *b != 0).collect()).unwrap()
}
