//! Keel, the kernel binary.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", feature = "selftest"))]
extern crate alloc;

#[cfg(all(target_os = "none", feature = "selftest"))]
mod selftest;

#[cfg(all(target_os = "none", feature = "selftest"))]
hal::entry!(selftest::main);

#[cfg(all(target_os = "none", not(feature = "selftest")))]
hal::entry!(start);

/// Brings the machine up; hal calls it on the boot CPU.
#[cfg(all(target_os = "none", not(feature = "selftest")))]
fn start() -> ! {
    let stats = hal::frame::stats();
    log::info!("Keel: {} KiB of memory, {} KiB free", stats.total * 4, stats.free * 4);
    let cpus = hal::smp::start_all(hal::cpu::MAX_CPUS, idle);
    log::info!("{cpus} CPUs run");
    hal::power::power_off()
}

#[cfg(all(target_os = "none", not(feature = "selftest")))]
fn idle() -> ! {
    loop {
        hal::cpu::idle_wait();
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("keel is a kernel: build it for x86_64-unknown-none and boot it");
}
