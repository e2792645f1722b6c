//! A port: what came, who has it open, what it is.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};

use abi::termios::Winsize;
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::sync::{IrqLock, Once};
use hal::uio::Dest;
use sched::WaitQueue;
use tty::Tty;
use tty::line::Receiver;
use vfs::dev::DeviceKind;
use virtio::Queue;

use crate::console::Console;
use crate::hub::{self, Frames, Hub};
use crate::message::Answer;
use crate::probe::{MAJOR, MINORS};

/// Bytes moved to a terminal at a time.
const CHUNK: usize = 256;

/// Input that nobody has read.
struct Piece {
    frames: Frames,
    from: usize,
    to: usize,
}

#[derive(Default)]
struct State {
    input: VecDeque<Piece>,
    /// The host has it open.
    is_connected: bool,
    /// A program has it open.
    is_open: bool,
    is_console: bool,
    /// The device has it no more.
    is_gone: bool,
    /// The sending queue was full.
    is_full: bool,
}

/// See the module's front page.
pub(crate) struct Port {
    pub(crate) id: u32,
    hub: Weak<Hub>,
    node: String,
    state: IrqLock<State>,
    pub(crate) changed: WaitQueue,
    tty: Once<Arc<Tty>>,
    console: Once<Arc<Console>>,
}

impl Port {
    pub(crate) fn new(hub: &Arc<Hub>, id: u32) -> Arc<Port> {
        Arc::new(Port {
            id,
            hub: hub.weak(),
            node: format!("vport{}p{id}", hub.index),
            state: IrqLock::new("virtio.console.port", State::default()),
            changed: WaitQueue::new(),
            tty: Once::new(),
            console: Once::new(),
        })
    }

    pub(crate) fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.upgrade()
    }

    /// Gives it its node in /dev.
    pub(crate) fn announce(&self) -> Result<()> {
        let index = self.hub().map_or(0, |hub| hub.index);
        vfs::dev::add_node(&self.node, DeviceKind::Char, (MAJOR, index * MINORS + self.id), 0o600)
    }

    pub(crate) fn set_name(&self, name: String) {
        vfs::dev::set_attribute(&self.node, "name", name);
    }

    /// Makes a terminal of it. `ENOMEM`, `ENOSPC`.
    pub(crate) fn make_console(self: &Arc<Self>) -> Result<()> {
        if self.tty.get().is_some() {
            return Ok(());
        }
        let console = Console::new(self.hub.clone(), self.id)?;
        let tty = tty::device::add_hvc(console.clone())?;
        log::info!("virtio_console: port {} is {}", self.id, tty.name());
        self.console.call_once(|| console);
        self.tty.call_once(|| tty);
        self.state.lock().is_console = true;
        // What came before.
        self.deliver();
        Ok(())
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        if let Some(tty) = self.tty.get() {
            tty.set_winsize(Winsize { ws_col: columns, ws_row: rows, ..Winsize::default() });
        }
    }

    pub(crate) fn host_opened(&self, is_open: bool) {
        self.state.lock().is_connected = is_open;
        self.changed.wake_all();
    }

    /// The device has it no more: readers and writers see that.
    pub(crate) fn end(&self) {
        self.state.lock().is_gone = true;
        vfs::dev::remove_node(&self.node);
        if let Some(tty) = self.tty.get() {
            tty::device::remove_hvc(tty);
        }
        self.changed.wake_all();
    }

    /// Takes what came. Runs in its interrupt.
    pub(crate) fn received(&self) {
        let Some(hub) = self.hub() else { return };
        let Some(lanes) = hub.lanes(self.id) else { return };
        while let Some((frames, written)) = hub::take(&lanes.rx) {
            let mut state = self.state.lock();
            // Without messages the only port is a terminal, if not yet.
            let is_kept = state.is_console || state.is_open || hub.message_lanes().is_none();
            let piece = Piece { frames, from: 0, to: written.min(PAGE_SIZE) };
            if is_kept && piece.to > 0 && state.input.try_reserve(1).is_ok() {
                state.input.push_back(piece);
                continue;
            }
            drop(state);
            let _ = hub::add(&lanes.rx, piece.frames, PAGE_SIZE, true);
        }
        self.deliver();
        self.changed.wake_all();
    }

    /// Hands input to the terminal, if it is one.
    fn deliver(&self) {
        let Some(tty) = self.tty.get() else { return };
        loop {
            let next = self.state.lock().input.pop_front();
            let Some(piece) = next else { return };
            if let Some(frame) = piece.frames.first() {
                let mut bytes = [0; CHUNK];
                for at in (piece.from..piece.to).step_by(CHUNK) {
                    let len = (piece.to - at).min(CHUNK);
                    frame.read(at, &mut bytes[..len]);
                    tty.receive(&bytes[..len]);
                }
            }
            self.give_back(piece.frames);
        }
    }

    fn give_back(&self, frames: Frames) {
        if let Some(hub) = self.hub()
            && let Some(lanes) = hub.lanes(self.id)
        {
            // There was room for it; without a device it goes.
            let _ = hub::add(&lanes.rx, frames, PAGE_SIZE, true);
        }
    }

    /// The device has sent something. Runs in its interrupt.
    pub(crate) fn sent(&self) {
        match self.console.get() {
            Some(console) => {
                console.reclaim();
                if let Some(tty) = self.tty.get() {
                    tty.output_drained();
                }
            }
            None => self.reclaim(),
        }
    }

    fn reclaim(&self) {
        let Some(hub) = self.hub() else { return };
        let Some(lanes) = hub.lanes(self.id) else { return };
        while hub::take(&lanes.tx).is_some() {
            self.state.lock().is_full = false;
        }
        self.changed.wake_all();
    }

    /// A program opens it. `EBUSY`: another has it. `ENXIO`: it is a terminal. `ENODEV`: it is gone. Sleeps.
    pub(crate) fn open(&self) -> Result<()> {
        {
            let mut state = self.state.lock();
            match &*state {
                State { is_gone: true, .. } => return Err(Errno::ENODEV),
                State { is_console: true, .. } => return Err(Errno::ENXIO),
                State { is_open: true, .. } => return Err(Errno::EBUSY),
                _ => state.is_open = true,
            }
        }
        if let Some(hub) = self.hub() {
            hub.tell(self.id, Answer::PortOpen, true);
        }
        Ok(())
    }

    /// It closes it; what was not read is lost. Sleeps.
    pub(crate) fn close(&self) {
        // Another port may have its number by now.
        if let Some(hub) = self.hub().filter(|_| !self.is_gone()) {
            hub.tell(self.id, Answer::PortOpen, false);
        }
        self.state.lock().is_open = false;
        loop {
            let next = self.state.lock().input.pop_front();
            let Some(piece) = next else { return };
            self.give_back(piece.frames);
        }
    }

    /// What read(2) would find: `Some(true)` data, `Some(false)` the end, `None` nothing yet.
    pub(crate) fn readiness(&self) -> Option<bool> {
        let state = self.state.lock();
        match () {
            () if !state.input.is_empty() => Some(true),
            () if state.is_gone || !state.is_connected => Some(false),
            () => None,
        }
    }

    /// Moves the oldest input to `dst`; 0: there is none. `EFAULT`.
    pub(crate) fn read(&self, dst: &mut Dest<'_>) -> Result<usize> {
        // Out of the list, since user memory may sleep: there is one opener, but he may have threads.
        let next = self.state.lock().input.pop_front();
        let Some(mut piece) = next else { return Ok(0) };
        let Some(frame) = piece.frames.first() else { return Ok(0) };
        let len = (piece.to - piece.from).min(dst.remaining());
        let copied = dst.put_frame(frame, piece.from, len);
        piece.from += copied.as_ref().map_or(0, |len| *len);
        if piece.from < piece.to {
            self.state.lock().input.push_front(piece);
        } else {
            self.give_back(piece.frames);
        }
        copied.map_err(|_| Errno::EFAULT)
    }

    /// Would write(2) wait?
    pub(crate) fn is_stuck(&self) -> bool {
        let state = self.state.lock();
        !state.is_gone && (!state.is_connected || state.is_full)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state.lock().is_gone
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().is_connected
    }

    /// Sends `len` bytes of `frames`, or gives them back when there is no room; then [`Port::is_stuck`] until there is.
    /// `None`: there is no memory, or no device.
    pub(crate) fn send(&self, frames: Frames, len: usize) -> Result<(), Option<Frames>> {
        let Some(hub) = self.hub() else { return Err(None) };
        let Some(lanes) = hub.lanes(self.id) else { return Err(None) };
        self.state.lock().is_full = true;
        let Err(frames) = hub::add(&lanes.tx, frames, len, false) else {
            self.state.lock().is_full = false;
            return Ok(());
        };
        // What is done already makes room. Where nothing is under way, none will ever be made.
        let is_idle = lanes.tx.lock().as_ref().is_none_or(Queue::is_idle);
        self.reclaim();
        if is_idle {
            self.state.lock().is_full = false;
            return Err(None);
        }
        Err(Some(frames))
    }
}
