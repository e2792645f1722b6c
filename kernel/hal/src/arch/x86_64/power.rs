//! Stopping the machine.

use super::instr;

/// Stops this CPU for good.
pub(crate) fn halt_forever() -> ! {
    instr::cli();
    loop {
        instr::hlt();
    }
}
