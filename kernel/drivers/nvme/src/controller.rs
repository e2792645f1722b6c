//! A controller: its registers, its start and its questions (NVM Express Base Specification 2.0, ch. 3.1, 3.5).

use abi::{Errno, Result};
use hal::dma::Buffer;
use hal::io::Mmio;
use hal::sync::IrqLock;

use crate::command::{Command, admin};
use crate::identify;
use crate::queue::{Done, Queue};

const CAPABILITIES: usize = 0x00;
const CONFIGURATION: usize = 0x14;
const STATUS: usize = 0x1c;
const ADMIN_QUEUE_SIZES: usize = 0x24;
const ADMIN_SUBMISSION: usize = 0x28;
const ADMIN_COMPLETION: usize = 0x30;
/// Where the doorbells begin.
pub(crate) const DOORBELLS: usize = 0x1000;

const ENABLE: u32 = 1;
/// Entries of 64 bytes to send and of 16 bytes to get.
const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
const READY: u32 = 1;
const FATAL: u32 = 2;
/// What the registers of a device that is gone read as.
const GONE: u32 = u32::MAX;

/// Entries of the admin queues.
const ADMIN_DEPTH: u16 = 32;
/// How long an answer to a question may take.
const ADMIN_NS: u64 = 10_000_000_000;
/// How often one looks for it.
const POLL_NS: u64 = 50_000;

/// A controller that runs.
pub(crate) struct Controller {
    registers: Mmio,
    /// Bytes from one doorbell to the next.
    stride: usize,
    /// The most entries of a queue.
    pub(crate) max_depth: u16,
    timeout_ns: u64,
    admin: IrqLock<Queue<()>>,
}

/// What the capabilities say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// Reads them. `ENODEV`: a controller without the command set for blocks, or with larger pages.
    pub(crate) fn read(registers: &Mmio) -> Result<Self> {
        let high = registers.read_u32(CAPABILITIES + 4);
        let bits = u64::from(high) << 32 | u64::from(registers.read_u32(CAPABILITIES));
        let has_blocks = bits >> 37 & 1 != 0;
        let has_our_pages = bits >> 48 & 15 == 0;
        if has_blocks && has_our_pages && high != GONE { Ok(Self(bits)) } else { Err(Errno::ENODEV) }
    }

    /// Bytes from one doorbell to the next.
    pub(crate) fn stride(self) -> usize {
        4 << (self.0 >> 32 & 15)
    }
}

impl Controller {
    /// Resets and starts the controller behind `registers`. `ENODEV`: it does not come up. Sleeps.
    pub(crate) fn start(registers: Mmio) -> Result<Self> {
        let capabilities = Capabilities::read(&registers)?;
        let controller = Self {
            stride: capabilities.stride(),
            max_depth: (capabilities.0 as u16).saturating_add(1),
            timeout_ns: (capabilities.0 >> 24 & 0xff).max(1) * 500_000_000,
            admin: IrqLock::new("nvme.queue", Queue::new(ADMIN_DEPTH)?),
            registers,
        };
        controller.stop()?;
        let (submission, completion) = controller.admin.lock().addresses();
        let size = u32::from(ADMIN_DEPTH - 1);
        controller.registers.write_u32(ADMIN_QUEUE_SIZES, size << 16 | size);
        controller.write_u64(ADMIN_SUBMISSION, submission);
        controller.write_u64(ADMIN_COMPLETION, completion);
        controller.registers.write_u32(CONFIGURATION, ENTRY_SIZES | ENABLE);
        controller.await_ready(READY)?;
        Ok(controller)
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.registers.write_u32(offset, value as u32);
        self.registers.write_u32(offset + 4, (value >> 32) as u32);
    }

    /// Whether it has vanished from the bus or failed for good.
    pub(crate) fn is_dead(&self) -> bool {
        let status = self.registers.read_u32(STATUS);
        status == GONE || status & FATAL != 0
    }

    /// Waits until the controller is ready, or not ready any more. `ENODEV`: it takes too long.
    fn await_ready(&self, ready: u32) -> Result<()> {
        let deadline_ns = hal::time::now_ns().saturating_add(self.timeout_ns);
        loop {
            let status = self.registers.read_u32(STATUS);
            if status == GONE {
                return if ready == 0 { Ok(()) } else { Err(Errno::ENODEV) };
            }
            if status & READY == ready {
                return Ok(());
            }
            let now_ns = hal::time::now_ns();
            if now_ns > deadline_ns {
                return Err(Errno::ENODEV);
            }
            // Awake early is awake all the same.
            let _ = sched::sleep_until(now_ns + POLL_NS, sched::Interruptible::No);
        }
    }

    /// Tells it to stop; [`Controller::has_stopped`] says when it has.
    pub(crate) fn begin_stop(&self) {
        self.registers.write_u32(CONFIGURATION, 0);
    }

    /// Whether it touches no memory any more: it has stopped, or vanished.
    pub(crate) fn has_stopped(&self) -> bool {
        let status = self.registers.read_u32(STATUS);
        status == GONE || status & READY == 0
    }

    /// Tells it that the power goes, so that it writes what it caches, and waits for it. Sleeps.
    pub(crate) fn shut_down(&self) {
        const NORMAL: u32 = 1 << 14;
        const DONE: u32 = 2 << 2;
        const MASK: u32 = 3 << 2;
        let configuration = self.registers.read_u32(CONFIGURATION);
        self.registers.write_u32(CONFIGURATION, configuration | NORMAL);
        let deadline_ns = hal::time::now_ns().saturating_add(self.timeout_ns);
        while self.registers.read_u32(STATUS) & MASK != DONE && !self.is_dead() {
            let now_ns = hal::time::now_ns();
            if now_ns > deadline_ns {
                return;
            }
            let _ = sched::sleep_until(now_ns + POLL_NS, sched::Interruptible::No);
        }
    }

    /// Switches it off: afterwards it touches no memory. `ENODEV`: it does not stop. Sleeps.
    pub(crate) fn stop(&self) -> Result<()> {
        self.begin_stop();
        self.await_ready(0)
    }

    /// Tells the controller about new commands in queue `id`.
    pub(crate) fn ring_submission(&self, id: u16, tail: u16) {
        self.ring(2 * usize::from(id), tail);
    }

    /// Tells the controller which completions of queue `id` were seen.
    pub(crate) fn ring_completion(&self, id: u16, head: u16) {
        self.ring(2 * usize::from(id) + 1, head);
    }

    fn ring(&self, idx: usize, value: u16) {
        let at = DOORBELLS + idx * self.stride;
        if at + 4 <= self.registers.len() {
            self.registers.write_u32(at, value.into());
        }
    }

    /// Sends an admin command and waits for its result. `EIO`, `EOPNOTSUPP`; `ETIMEDOUT`: no answer. Sleeps.
    pub(crate) fn ask(&self, command: Command) -> Result<u32> {
        {
            let mut queue = self.admin.lock();
            queue.push(command, ()).map_err(|()| Errno::EBUSY)?;
            self.ring_submission(0, queue.tail());
        }
        let deadline_ns = hal::time::now_ns() + ADMIN_NS;
        loop {
            let done = {
                let mut queue = self.admin.lock();
                let done = queue.pop();
                self.ring_submission(0, queue.tail());
                self.ring_completion(0, queue.head());
                done
            };
            if let Some(Done { status, result, .. }) = done {
                return status.result().map(|()| result);
            }
            let now_ns = hal::time::now_ns();
            if now_ns > deadline_ns || self.is_dead() {
                // The answer may still come, to memory that must stay: nothing more is asked of this one.
                self.stop()?;
                return Err(Errno::ETIMEDOUT);
            }
            let _ = sched::sleep_until(now_ns + POLL_NS, sched::Interruptible::No);
        }
    }

    /// Asks what `what` is of namespace `nsid`. Sleeps.
    pub(crate) fn identify(&self, what: u32, nsid: u32) -> Result<alloc::boxed::Box<[u8; identify::LEN]>> {
        let answer = Buffer::alloc(identify::LEN).ok_or(Errno::ENOMEM)?;
        let command = Command::new(admin::IDENTIFY, nsid).with_data(answer.paddr().0, 0).with::<10>(what);
        if let Err(errno) = self.ask(command) {
            if !self.has_stopped() && errno == Errno::ENODEV {
                // It did not answer, and did not stop: it may still write there.
                core::mem::forget(answer);
            }
            return Err(errno);
        }
        let mut bytes = alloc::vec![0; identify::LEN];
        answer.read(0, &mut bytes);
        bytes.into_boxed_slice().try_into().map_err(|_| Errno::EIO)
    }

    /// Asks for `wanted` pairs of queues; how many it gives. Sleeps.
    pub(crate) fn set_nr_queues(&self, wanted: u16) -> Result<u16> {
        let count = u32::from(wanted.max(1) - 1);
        let command = Command::new(admin::SET_FEATURES, 0)
            .with::<10>(admin::NUMBER_OF_QUEUES)
            .with::<11>(count << 16 | count);
        let given = self.ask(command)?;
        let (submission, completion) = (given as u16, (given >> 16) as u16);
        Ok(submission.min(completion).saturating_add(1).min(wanted))
    }

    /// Makes the pair of queues `id` (from 1) with interrupt `vector`. Sleeps.
    pub(crate) fn create_queues<T>(&self, id: u16, queue: &IrqLock<Queue<T>>, vector: u16) -> Result<()> {
        /// Adjacent memory; for completions also: with interrupts.
        const CONTIGUOUS: u32 = 1;
        const INTERRUPTS: u32 = 2;
        let ((submission, completion), depth) = {
            let queue = queue.lock();
            (queue.addresses(), queue.depth())
        };
        let size = u32::from(depth - 1) << 16 | u32::from(id);
        let create = |opcode: u8, ring: u64, more: u32| {
            self.ask(Command::new(opcode, 0).with_data(ring, 0).with::<10>(size).with::<11>(more))
        };
        create(admin::CREATE_COMPLETION, completion, u32::from(vector) << 16 | INTERRUPTS | CONTIGUOUS)?;
        create(admin::CREATE_SUBMISSION, submission, u32::from(id) << 16 | CONTIGUOUS)?;
        Ok(())
    }

    /// Takes the pair of queues `id` away again: what is under way there ends first. Sleeps.
    pub(crate) fn delete_queues(&self, id: u16) -> Result<()> {
        let delete = |opcode: u8| self.ask(Command::new(opcode, 0).with::<10>(id.into()));
        delete(admin::DELETE_SUBMISSION)?;
        delete(admin::DELETE_COMPLETION).map(drop)
    }
}
