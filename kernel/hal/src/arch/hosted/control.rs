//! What a unit test can do to the hosted machine.

use core::sync::atomic::Ordering;

use super::time::{TEST_CLOCK, TEST_NOW_NS};

/// Replaces host time by a clock that only [`advance_clock_ns`] moves; it starts at the present time.
/// It is one for the whole process: tests that use it must not run beside tests that wait.
pub fn use_test_clock() {
    TEST_NOW_NS.store(super::time::now_ns(), Ordering::Release);
    TEST_CLOCK.store(true, Ordering::Release);
}

/// Moves the test clock forward and delivers this CPU's timer interrupt if due.
pub fn advance_clock_ns(ns: u64) {
    TEST_NOW_NS.fetch_add(ns, Ordering::AcqRel);
    super::cpu::deliver();
}

/// Delivers what interrupts are pending on this CPU.
pub fn poll_interrupts() {
    super::cpu::deliver();
}

/// Runs the handlers of a device line, as if the device had raised it.
pub fn raise_irq(line: crate::irq::IrqLine) {
    let _off = crate::irq::disable();
    crate::irq::dispatch(line);
}

/// Registers what to do when a host thread ends while it holds a CPU; it may hold another one afterwards. Once only.
pub fn set_exit_hook(hook: fn()) {
    super::cpu::EXIT_HOOK.call_once(|| hook);
}
