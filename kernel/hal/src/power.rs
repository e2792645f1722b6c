//! The ends of a machine.

use crate::arch;

/// Switches the machine off; halts when it cannot.
pub fn power_off() -> ! {
    arch::power::power_off()
}

/// Restarts the machine; halts when it cannot.
pub fn reboot() -> ! {
    arch::power::reboot()
}

/// Stops this and all other CPUs for ever.
pub fn halt() -> ! {
    arch::power::halt()
}

/// Stops the machine with a last message, as a panic that no thread can survive: the end of the first process.
/// `panic=` on the command line restarts it after a while.
pub fn stop(message: &str) -> ! {
    arch::power::stop(message)
}
