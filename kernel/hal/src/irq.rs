//! Interrupts: switching them off, and handlers for device lines and messages.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;

use crate::arch;
use crate::cpu::CpuId;
use crate::preempt;
use crate::sync::IrqLock;

/// Proof that interrupts are off on this CPU; dropping it restores what was before.
#[must_use]
pub struct IrqGuard {
    were_enabled: bool,
    not_send: PhantomData<*mut ()>,
}

/// Switches interrupts off until the guard is dropped. Nests.
#[inline]
pub fn disable() -> IrqGuard {
    IrqGuard { were_enabled: arch::irq::save_and_disable(), not_send: PhantomData }
}

impl Drop for IrqGuard {
    #[inline]
    fn drop(&mut self) {
        if self.were_enabled {
            arch::irq::enable();
            preempt::check_resched();
        }
    }
}

/// Are interrupts on?
#[inline]
pub fn enabled() -> bool {
    arch::irq::enabled()
}

/// Switches interrupts on without a guard; for the first code of a thread or an idle CPU.
#[inline]
pub fn enable() {
    arch::irq::enable();
}

/// Runs `f` with interrupts off.
#[inline]
pub fn without<R>(f: impl FnOnce() -> R) -> R {
    let _off = disable();
    f()
}

/// A device interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IrqLine {
    /// A line of the ISA bus (0 to 15), routed as ACPI's MADT says.
    Isa(u8),
    /// A global system interrupt (ACPI).
    Gsi(u32),
}

/// Why a line could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The machine has no such line.
    NoSuchLine,
    /// Vectors or memory ran out.
    NoSpace,
}

/// One line of /proc/interrupts.
#[derive(Clone, Debug)]
pub struct IrqInfo {
    /// Its first column.
    pub label: String,
    /// The handler's name.
    pub name: String,
    /// How often it fired, per CPU.
    pub counts: Vec<u64>,
}

struct Handler {
    line: IrqLine,
    name: &'static str,
    run: Box<dyn Fn() + Send + Sync>,
    count: core::sync::atomic::AtomicU64,
}

static HANDLERS: IrqLock<Vec<Arc<Handler>>> = IrqLock::new("hal.irq.handlers", Vec::new());

/// Calls `handler` whenever `line` fires, with interrupts off, on any CPU.
///
/// Several handlers may share a line. There is no way back: lines of this kernel's devices stay in use.
pub fn request(
    line: IrqLine,
    name: &'static str,
    handler: Box<dyn Fn() + Send + Sync>,
) -> Result<(), RequestError> {
    let entry = Handler { line, name, run: handler, count: Default::default() };
    let entry = Arc::new(entry);
    let first = {
        let mut handlers = HANDLERS.lock();
        let first = !handlers.iter().any(|h| h.line == line);
        handlers.push(entry);
        first
    };
    if first { arch::irq::route(line) } else { Ok(()) }
}

/// Runs the handlers of `line`; the machine's interrupt entry calls it, with interrupts off.
pub(crate) fn dispatch(line: IrqLine) {
    let mut at = 0;
    loop {
        // The lock is not held over the handler: it may request or wake as it likes.
        let next = HANDLERS.lock().iter().skip(at).position(|h| h.line == line).map(|i| at + i);
        let Some(i) = next else { return };
        let handler = HANDLERS.lock()[i].clone();
        handler.count.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        (handler.run)();
        at = i + 1;
    }
}

/// Where a device writes to raise a message-signalled interrupt, and what (PCI Local Bus 3.0, ch. 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address.
    pub address: u64,
    /// The value.
    pub data: u32,
}

struct MsiHandler {
    name: String,
    cpu: CpuId,
    run: Box<dyn Fn() + Send + Sync>,
    count: core::sync::atomic::AtomicU64,
}

/// Handlers by message number; one is set before its message is known to any device.
static MSI: [IrqLock<Option<Arc<MsiHandler>>>; arch::irq::NR_MSI] =
    [const { IrqLock::new("hal.irq.msi", None) }; arch::irq::NR_MSI];

/// The number that /proc/interrupts shows for the first message-signalled interrupt: those below are lines.
const FIRST_MSI: usize = 24;

/// A message-signalled interrupt with its handler. It is free for others when this is dropped: the device must not send
/// it any more then, and the drop waits for a handler that runs, so it must not happen in one.
#[derive(Debug)]
pub struct Msi {
    number: usize,
    message: MsiMessage,
}

impl Msi {
    /// What the device has to send.
    pub fn message(&self) -> MsiMessage {
        self.message
    }
}

impl Drop for Msi {
    fn drop(&mut self) {
        let handler = MSI.get(self.number).and_then(|slot| slot.lock().take());
        // What the handler holds goes here, and not in an interrupt.
        while handler.as_ref().is_some_and(|handler| Arc::strong_count(handler) > 1) {
            crate::cpu::relax();
        }
        drop(handler);
        arch::irq::free_msi(self.number);
    }
}

/// Calls `handler` on `cpu`, with interrupts off, whenever a device sends the message of what this returns.
pub fn request_msi(
    name: &str,
    cpu: CpuId,
    handler: Box<dyn Fn() + Send + Sync>,
) -> Result<Msi, RequestError> {
    let (number, message) = arch::irq::assign_msi(cpu).ok_or(RequestError::NoSpace)?;
    let handler = MsiHandler { name: String::from(name), cpu, run: handler, count: Default::default() };
    *MSI.get(number).ok_or(RequestError::NoSpace)?.lock() = Some(Arc::new(handler));
    Ok(Msi { number, message })
}

/// Runs the handler of message `number`; the machine's interrupt entry calls it, with interrupts off.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the hosted machine has no devices"))]
pub(crate) fn dispatch_msi(number: usize) {
    // The lock is not held over the handler, as with lines.
    let handler = MSI.get(number).and_then(|slot| slot.lock().clone());
    if let Some(handler) = handler {
        handler.count.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        (handler.run)();
    }
}

/// What /proc/interrupts shows.
pub fn collect_counts() -> Vec<IrqInfo> {
    let mut infos: Vec<IrqInfo> = Vec::new();
    for handler in HANDLERS.lock().iter() {
        let label = match handler.line {
            IrqLine::Isa(n) => alloc::format!("{n}"),
            IrqLine::Gsi(n) => alloc::format!("{n}"),
        };
        let count = handler.count.load(core::sync::atomic::Ordering::Relaxed);
        infos.push(IrqInfo { label, name: String::from(handler.name), counts: alloc::vec![count] });
    }
    for (number, slot) in MSI.iter().enumerate() {
        // Not the handler itself: who drops its `Msi` would wait for this thread, which may not run meanwhile.
        let copy = |handler: &Arc<MsiHandler>| {
            (
                handler.name.clone(),
                handler.cpu.index(),
                handler.count.load(core::sync::atomic::Ordering::Relaxed),
            )
        };
        let Some((name, cpu, count)) = slot.lock().as_ref().map(copy) else { continue };
        let mut counts = alloc::vec![0; crate::cpu::nr_cpus().max(cpu + 1)];
        if let Some(own) = counts.get_mut(cpu) {
            *own = count;
        }
        infos.push(IrqInfo { label: alloc::format!("{}", FIRST_MSI + number), name, counts });
    }
    infos.extend(arch::irq::collect_counts());
    infos
}
