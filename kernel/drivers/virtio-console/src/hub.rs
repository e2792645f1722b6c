//! A device with its queues and ports.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::termios::Winsize;
use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::sync::IrqLock;
use sched::Mutex;
use virtio::{Device, Piece, Queue};

use crate::message::{self, Answer, Event};
use crate::port::Port;

/// Frames that go with a request.
pub(crate) type Frames = Vec<Frame>;

/// One queue; `None` before it is set up and after the device is gone.
pub(crate) type Lane = IrqLock<Option<Queue<Frames>>>;

/// The queues of a port, or those for messages.
pub(crate) struct Lanes {
    pub(crate) rx: Lane,
    pub(crate) tx: Lane,
}

impl Lanes {
    fn new() -> Lanes {
        let lane = || IrqLock::new("virtio.console.queue", None);
        Lanes { rx: lane(), tx: lane() }
    }
}

/// Frames that wait for input on each port, and for messages.
const RX_FRAMES: usize = 8;
/// How often a message is tried while its queue is full.
const TRIES: u32 = 100;

/// See the module's front page.
pub(crate) struct Hub {
    /// `N` in /dev/vportNpM.
    pub(crate) index: u32,
    pub(crate) parent: String,
    lanes: Vec<Lanes>,
    messages: Option<Lanes>,
    ports: IrqLock<Vec<Arc<Port>>>,
    pending: IrqLock<VecDeque<Vec<u8>>>,
    /// Held while messages are handled, in order; whether the device is gone.
    handling: Mutex<bool>,
}

/// The most frames of a request.
pub(crate) const MOST_FRAMES: usize = 8;

/// Gives `frames`, at most [`MOST_FRAMES`], to the device. `Err`: there is no room now.
pub(crate) fn add(lane: &Lane, frames: Frames, len: usize, is_written: bool) -> Result<(), Frames> {
    let device = {
        let mut queue = lane.lock();
        let Some(queue) = queue.as_mut() else { return Err(frames) };
        let sizes = (0..len).step_by(PAGE_SIZE).map(|at| (len - at).min(PAGE_SIZE) as u32);
        let pieces =
            frames.iter().zip(sizes).map(|(frame, len)| Piece { paddr: frame.paddr(), len, is_written });
        let pieces: ArrayVec<Piece, MOST_FRAMES> = pieces.take(MOST_FRAMES).collect();
        queue.add(&[], pieces.iter().copied(), 0, frames)?;
        if queue.should_notify() {
            queue.device().cloned().map(|device| (device, queue.index()))
        } else {
            None
        }
    };
    if let Some((device, index)) = device {
        device.notify(index);
    }
    Ok(())
}

/// Takes what the device is done with: the frames, and how many bytes it wrote. `None`: nothing more; it will interrupt.
pub(crate) fn take(lane: &Lane) -> Option<(Frames, usize)> {
    let mut queue = lane.lock();
    let queue = queue.as_mut()?;
    loop {
        match queue.pop() {
            Some(done) => return Some((done.token, done.written as usize)),
            None if queue.enable_interrupt() => {}
            None => return None,
        }
    }
}

impl Hub {
    pub(crate) fn new(index: u32, parent: String, nr_ports: usize, is_multiport: bool) -> Arc<Hub> {
        Arc::new(Hub {
            index,
            parent,
            lanes: (0..nr_ports).map(|_| Lanes::new()).collect(),
            messages: is_multiport.then(Lanes::new),
            ports: IrqLock::new("virtio.console.ports", Vec::new()),
            pending: IrqLock::new("virtio.console.pending", VecDeque::new()),
            handling: Mutex::new("virtio.console.handling", false),
        })
    }

    /// The queues of port `id`.
    pub(crate) fn lanes(&self, id: u32) -> Option<&Lanes> {
        self.lanes.get(id as usize)
    }

    pub(crate) fn message_lanes(&self) -> Option<&Lanes> {
        self.messages.as_ref()
    }

    pub(crate) fn port(&self, id: u32) -> Option<Arc<Port>> {
        self.ports.lock().iter().find(|port| port.id == id).cloned()
    }

    /// Lets the device send into fresh frames. `ENOMEM`: there is none at all.
    pub(crate) fn fill(&self, lane: &Lane) -> Result<()> {
        if lane.lock().as_ref().is_some_and(|queue| !queue.is_idle()) {
            // A port came again: the device still has what it got the first time.
            return Ok(());
        }
        for nr in 0..RX_FRAMES {
            let frame = Frame::alloc_zeroed();
            let is_added = frame.is_some_and(|frame| add(lane, Vec::from([frame]), PAGE_SIZE, true).is_ok());
            if !is_added {
                return if nr > 0 { Ok(()) } else { Err(Errno::ENOMEM) };
            }
        }
        Ok(())
    }

    /// Messages came. Runs in their interrupt.
    pub(crate) fn messages_came(self: &Arc<Self>) {
        let Some(lanes) = &self.messages else { return };
        while let Some((frames, written)) = take(&lanes.rx) {
            let mut bytes = Vec::new();
            if let Some(frame) = frames.first()
                && bytes.try_reserve_exact(written.min(PAGE_SIZE)).is_ok()
            {
                bytes.resize(written.min(PAGE_SIZE), 0);
                frame.read(0, &mut bytes);
                self.pending.lock().push_back(bytes);
            }
            // There was room a moment ago.
            let _ = add(&lanes.rx, frames, PAGE_SIZE, true);
        }
        let hub = self.clone();
        sched::workqueue::queue(Box::new(move || hub.handle_pending()));
    }

    fn handle_pending(self: &Arc<Self>) {
        let is_gone = self.handling.lock();
        if *is_gone {
            return;
        }
        loop {
            let next = self.pending.lock().pop_front();
            let Some(bytes) = next else { return };
            match message::parse(&bytes) {
                Some((id, event)) => self.handle(id, event),
                None => log::warn!("virtio_console: a message of {} bytes means nothing", bytes.len()),
            }
        }
    }

    fn handle(self: &Arc<Self>, id: u32, event: Event) {
        if event == Event::Add {
            let made = self.add_port(id);
            if let Err(errno) = &made {
                log::warn!("virtio_console: port {id}: {errno}");
            }
            return self.tell(id, Answer::PortReady, made.is_ok());
        }
        let Some(port) = self.port(id) else { return };
        match event {
            Event::Add => {}
            Event::Remove => self.remove_port(&port),
            Event::Console => match port.make_console() {
                Ok(()) => self.tell(id, Answer::PortOpen, true),
                Err(errno) => log::warn!("virtio_console: port {id} is no terminal: {errno}"),
            },
            Event::Resize(columns, rows) => port.resize(columns, rows),
            Event::Open(is_open) => port.host_opened(is_open),
            Event::Name(name) => port.set_name(name),
        }
    }

    /// Makes port `id`. `EEXIST`, `ENOMEM`; `EINVAL`: there are no queues for it.
    pub(crate) fn add_port(self: &Arc<Self>, id: u32) -> Result<()> {
        let lanes = self.lanes(id).ok_or(Errno::EINVAL)?;
        if self.port(id).is_some() {
            return Err(Errno::EEXIST);
        }
        let port = Port::new(self, id);
        self.ports.lock().push(port.clone());
        let made = port.announce().and_then(|()| self.fill(&lanes.rx));
        if made.is_err() {
            self.remove_port(&port);
        }
        made
    }

    fn remove_port(&self, port: &Arc<Port>) {
        self.ports.lock().retain(|known| !Arc::ptr_eq(known, port));
        port.end();
    }

    /// Sends a message, unless the device has no ear for it. Sleeps.
    pub(crate) fn tell(&self, id: u32, answer: Answer, value: bool) {
        let Some(lanes) = &self.messages else { return };
        let Some(frame) = Frame::alloc_zeroed() else { return };
        frame.write(0, &message::encode(id, answer, value));
        let mut frames = Vec::from([frame]);
        for _ in 0..TRIES {
            while take(&lanes.tx).is_some() {}
            match add(&lanes.tx, frames, message::LEN, false) {
                Ok(()) => return,
                Err(back) => frames = back,
            }
            let _ = sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No);
        }
        log::warn!("virtio_console: the device takes no messages");
    }

    /// The size in the configuration, for the port of a device without messages.
    pub(crate) fn config_changed(self: &Arc<Self>) {
        let hub = self.clone();
        sched::workqueue::queue(Box::new(move || {
            let device = hub.lanes(0).and_then(|lanes| Some(lanes.rx.lock().as_ref()?.device()?.clone()));
            if let (Some(device), Some(port)) = (device, hub.port(0)) {
                let size = read_size(&device);
                port.resize(size.ws_col, size.ws_row);
            }
        }));
    }

    /// The device was reset: ports end, and the queues go.
    pub(crate) fn give_up(&self) {
        // No message makes a port from here on.
        *self.handling.lock() = true;
        let ports = core::mem::take(&mut *self.ports.lock());
        ports.iter().for_each(|port| port.end());
        for lane in self.lanes.iter().chain(&self.messages).flat_map(|lanes| [&lanes.rx, &lanes.tx]) {
            let queue = lane.lock().take();
            drop(queue);
        }
    }

    pub(crate) fn weak(self: &Arc<Self>) -> Weak<Hub> {
        Arc::downgrade(self)
    }
}

/// Columns and rows as the configuration has them.
pub(crate) fn read_size(device: &Device) -> Winsize {
    Winsize { ws_col: device.config_u16(0), ws_row: device.config_u16(2), ..Winsize::default() }
}
