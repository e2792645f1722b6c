//! Virtio over memory-mapped registers, version 2 (VIRTIO 1.2, ch. 4.2): what small VMMs give, told on the command
//! line as `virtio_mmio.device=<size>@<base>:<irq>`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PhysAddr;
use hal::cpu::CpuId;
use hal::io::Mmio;
use hal::irq::IrqLine;
use hal::sync::{IrqLock, SpinLock};

use crate::device::{Handler, QueueSetup, SharedHandler, Transport, no_interrupt};

const MAGIC: usize = 0x000;
const VERSION: usize = 0x004;
const DEVICE_ID: usize = 0x008;
const FEATURES: usize = 0x010;
const FEATURES_SELECT: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SELECT: usize = 0x024;
const QUEUE_SELECT: usize = 0x030;
const QUEUE_SIZE_MAX: usize = 0x034;
const QUEUE_SIZE: usize = 0x038;
const QUEUE_READY: usize = 0x044;
const QUEUE_NOTIFY: usize = 0x050;
const INTERRUPT_STATUS: usize = 0x060;
const INTERRUPT_ACK: usize = 0x064;
const STATUS: usize = 0x070;
const QUEUE_DESCRIPTORS: usize = 0x080;
const QUEUE_AVAILABLE: usize = 0x090;
const QUEUE_USED: usize = 0x0a0;
const GENERATION: usize = 0x0fc;
const CONFIG: usize = 0x100;
/// "virt".
const MAGIC_VALUE: u32 = 0x7472_6976;
const QUEUE_INTERRUPT: u32 = 1;
const CONFIG_INTERRUPT: u32 = 2;

#[derive(Default)]
struct Handlers {
    queues: Vec<SharedHandler>,
    config: Option<SharedHandler>,
}

/// What the interrupt handler needs.
struct Shared {
    registers: Mmio,
    handlers: IrqLock<Handlers>,
}

impl Shared {
    fn interrupt(&self) {
        let status = self.registers.read_u32(INTERRUPT_STATUS);
        self.registers.write_u32(INTERRUPT_ACK, status);
        // Handlers run without the lock: they may take others.
        if status & QUEUE_INTERRUPT != 0 {
            let next = |at: usize| self.handlers.lock().queues.get(at).cloned();
            (0..).map_while(next).for_each(|handler| handler());
        }
        if status & CONFIG_INTERRUPT != 0 {
            let handler = self.handlers.lock().config.clone();
            if let Some(handler) = handler {
                handler();
            }
        }
    }
}

struct MmioTransport {
    shared: Arc<Shared>,
    kind: u32,
    base: u64,
    /// Guards selected registers.
    select: SpinLock<()>,
}

/// Makes a transport of the device whose `len` bytes of registers are at `base`, with interrupts at ISA-like line
/// `irq`. `ENODEV`: nothing is there, or it is a legacy device.
pub fn probe(base: u64, len: usize, irq: u32, name: &'static str) -> Result<Box<dyn Transport>> {
    if len < CONFIG {
        return Err(Errno::EINVAL);
    }
    let registers = Mmio::claim(PhysAddr(base), len, name).map_err(|_| Errno::EBUSY)?;
    let kind = registers.read_u32(DEVICE_ID);
    if registers.read_u32(MAGIC) != MAGIC_VALUE || registers.read_u32(VERSION) != 2 || kind == 0 {
        return Err(Errno::ENODEV);
    }
    let shared =
        Arc::new(Shared { registers, handlers: IrqLock::new("virtio.mmio.handlers", Handlers::default()) });
    let handler = shared.clone();
    let line = u8::try_from(irq).ok().filter(|irq| *irq < 16).map_or(IrqLine::Gsi(irq), IrqLine::Isa);
    hal::irq::request(line, name, Box::new(move || handler.interrupt())).map_err(no_interrupt)?;
    Ok(Box::new(MmioTransport { shared, kind, base, select: SpinLock::new("virtio.mmio.select", ()) }))
}

impl MmioTransport {
    fn read(&self, register: usize) -> u32 {
        self.shared.registers.read_u32(register)
    }

    fn write(&self, register: usize, value: u32) {
        self.shared.registers.write_u32(register, value);
    }

    fn write_u64(&self, register: usize, value: u64) {
        self.write(register, value as u32);
        self.write(register + 4, (value >> 32) as u32);
    }
}

impl Transport for MmioTransport {
    fn parent(&self) -> String {
        alloc::format!("platform/virtio-mmio.{:x}", self.base)
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn features(&self) -> u64 {
        self.write(FEATURES_SELECT, 0);
        let low = self.read(FEATURES);
        self.write(FEATURES_SELECT, 1);
        u64::from(self.read(FEATURES)) << 32 | u64::from(low)
    }

    fn set_features(&self, features: u64) {
        for half in 0..2 {
            self.write(DRIVER_FEATURES_SELECT, half);
            self.write(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }

    fn status(&self) -> u8 {
        self.read(STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.write(STATUS, status.into());
    }

    fn config(&self, offset: usize, width: usize) -> u32 {
        let registers = &self.shared.registers;
        let Some(at) = offset.checked_add(CONFIG).filter(|at| at.saturating_add(width) <= registers.len())
        else {
            return 0;
        };
        match width {
            1 => registers.read_u8(at).into(),
            2 => registers.read_u16(at).into(),
            _ => registers.read_u32(at),
        }
    }

    fn set_config_u8(&self, offset: usize, value: u8) {
        if let Some(at) = offset.checked_add(CONFIG).filter(|at| *at < self.shared.registers.len()) {
            self.shared.registers.write_u8(at, value);
        }
    }

    fn generation(&self) -> u32 {
        self.read(GENERATION)
    }

    fn max_queue_size(&self, idx: u16) -> u16 {
        let _lock = self.select.lock();
        self.write(QUEUE_SELECT, idx.into());
        u16::try_from(self.read(QUEUE_SIZE_MAX)).unwrap_or(1 << 15)
    }

    fn set_queue(&self, idx: u16, setup: QueueSetup) -> Result<()> {
        let _lock = self.select.lock();
        self.write(QUEUE_SELECT, idx.into());
        if self.read(QUEUE_READY) != 0 {
            return Err(Errno::EBUSY);
        }
        self.write(QUEUE_SIZE, setup.size.into());
        self.write_u64(QUEUE_DESCRIPTORS, setup.descriptors.0);
        self.write_u64(QUEUE_AVAILABLE, setup.available.0);
        self.write_u64(QUEUE_USED, setup.used.0);
        self.write(QUEUE_READY, 1);
        Ok(())
    }

    fn set_queue_handler(&self, _idx: u16, _name: &str, _cpu: CpuId, handler: Handler) -> Result<()> {
        // One line for all queues: each handler looks at its own.
        self.shared.handlers.lock().queues.push(Arc::from(handler));
        Ok(())
    }

    fn set_config_handler(&self, _name: &str, handler: Handler) -> Result<()> {
        self.shared.handlers.lock().config = Some(Arc::from(handler));
        Ok(())
    }

    fn notify(&self, idx: u16) {
        self.write(QUEUE_NOTIFY, idx.into());
    }
}
