//! CPU tokens and the state of the host thread that holds one.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread_local;

use crate::cpu::{CpuInfo, CpuMask, MAX_CPUS};
use crate::preempt::NO_RESCHED;
use crate::thread::Thread;

/// Event: the reschedule IPI.
pub(super) const EVENT_RESCHED: u32 = 1;
/// Event: the function-call IPI.
pub(super) const EVENT_CALL: u32 = 2;

/// One simulated CPU.
pub(super) struct HostCpu {
    taken: AtomicBool,
    events: AtomicU32,
    /// The one-shot timer; `u64::MAX` is off.
    pub(super) timer_ns: AtomicU64,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl HostCpu {
    const fn new() -> HostCpu {
        HostCpu {
            taken: AtomicBool::new(false),
            events: AtomicU32::new(0),
            timer_ns: AtomicU64::new(u64::MAX),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Makes `event` pending and wakes the CPU from idle.
    pub(super) fn post(&self, event: u32) {
        let _sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.events.fetch_or(event, Ordering::SeqCst);
        self.wake.notify_all();
    }
}

pub(super) static CPUS: [HostCpu; MAX_CPUS] = [const { HostCpu::new() }; MAX_CPUS];
/// Tokens that are held.
static ONLINE: AtomicU64 = AtomicU64::new(0);

const NO_CPU: u32 = u32::MAX;
/// What the preemption count of a host thread begins with whose kernel thread is gone: it never becomes 0, and
/// [`deliver`] heeds it.
const GONE: u32 = 1 << 16;

/// What a real CPU keeps in registers and per-CPU memory; it moves with the host thread that runs.
pub(super) struct Local {
    pub(super) cpu: Cell<u32>,
    pub(super) preempt: Cell<u32>,
    pub(super) irqs_on: Cell<bool>,
    pub(super) in_interrupt: Cell<bool>,
    pub(super) current: Cell<*const Thread>,
}

/// Gives the CPU back when its host thread ends. `Local` itself needs no destructor, so that kernel code can
/// still run in this one.
struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if LOCAL.with(|l| l.cpu.get()) == NO_CPU {
            return;
        }
        if let Some(hook) = EXIT_HOOK.get() {
            hook();
        }
        give_back();
    }
}

/// Gives back the token that this host thread has, if any. Nobody waits for its CPU's readers any more.
pub(super) fn give_back() {
    let cpu = LOCAL.with(|l| l.cpu.get());
    if cpu == NO_CPU {
        return;
    }
    ONLINE.fetch_and(!(1 << cpu), Ordering::SeqCst);
    crate::rcu::quiescent();
    LOCAL.with(|l| l.cpu.set(NO_CPU));
    CPUS[cpu as usize].taken.store(false, Ordering::Release);
}

/// The kernel thread of this host thread is gone, and guards are about to be unwound. They may take a CPU, but
/// handle no events on it and switch to no other thread: nobody could switch back.
pub(super) fn forget_thread() {
    LOCAL.with(|l| {
        l.current.set(ptr::null());
        l.preempt.set(NO_RESCHED | GONE);
    });
}

/// See [`super::control::set_exit_hook`].
pub(super) static EXIT_HOOK: crate::sync::Once<fn()> = crate::sync::Once::new();

thread_local! {
    pub(super) static LOCAL: Local = const {
        Local {
            cpu: Cell::new(NO_CPU),
            preempt: Cell::new(NO_RESCHED),
            irqs_on: Cell::new(true),
            in_interrupt: Cell::new(false),
            current: Cell::new(ptr::null()),
        }
    };
    static EXIT: ExitGuard = const { ExitGuard };
}

/// Calls `f` with this host thread's state; a thread without a CPU gets one.
pub(super) fn local<R>(f: impl FnOnce(&Local) -> R) -> R {
    LOCAL.with(|local| {
        if local.cpu.get() == NO_CPU {
            local.cpu.set(acquire());
            // Registers the destructor. A thread that is ending already keeps its CPU.
            let _ending = EXIT.try_with(|_| ());
        }
        f(local)
    })
}

fn acquire() -> u32 {
    loop {
        for (i, cpu) in CPUS.iter().enumerate() {
            if !cpu.taken.swap(true, Ordering::AcqRel) {
                cpu.events.store(0, Ordering::SeqCst);
                cpu.timer_ns.store(u64::MAX, Ordering::SeqCst);
                ONLINE.fetch_or(1 << i, Ordering::SeqCst);
                return i as u32;
            }
        }
        std::thread::yield_now();
    }
}

/// Forgets the token without giving it back: it was handed to another host thread.
pub(super) fn hand_over() {
    LOCAL.with(|local| local.cpu.set(NO_CPU));
}

pub fn current_id() -> u32 {
    local(|l| l.cpu.get())
}

pub fn nr_online() -> usize {
    ONLINE.load(Ordering::SeqCst).count_ones().max(1) as usize
}

pub fn online_mask() -> CpuMask {
    CpuMask(ONLINE.load(Ordering::SeqCst))
}

pub fn relax() {
    deliver();
    std::thread::yield_now();
}

/// Runs the handlers of pending events if interrupts are on.
pub(super) fn deliver() {
    let takes = |l: &Local| l.irqs_on.get() && !l.in_interrupt.get() && l.preempt.get() & GONE == 0;
    let cpu = local(|l| takes(l).then(|| l.cpu.get()));
    let Some(cpu) = cpu else { return };
    if preempt_load() & !NO_RESCHED == 0 {
        // No reader here; a test thread may never come to a better place to say so.
        crate::rcu::quiescent();
    }
    let cpu = &CPUS[cpu as usize];
    let events = match cpu.events.load(Ordering::Relaxed) {
        0 => 0,
        _ => cpu.events.swap(0, Ordering::SeqCst),
    };
    let timer = cpu.timer_ns.load(Ordering::Relaxed);
    let fired = timer != u64::MAX && super::time::now_ns() >= timer;
    if events == 0 && !fired {
        return;
    }
    local(|l| {
        l.in_interrupt.set(true);
        l.irqs_on.set(false);
    });
    crate::rcu::interrupt_enter();
    if events & EVENT_CALL != 0 {
        crate::ipi::handle_call();
    }
    if let Some(up) = crate::trap::upcalls() {
        if fired {
            cpu.timer_ns.store(u64::MAX, Ordering::SeqCst);
            up.timer_interrupt();
        }
        if events & EVENT_RESCHED != 0 {
            up.reschedule_ipi();
        }
    }
    local(|l| {
        l.irqs_on.set(true);
        l.in_interrupt.set(false);
    });
}

pub fn in_interrupt() -> bool {
    local(|l| l.in_interrupt.get())
}

pub fn idle_wait() {
    let cpu = &CPUS[current_id() as usize];
    {
        let mut sleep = cpu.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while cpu.events.load(Ordering::SeqCst) == 0 {
            let timer = cpu.timer_ns.load(Ordering::SeqCst);
            let now = super::time::now_ns();
            if timer <= now {
                break;
            }
            // The test clock may jump: look again now and then.
            let nap = Duration::from_nanos((timer - now).min(20_000_000));
            sleep = cpu.wake.wait_timeout(sleep, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    super::irq::enable();
}

/// As the machine numbers them.
pub fn apic_id(cpu: u32) -> u32 {
    cpu
}

/// There is no CPUID.
pub fn cpuid_registers(_leaf: u32, _subleaf: u32) -> [u32; 4] {
    [0; 4]
}

pub fn info(cpu: u32) -> CpuInfo {
    CpuInfo {
        vendor: "KeelHosted".into(),
        model_name: "hosted machine".into(),
        khz: 1_000_000,
        apic_id: cpu,
        address_bits: (40, 48),
        ..CpuInfo::default()
    }
}

pub fn current_thread() -> *const Thread {
    let current = local(|l| l.current.get());
    if !current.is_null() {
        return current;
    }
    let adopted = crate::thread::adopt();
    local(|l| l.current.set(adopted));
    adopted
}

pub fn preempt_inc() {
    local(|l| l.preempt.set(l.preempt.get() + 1));
}

pub fn preempt_dec() -> bool {
    let now = local(|l| {
        let now = l.preempt.get() - 1;
        l.preempt.set(now);
        now
    });
    if now & !NO_RESCHED == 0 {
        deliver();
        return preempt_load() == 0;
    }
    false
}

pub fn preempt_load() -> u32 {
    local(|l| l.preempt.get())
}

pub fn preempt_fold_resched(wanted: bool) {
    local(|l| {
        let word = l.preempt.get();
        l.preempt.set(if wanted { word & !NO_RESCHED } else { word | NO_RESCHED });
    });
}
