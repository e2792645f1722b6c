//! Ports that user code may use: the I/O map behind each CPU's task-state segment.
//!
//! A thread with ports has [`NEED_PORTS`] in its work word, so each way to user mode opens its map on that CPU, with
//! interrupts off. Leaving the CPU closes it; its contents stay until another map is opened there.
//!
//! # Invariants
//!
//! - I1: while user code of a thread runs, its CPU's map is closed, or open with the thread's ports.
//!
//! Source: Intel SDM vol. 1 ch. 19.5.2 (I/O permission bit map).

use core::sync::atomic::Ordering;

use super::{cpulocal, gdt};
use crate::ports::{MAP_WORDS, Ports};
use crate::thread::{Current, Thread};

/// The work flag that says: open the map of ports before user mode.
pub(super) const NEED_PORTS: u32 = 1 << 27;

/// What [`gdt::open_ports`] knows the map of all ports by.
const ALL_ID: u64 = u64::MAX;
static ALL: [u64; MAP_WORDS] = [0; MAP_WORDS];

/// What user code of `thread` may use.
pub(crate) fn get(thread: &Thread) -> Ports {
    thread.arch.ports.lock().clone()
}

/// Lets the current thread use `ports`.
pub(crate) fn set(current: &Current, ports: Ports) {
    let off = crate::irq::disable();
    let old = replace(current, ports);
    // I1; the way to user mode opens it again where wanted.
    // SAFETY: interrupts are off.
    unsafe { gdt::close_ports(cpulocal::this()) };
    drop(off);
    drop(old);
}

/// Gives them to a thread that has not run.
pub(crate) fn set_first(thread: &Thread, ports: Ports) {
    drop(replace(thread, ports));
}

fn replace(thread: &Thread, ports: Ports) -> Ports {
    if ports.are_any() {
        thread.work_word().fetch_or(NEED_PORTS, Ordering::Release);
    } else {
        thread.work_word().fetch_and(!NEED_PORTS, Ordering::Release);
    }
    core::mem::replace(&mut *thread.arch.ports.lock(), ports)
}

/// Opens this CPU's map for `thread`, which is about to enter user mode. Interrupts are off.
#[cold]
pub(super) fn enter(thread: &Thread) {
    let ports = thread.arch.ports.lock();
    let (words, id) = match &ports.map {
        _ if ports.level >= Ports::ALL => (&ALL[..], ALL_ID),
        Some(map) => map.words(),
        None => return,
    };
    // SAFETY: interrupts are off.
    unsafe { gdt::open_ports(cpulocal::this(), words, id) };
}

/// Closes this CPU's map: `thread`, whose work word is `word`, leaves the CPU (I1). Interrupts are off.
#[inline]
pub(super) fn leave(word: u32) {
    if word & NEED_PORTS != 0 {
        // SAFETY: interrupts are off.
        unsafe { gdt::close_ports(cpulocal::this()) };
    }
}
