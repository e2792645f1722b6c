//! The whole file system on disks in memory; e2fsck judges the images that it leaves.

mod crash;
mod env;
mod faults;
mod files;
mod flight;
mod hostile;
mod inline;
mod promises;
