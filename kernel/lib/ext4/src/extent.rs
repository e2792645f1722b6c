//! Extent trees: which blocks of the device hold which blocks of a file.
//!
//! ```text
//!   inode (root, 4 entries)      node of a block              leaf
//!   [header][0->A][500->B]  -->  [header][500->C][900->D]  -> [header][900 len 20 at 7000][..]..[checksum]
//! ```
//!
//! # Invariants (`check_node` checks them when a node is first read)
//!
//! - X1: entries of a node ascend and lie within what the parent's entries leave them.
//! - X2: extents of a leaf do not overlap, have a length, and lead to blocks that may be a file's.
//! - X3: depth falls by one from parent to child, and the root's is at most [`MAX_DEPTH`].
//!
//! Sources: Documentation/filesystems/ext4/ifork.rst (Linux 7.2).

mod edit;
mod node;
mod shift;
mod tree;

pub(crate) use edit::freed_as;
pub use edit::{RemoveOutcome, insert, mark_written, remove};
pub(crate) use node::{init_root, seal};
pub use shift::{Shift, shift, split_at};
pub use tree::{Extent, Mapping, lookup};

/// The deepest tree there can be.
pub(crate) const MAX_DEPTH: u16 = 5;
/// The longest extent; one block less when it is not written yet.
pub const MAX_LEN: u32 = 32768;
