//! Interrupts from one CPU to another.

use super::apic;

/// Makes `cpu` run the reschedule upcall.
#[inline]
pub(crate) fn kick(cpu: u32) {
    apic::send_vector(cpu, apic::VECTOR_RESCHEDULE);
}

/// Makes `cpu` run the pending function call.
#[inline]
pub(crate) fn send_call(cpu: u32) {
    apic::send_vector(cpu, apic::VECTOR_CALL);
}
