//! The interrupt flag.

use alloc::vec::Vec;

use super::cpu::{deliver, local};
use crate::cpu::CpuId;
use crate::irq::{IrqInfo, IrqLine, MsiMessage, RequestError};

pub const NR_MSI: usize = 1;

pub fn assign_msi(_cpu: CpuId) -> Option<(usize, MsiMessage)> {
    None
}

pub fn free_msi(_number: usize) {}

pub fn save_and_disable() -> bool {
    local(|l| l.irqs_on.replace(false))
}

pub fn enable() {
    local(|l| l.irqs_on.set(true));
    deliver();
}

pub fn enabled() -> bool {
    local(|l| l.irqs_on.get())
}

pub fn route(_line: IrqLine) -> Result<(), RequestError> {
    Ok(())
}

pub fn collect_counts() -> Vec<IrqInfo> {
    Vec::new()
}

pub fn interrupted_user_mode() -> bool {
    false
}
