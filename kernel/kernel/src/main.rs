//! Keel, the kernel binary.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", feature = "selftest"))]
extern crate alloc;

#[cfg(all(target_os = "none", not(feature = "selftest")))]
use hal as _;

#[cfg(all(target_os = "none", feature = "selftest"))]
mod selftest;

#[cfg(all(target_os = "none", feature = "selftest"))]
hal::entry!(selftest::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("keel is a kernel: build it for x86_64-unknown-none and boot it");
}
