//! Keel, the kernel binary.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use hal as _;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("keel is a kernel: build it for x86_64-unknown-none and boot it");
}
