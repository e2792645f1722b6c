//! Keel, the kernel binary: the boot order and the glue between hal and the floors above it.
//!
//! Unsafe code is denied, not forbidden as elsewhere: `hal::entry!` expands to the one symbol that hal
//! looks for by name, whose attribute counts as unsafe.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg(not(feature = "selftest"))]
mod boot;
#[cfg(not(feature = "selftest"))]
mod console;
#[cfg(not(feature = "selftest"))]
mod devices;
#[cfg(not(feature = "selftest"))]
mod params;
#[cfg(not(feature = "selftest"))]
mod root;
#[cfg(all(target_os = "none", feature = "schedtest"))]
mod schedtest;
#[cfg(all(target_os = "none", feature = "selftest", not(feature = "schedtest")))]
mod selftest;
#[cfg(not(feature = "selftest"))]
mod upcalls;

#[cfg(not(feature = "selftest"))]
hal::entry!(boot::main);
#[cfg(all(target_os = "none", feature = "schedtest"))]
hal::entry!(schedtest::main);
#[cfg(all(target_os = "none", feature = "selftest", not(feature = "schedtest")))]
hal::entry!(selftest::main);
#[cfg(all(not(target_os = "none"), feature = "selftest"))]
fn main() {
    eprintln!("keel is a kernel: build it for x86_64-unknown-none and boot it");
}
