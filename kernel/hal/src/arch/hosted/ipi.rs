//! Interrupts between CPU tokens.

use super::cpu::{CPUS, EVENT_CALL, EVENT_RESCHED};

pub fn kick(cpu: u32) {
    CPUS[cpu as usize].post(EVENT_RESCHED);
}

pub fn send_call(cpu: u32) {
    CPUS[cpu as usize].post(EVENT_CALL);
}
