//! Interrupts from one CPU to another.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::cpu::{self, CpuId, CpuMask};
use crate::preempt;
use crate::sync::FairLock;

/// Makes `cpu` notice changed work flags and its run queue: it calls [`crate::trap::Upcalls::reschedule_ipi`].
pub fn kick(cpu: CpuId) {
    arch::ipi::kick(cpu.0);
}

struct Call {
    f: Option<fn(u64)>,
    arg: u64,
}

/// Makes callers take turns, in the order in which they come: threads that change mappings for ever would keep the others
/// from calling.
static CALL_LOCK: FairLock<()> = FairLock::new("hal.ipi.call", ());
static CALL: crate::sync::IrqLock<Call> = crate::sync::IrqLock::new("hal.ipi.data", Call { f: None, arg: 0 });
static PENDING: AtomicU64 = AtomicU64::new(0);

/// Runs `f(arg)` on each CPU of `mask` (also on this one, if in it) and waits until all have.
///
/// Interrupts must be on: two CPUs that call each other would otherwise wait for ever. `f` runs with
/// interrupts off.
pub fn call(mask: CpuMask, f: fn(u64), arg: u64) {
    let _serial = CALL_LOCK.lock();
    let pinned = preempt::disable();
    let me = cpu::current_id(&pinned);
    let mut others = mask.and(cpu::online());
    if others.contains(me) {
        others.remove(me);
        crate::irq::without(|| f(arg));
    }
    if others.is_empty() {
        return;
    }
    *CALL.lock() = Call { f: Some(f), arg };
    // Release (A): a CPU that sees its bit sees the call.
    PENDING.store(others.0, Ordering::Release);
    for cpu in others.iter() {
        arch::ipi::send_call(cpu.0);
    }
    // Acquire (B): what the others did in `f` is visible from here on.
    while PENDING.load(Ordering::Acquire) != 0 {
        cpu::relax();
    }
}

/// The receiving end; the machine's IPI entry calls it with interrupts off.
pub(crate) fn handle_call() {
    let bit = 1u64 << arch::cpu::current_id();
    // Acquire pairs with (A).
    if PENDING.load(Ordering::Acquire) & bit == 0 {
        return;
    }
    let (f, arg) = {
        let call = CALL.lock();
        (call.f, call.arg)
    };
    if let Some(f) = f {
        f(arg);
    }
    // Release pairs with (B).
    PENDING.fetch_and(!bit, Ordering::Release);
}
