//! Interrupts: the CPU's mask, vectors, and what arrives at them.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{apic, cpu, instr, power, time};
use crate::cpu::{CpuId, MAX_CPUS};
use crate::irq::{IrqInfo, IrqLine, MsiMessage, RequestError};

/// The interrupt flag in RFLAGS.
const IF: u64 = 1 << 9;
/// Vectors for device lines; those below are exceptions and, by tradition, the 8259's.
const FIRST_DEVICE: u8 = 0x30;
const NR_DEVICE: usize = (apic::VECTOR_TIMER - FIRST_DEVICE) as usize;
/// Message-signalled interrupts that there can be: each vector can be one.
pub(crate) const NR_MSI: usize = NR_DEVICE;

/// The line of each device vector: 0 is none, else 1 + number, with [`GSI`] for a global interrupt.
static LINES: [AtomicU32; NR_DEVICE] = [const { AtomicU32::new(0) }; NR_DEVICE];
const GSI: u32 = 1 << 31;
/// The vector is a message's; its number is the slot's.
const MESSAGE: u32 = 1 << 30;
/// Where messages to local APICs go (Intel SDM vol. 3, 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
/// CPUs are told to stop: an NMI means that.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Kinds of interrupts that are counted here; devices' are counted by the front.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Kind {
    Timer,
    Reschedule,
    Call,
    Spurious,
    Nmi,
}

const KINDS: [(Kind, &str, &str); 5] = [
    (Kind::Timer, "LOC", "Local timer interrupts"),
    (Kind::Reschedule, "RES", "Rescheduling interrupts"),
    (Kind::Call, "CAL", "Function call interrupts"),
    (Kind::Spurious, "SPU", "Spurious interrupts"),
    (Kind::Nmi, "NMI", "Non-maskable interrupts"),
];

/// What one CPU knows about its interrupts. Only that CPU writes.
#[repr(align(64))]
struct State {
    counts: [AtomicU64; KINDS.len()],
    /// The interrupt being handled came in user mode.
    from_user: AtomicBool,
}

static STATES: [State; MAX_CPUS] = [const {
    State { counts: [const { AtomicU64::new(0) }; KINDS.len()], from_user: AtomicBool::new(false) }
}; MAX_CPUS];

#[inline]
fn count(kind: Kind) {
    // Only this CPU writes, with interrupts off: no locked instruction is needed. An NMI may lose a count.
    let count = &STATES[cpu::current_id() as usize].counts[kind as usize];
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Masks interrupts; whether they were on.
#[inline]
pub(crate) fn save_and_disable() -> bool {
    let were_on = enabled();
    instr::cli();
    were_on
}

/// Lets interrupts in. The front calls it when no guard forbids it.
#[inline]
pub(crate) fn enable() {
    // SAFETY: interrupts were on before some guard, so the IDT and the per-CPU area are loaded; guards nest by
    // remembering that they were off.
    unsafe { instr::sti() };
}

/// Are interrupts on?
#[inline]
pub(crate) fn enabled() -> bool {
    instr::read_rflags() & IF != 0
}

/// Starts to deliver `line`.
pub(crate) fn route(line: IrqLine) -> Result<(), RequestError> {
    super::ioapic::route(line)
}

/// A free vector for `line`.
pub(crate) fn assign_vector(line: IrqLine) -> Option<u8> {
    let code = match line {
        IrqLine::Isa(number) => 1 + u32::from(number),
        IrqLine::Gsi(number) => GSI | (1 + number),
    };
    let free = |slot: &AtomicU32| slot.compare_exchange(0, code, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let at = LINES.iter().position(free)?;
    Some(FIRST_DEVICE + at as u8)
}

/// A free vector as a message to `cpu`: its number, and what raises it.
pub(crate) fn assign_msi(cpu: CpuId) -> Option<(usize, MsiMessage)> {
    // The message holds 8 bits of the APIC id; fixed delivery, physical destination, by edge.
    let id = apic::id_of(cpu.0);
    let id = if id <= 0xff { id } else { apic::id_of(0) };
    let free =
        |slot: &AtomicU32| slot.compare_exchange(0, MESSAGE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let at = LINES.iter().position(free)?;
    let data = u32::from(FIRST_DEVICE) + at as u32;
    Some((at, MsiMessage { address: MESSAGE_ADDRESS | u64::from(id) << 12, data }))
}

/// Gives message `number` back; nobody sends it any more.
pub(crate) fn free_msi(number: usize) {
    if let Some(slot) = LINES.get(number) {
        let _ = slot.compare_exchange(MESSAGE, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Did the interrupt that this CPU handles come in user mode?
pub(crate) fn interrupted_user_mode() -> bool {
    STATES[cpu::current_id() as usize].from_user.load(Ordering::Relaxed)
}

/// Runs what belongs to `vector`; exception entry calls it with interrupts off. Handlers do not nest.
pub(crate) fn interrupt(vector: u8, from_user: bool) {
    STATES[cpu::current_id() as usize].from_user.store(from_user, Ordering::Relaxed);
    crate::rcu::interrupt_enter();
    match vector {
        apic::VECTOR_TIMER => {
            count(Kind::Timer);
            apic::end_of_interrupt();
            time::timer_interrupt();
        }
        apic::VECTOR_RESCHEDULE => {
            count(Kind::Reschedule);
            apic::end_of_interrupt();
            if let Some(upcalls) = crate::trap::upcalls() {
                upcalls.reschedule_ipi();
            }
        }
        apic::VECTOR_CALL => {
            count(Kind::Call);
            apic::end_of_interrupt();
            crate::ipi::handle_call();
        }
        _ => {
            let line = usize::from(vector).checked_sub(FIRST_DEVICE.into()).and_then(|at| LINES.get(at));
            match line.map_or(0, |line| line.load(Ordering::Acquire)) {
                // The APIC's own spurious interrupt must not be acknowledged (SDM vol. 3, 11.9). Any other must be, though
                // its line was given up while it was on its way: this CPU would get none of its class any more.
                0 => {
                    count(Kind::Spurious);
                    if vector != apic::VECTOR_SPURIOUS {
                        apic::end_of_interrupt();
                    }
                }
                MESSAGE => {
                    apic::end_of_interrupt();
                    crate::irq::dispatch_msi(usize::from(vector - FIRST_DEVICE));
                }
                code => {
                    let number = (code & !GSI) - 1;
                    crate::irq::dispatch(if code & GSI == 0 {
                        IrqLine::Isa(number as u8)
                    } else {
                        IrqLine::Gsi(number)
                    });
                    // After the handler: a level-triggered line is quiet by now.
                    apic::end_of_interrupt();
                }
            }
        }
    }
}

/// A non-maskable interrupt arrived.
pub(crate) fn nmi() {
    count(Kind::Nmi);
    if STOPPING.load(Ordering::Acquire) {
        power::halt_forever();
    }
}

/// Stops all other CPUs, wherever they are.
pub(crate) fn stop_others() {
    if STOPPING.swap(true, Ordering::AcqRel) {
        return;
    }
    let me = cpu::current_id();
    for other in cpu::online_mask().iter().filter(|other| other.0 != me) {
        apic::send_nmi(other.0);
    }
}

/// The counts of timer and inter-processor interrupts.
pub(crate) fn collect_counts() -> Vec<IrqInfo> {
    let cpus = cpu::nr_online();
    let info = |&(kind, label, name): &(Kind, &str, &str)| IrqInfo {
        label: String::from(label),
        name: String::from(name),
        counts: STATES[..cpus]
            .iter()
            .map(|state| state.counts[kind as usize].load(Ordering::Relaxed))
            .collect(),
    };
    KINDS.iter().map(info).collect()
}
