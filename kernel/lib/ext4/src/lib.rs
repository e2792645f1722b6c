#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod alloc_blocks;
mod alloc_inodes;
pub mod block;
mod crc;
pub mod dir;
mod error;
pub mod extent;
mod group;
mod hash;
mod htree;
mod indirect;
pub mod inline;
pub mod inode;
pub mod journal;
mod layout;
pub mod orphan;
pub mod superblock;
mod view;
pub mod xattr;

#[cfg(test)]
mod tests;

pub use alloc_blocks::{alloc_blocks, alloc_unpromised, free_blocks, nr_free_blocks};
pub use alloc_inodes::{NewInode, alloc_inode, free_inode, is_inode_used, nr_free_inodes};
pub use block::{Block, BlockRef, Blocks, Edit, Seal};
pub use crc::crc32c;
pub use error::{Error, Result};
pub use group::seal;
pub use indirect::{max_blocks as max_indirect_blocks, room as indirect_room};
pub use layout::{Layout, Support};
