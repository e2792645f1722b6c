//! Starting the other CPUs.

use crate::arch;

/// Starts every other CPU that the firmware lists (at most `max` in all); each calls `entry`, which must not
/// return, with interrupts off, preemption count 0 and a boot thread as its current one.
/// Returns the number of CPUs that run.
pub fn start_all(max: usize, entry: fn() -> !) -> usize {
    arch::smp::start_all(max, entry)
}
