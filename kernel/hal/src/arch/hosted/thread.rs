//! Kernel threads as host threads that pass CPU tokens to each other.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use std::panic;
use std::string::String;
use std::sync::{Condvar, Mutex, PoisonError};

use super::cpu;
use crate::addr::UserAddr;
use crate::error::{Fault, NoMemory};
use crate::ports::Ports;
use crate::preempt::NO_RESCHED;
use crate::segment::Selectors;
use crate::thread::{Breakpoints, Current, Fpu, Thread};
use crate::trap::{self, Oops, UserRegs};

/// What a thread gets when it is switched to.
struct HandOff {
    cpu: u32,
    prev: *const Thread,
    me: *const Thread,
}

// SAFETY: the pointers are only passed on; `crate::thread` keeps both threads alive over the switch.
unsafe impl Send for HandOff {}

enum Turn {
    Waiting,
    Given(HandOff),
    /// The `Thread` is gone: nobody will ever switch here again.
    Gone,
}

/// Where a host thread waits for its turn.
struct Gate {
    turn: Mutex<Turn>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, turn: Turn) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        self.changed.notify_all();
    }

    fn wait(&self) -> Option<HandOff> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match core::mem::replace(&mut *turn, Turn::Waiting) {
                Turn::Given(given) => return Some(given),
                Turn::Gone => return None,
                Turn::Waiting => {}
            }
            turn = self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Payload that unwinds a host thread whose kernel thread is gone.
struct ThreadGone;

pub struct ArchThread {
    gate: Arc<Gate>,
    fs_base: AtomicU64,
    gs_base: AtomicU64,
}

impl Drop for ArchThread {
    fn drop(&mut self) {
        self.gate.set(Turn::Gone);
    }
}

impl ArchThread {
    pub fn boot() -> ArchThread {
        let gate = Gate { turn: Mutex::new(Turn::Waiting), changed: Condvar::new() };
        ArchThread { gate: Arc::new(gate), fs_base: AtomicU64::new(0), gs_base: AtomicU64::new(0) }
    }

    pub fn new() -> Result<ArchThread, NoMemory> {
        let thread = ArchThread::boot();
        let gate = thread.gate.clone();
        let body = move || {
            let Some(given) = gate.wait() else { return };
            local_take(&given);
            cpu::LOCAL.with(|l| {
                l.preempt.set(NO_RESCHED | 1);
                l.irqs_on.set(false);
            });
            let prev = given.prev;
            let run = move || {
                // SAFETY: `prev` switched here and waits in `switch`.
                unsafe { crate::thread::begin(prev) }
            };
            let _gone = panic::catch_unwind(panic::AssertUnwindSafe(run));
            // The token went to the next thread, but guards that were unwound may have taken another.
            cpu::give_back();
        };
        std::thread::Builder::new().spawn(body).map_err(|_| NoMemory)?;
        Ok(thread)
    }

    pub fn new_user(fpu: Fpu) -> Result<ArchThread, NoMemory> {
        let thread = ArchThread::new()?;
        if fpu == Fpu::CopyCurrent {
            let current = crate::thread::current();
            thread.fs_base.store(fs_base(&current), Ordering::Relaxed);
            thread.gs_base.store(gs_base(&current), Ordering::Relaxed);
        }
        Ok(thread)
    }

    pub fn stack_bounds(&self) -> (usize, usize) {
        (0, usize::MAX)
    }

    /// User code does not run here.
    pub fn peek_user_regs(&self) -> Option<crate::trap::UserRegs> {
        None
    }

    pub fn set_first_fs_base(&self, base: u64) {
        self.fs_base.store(base, Ordering::Relaxed);
    }
}

/// Takes the CPU of a hand-off.
fn local_take(given: &HandOff) {
    cpu::LOCAL.with(|l| {
        l.cpu.set(given.cpu);
        l.current.set(given.me);
    });
}

/// Hands this CPU to `next` and waits until somebody hands one back.
///
/// # Safety
///
/// 1. `prev` is the current thread and `next` is saved or new; both are alive.
pub unsafe fn switch(prev: *const Thread, next: *const Thread) -> *const Thread {
    let cpu = cpu::current_id();
    // SAFETY: 1.
    let (my_gate, next_gate) = unsafe { ((*prev).arch.gate.clone(), (*next).arch.gate.clone()) };
    cpu::hand_over();
    next_gate.set(Turn::Given(HandOff { cpu, prev, me: next }));
    // From here on `prev` may be freed, if it was its last switch.
    match my_gate.wait() {
        Some(given) => {
            local_take(&given);
            given.prev
        }
        None => {
            cpu::forget_thread();
            panic::resume_unwind(Box::new(ThreadGone))
        }
    }
}

pub fn enter_user(_regs: &UserRegs) -> ! {
    panic!("the hosted machine has no user mode")
}

pub fn catch(f: Box<dyn FnOnce() + Send>) -> Result<(), ()> {
    panic::catch_unwind(panic::AssertUnwindSafe(f)).map_err(|payload| {
        if payload.is::<ThreadGone>() {
            panic::resume_unwind(payload);
        }
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (_, Some(text)) => text.as_str(),
            _ => "panic",
        };
        if let Some(up) = trap::upcalls() {
            up.oops(&Oops { message, in_thread: true });
        }
    })
}

pub fn exit_without_upcalls() -> ! {
    panic::resume_unwind(Box::new(ThreadGone))
}

pub fn fs_base(current: &Current) -> u64 {
    current.arch.fs_base.load(Ordering::Relaxed)
}

pub fn set_fs_base(current: &Current, base: u64) {
    current.arch.fs_base.store(base, Ordering::Relaxed);
}

pub fn gs_base(current: &Current) -> u64 {
    current.arch.gs_base.load(Ordering::Relaxed)
}

pub fn set_gs_base(current: &Current, base: u64) {
    current.arch.gs_base.store(base, Ordering::Relaxed);
}

pub fn selectors(_current: &Current) -> Selectors {
    [0; 4]
}

pub fn set_segments(current: &Current, _selectors: Selectors, fs_base: u64, gs_base: u64) {
    set_fs_base(current, fs_base);
    set_gs_base(current, gs_base);
}

pub fn note_segments(_current: &Current, _regs: &UserRegs) {}

/// There is user data, and nothing else.
pub fn is_stack_segment(_current: &Current, selector: u16) -> bool {
    selector == 0x2b
}

pub fn reset_user_state(current: &Current) {
    set_fs_base(current, 0);
    set_gs_base(current, 0);
}

pub fn save_fpu(_current: &Current, to: UserAddr, _rights: u32) -> Result<(), Fault> {
    crate::user::zero(to, fpu_frame_size())
}

pub fn restore_fpu(_current: &Current, from: UserAddr) -> Result<(), Fault> {
    crate::user::read::<[u8; 512]>(from).map(|_| ())
}

pub fn fpu_bytes(_current: &Current) -> Result<Vec<u8>, NoMemory> {
    Ok(alloc::vec![0; fpu_frame_size()])
}

pub fn set_fpu_bytes(_current: &Current, bytes: &[u8]) -> Result<(), Fault> {
    if bytes.len() == fpu_frame_size() { Ok(()) } else { Err(Fault) }
}

pub fn set_breakpoints(_thread: &Thread, wanted: &Breakpoints) -> Result<(), Fault> {
    if wanted.addr.iter().all(|&addr| addr < crate::USER_END) { Ok(()) } else { Err(Fault) }
}

pub fn ports(_thread: &Thread) -> Ports {
    Ports::default()
}

pub fn set_ports(_current: &Current, _ports: Ports) {}

pub fn set_first_ports(_thread: &Thread, _ports: Ports) {}

pub fn forbid_tsc(_thread: &Thread, _on: bool) {}

pub fn is_tsc_forbidden(_thread: &Thread) -> bool {
    false
}

pub fn fpu_frame_size() -> usize {
    512
}
