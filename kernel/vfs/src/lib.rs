#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acl;
pub mod anon;
pub mod attr;
mod dcache;
pub mod dentry;
pub mod dev;
pub mod device_mounts;
pub mod direct;
pub mod dnotify;
mod dontcache;
pub mod fcntl;
pub mod fdtable;
pub mod file;
pub mod file_attr;
pub mod fs_context;
pub mod handle;
pub mod idmap;
pub mod initramfs;
pub mod inode;
pub mod listing;
pub mod lock;
pub mod mount;
pub mod mount_fd;
pub mod mount_ops;
pub mod mountinfo;
mod moves;
pub mod namespace;
pub mod notify;
mod nullfs;
pub mod open;
pub mod params;
pub mod path;
pub mod perm;
pub mod pipe;
mod places;
pub mod propagation;
pub mod readdir;
pub mod rw;
pub mod sigio;
pub mod splice;
pub mod superblock;
pub mod text;
pub mod time;
pub mod walk;
pub mod xattr;

pub use dcache::{limit as dentry_limit, nr_dentries, shrink as shrink_dentries};
pub use dentry::Dentry;
pub use direct::{Direct, DirectJob};
pub use fdtable::{FdFlags, FdTable, Held};
pub use file::{DirEmit, File, FileMode, FileOps, ReleaseWatch, RwKind, ShowPart, SyncMode, Whence};
pub use fs_context::{FsContext, WalkContext};
pub use idmap::IdView;
pub use inode::{Inode, InodeFlags, InodeInit, InodeOps, Link, NewInode, OpenRequest, SetAttr};
pub use mount::{Mount, MountFlags, MountNs};
pub use path::Path;
pub use superblock::{FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps, register_fs};
pub use walk::{At, WalkFlags, walk};
