//! Preemption: the per-CPU count that forbids it, and the hook that does it.
//!
//! One per-CPU word holds the nesting depth in its low bits and an inverted "need to reschedule" flag in
//! bit 31 ([`NO_RESCHED`]), so that leaving the last section needs one decrement and one branch: the word
//! becomes 0 exactly if nothing forbids preemption and one is wanted.

use core::marker::PhantomData;

use crate::arch;
use crate::sync::Once;

/// Set in the count word while nobody wants this CPU to reschedule.
pub(crate) const NO_RESCHED: u32 = 1 << 31;

static HOOK: Once<fn(&PreemptGuard)> = Once::new();

/// Proof that the current thread stays on its CPU. Preemption is off until it is dropped.
#[must_use]
pub struct PreemptGuard {
    not_send: PhantomData<*mut ()>,
}

/// Forbids preemption until the guard is dropped. Nests.
#[inline]
pub fn disable() -> PreemptGuard {
    arch::cpu::preempt_inc();
    PreemptGuard { not_send: PhantomData }
}

impl Drop for PreemptGuard {
    #[inline]
    fn drop(&mut self) {
        if arch::cpu::preempt_dec() {
            resched();
        }
    }
}

/// Is sleeping forbidden here (preemption or interrupts off)?
#[inline]
pub fn is_atomic() -> bool {
    count() != 0 || !arch::irq::enabled()
}

/// The nesting depth of sections with preemption off.
#[inline]
pub fn count() -> u32 {
    arch::cpu::preempt_load() & !NO_RESCHED
}

/// Asks this CPU to call the hook as soon as preemption is possible. Interrupts or preemption must be off.
#[inline]
pub fn set_need_resched() {
    arch::cpu::preempt_fold_resched(true);
}

/// Takes the request of [`set_need_resched`] back; the scheduler does so when it switches.
#[inline]
pub fn clear_need_resched() {
    arch::cpu::preempt_fold_resched(false);
}

/// Is a reschedule of this CPU wanted?
#[inline]
pub fn need_resched() -> bool {
    arch::cpu::preempt_load() & NO_RESCHED == 0
}

/// Registers the function that preempts the current thread. It is called with interrupts on, and with preemption off
/// by the one guard that it gets, whenever a reschedule is wanted and becomes possible; it must clear the request.
/// Once only.
pub fn set_resched_hook(hook: fn(&PreemptGuard)) {
    HOOK.call_once(|| hook);
}

/// Preempts now if wanted and possible. Traps call it before they return to kernel code.
#[inline]
pub fn check_resched() {
    if arch::cpu::preempt_load() == 0 {
        resched();
    }
}

#[cold]
fn resched() {
    while arch::irq::enabled() && arch::cpu::preempt_load() == 0 {
        let Some(hook) = HOOK.get() else { return };
        let pinned = disable();
        hook(&pinned);
        core::mem::forget(pinned);
        arch::cpu::preempt_dec();
    }
}

/// Preempts the kernel code that an interrupt has interrupted, if wanted and possible. Interrupts are off before and
/// after.
///
/// They are on only while preemption is off: an interrupt that comes meanwhile does not preempt in its turn, so the
/// depth of the stack does not grow with the number of interrupts.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "hosted interrupts come at chosen points"))]
pub(crate) fn preempt_interrupted() {
    while arch::cpu::preempt_load() == 0
        && let Some(hook) = HOOK.get()
    {
        let pinned = disable();
        arch::irq::enable();
        hook(&pinned);
        arch::irq::save_and_disable();
        core::mem::forget(pinned);
        arch::cpu::preempt_dec();
    }
}
