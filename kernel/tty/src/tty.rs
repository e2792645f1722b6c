//! A terminal: line discipline, output path, and the state that programs set by ioctl.
//!
//! Input arrives in interrupt context (serial port) or from the writer of a pseudo-terminal's master, goes
//! through the line discipline at once, and wakes readers. Output is processed in small pieces straight
//! into the line's buffer; a writer waits only when that is full or output is stopped.
//!
//! # Locks
//!
//! ```text
//! Tty::ldisc (interrupts off)        order of output and echo; the line's own lock nests in it
//!   Line's lock
//! Tty::job (interrupts off)          session and foreground group; nothing nests in it
//! Tty::winsize
//! ```
//!
//! Signals are sent after `ldisc` is released.
//!
//! Sources: termios(3), ioctl_tty(2), credentials(7).

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::termios::{Termios, Termios2, Winsize};
use abi::{Errno, Result};
use arrayvec::ArrayVec;
use bitflags::bitflags;
use hal::sync::{IrqLock, SpinLock};
use hal::uio::{Dest, Src};
use sched::{Interruptible, PollTable, WaitError, WaitQueue};

use crate::flags::{Kind, standard};
use crate::job::Job;
use crate::ldisc::{Action, Ldisc, Read};
use crate::line::{Line, Receiver};

/// Bytes moved between user space and the terminal at a time.
const CHUNK: usize = 256;
/// The longest that one byte of output can become: a tab of eight spaces.
const EXPANSION: usize = 8;

bitflags! {
    /// Conditions of a terminal.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TtyFlags: u32 {
        /// Output is stopped (Ctrl-S, TCOOFF).
        const STOPPED = 1;
        /// The line is gone: reads end, writes fail.
        const HUNG_UP = 2;
        /// Only the superuser may open it again (TIOCEXCL).
        const EXCLUSIVE = 4;
        /// The device is gone for good: as hung up, whoever opens it.
        const GONE = 8;
    }
}

/// Whether an operation may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it can go on.
    Yes,
    /// Never: `EAGAIN`.
    No,
}

/// A terminal.
pub struct Tty {
    name: String,
    device: u64,
    pub(crate) ldisc: IrqLock<Ldisc>,
    line: Arc<dyn Line>,
    pub(crate) input_wait: WaitQueue,
    pub(crate) output_wait: WaitQueue,
    pub(crate) job: IrqLock<Job>,
    winsize: SpinLock<Winsize>,
    /// What of the settings cannot be changed (`TIOCSLCKTRMIOS`).
    locked: SpinLock<Termios>,
    speeds: (AtomicU32, AtomicU32),
    flags: AtomicU32,
}

impl Tty {
    /// Makes the terminal `name` (below /dev) with device number `device` on top of `line`.
    pub fn new(name: String, device: u64, kind: Kind, line: Arc<dyn Line>) -> Arc<Self> {
        let settings = standard(kind);
        Arc::new(Self {
            name,
            device,
            ldisc: IrqLock::new("tty.ldisc", Ldisc::new(settings.termios)),
            line,
            input_wait: WaitQueue::new(),
            output_wait: WaitQueue::new(),
            job: IrqLock::new("tty.job", Job::default()),
            winsize: SpinLock::new("tty.winsize", Winsize::default()),
            locked: SpinLock::new("tty.locked", Termios::default()),
            speeds: (AtomicU32::new(settings.c_ispeed), AtomicU32::new(settings.c_ospeed)),
            flags: AtomicU32::new(0),
        })
    }

    /// Its name below /dev.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its device number.
    pub fn device_number(&self) -> u64 {
        self.device
    }

    /// Its present conditions.
    pub fn flags(&self) -> TtyFlags {
        TtyFlags::from_bits_truncate(self.flags.load(Acquire))
    }

    /// Sets conditions.
    pub(crate) fn set_flags(&self, flags: TtyFlags) {
        self.flags.fetch_or(flags.bits(), Release);
    }

    /// Clears conditions.
    pub(crate) fn clear_flags(&self, flags: TtyFlags) {
        self.flags.fetch_and(!flags.bits(), Release);
    }

    fn is_hung_up(&self) -> bool {
        self.flags().contains(TtyFlags::HUNG_UP)
    }

    /// The settings.
    pub fn termios(&self) -> Termios2 {
        let termios = *self.ldisc.lock().termios();
        Termios2 { termios, c_ispeed: self.speeds.0.load(Relaxed), c_ospeed: self.speeds.1.load(Relaxed) }
    }

    /// Changes the settings. `speeds`: new input and output speed in bit/s, if they are given too.
    pub fn set_termios(&self, termios: Termios, speeds: Option<(u32, u32)>) {
        let locked = self.locked();
        {
            let mut ldisc = self.ldisc.lock();
            let new = ldisc.termios().changed_to(termios, &locked);
            ldisc.set_termios(new);
        }
        if let Some((input, output)) = speeds {
            self.speeds.0.store(input, Relaxed);
            self.speeds.1.store(output, Relaxed);
        }
        self.input_wait.wake_all();
    }

    /// What of the settings cannot be changed: the flags and control characters that are not 0 here.
    pub fn locked(&self) -> Termios {
        *self.locked.lock()
    }

    /// Sets what cannot be changed from now on.
    pub(crate) fn set_locked(&self, locked: Termios) {
        *self.locked.lock() = locked;
    }

    /// The window size.
    pub fn winsize(&self) -> Winsize {
        *self.winsize.lock()
    }

    /// Sets the window size and tells whether it changed.
    pub(crate) fn replace_winsize(&self, new: Winsize) -> bool {
        let mut size = self.winsize.lock();
        let changed = *size != new;
        *size = new;
        changed
    }

    /// Bytes that a read could take now (`FIONREAD`).
    pub fn readable(&self) -> usize {
        self.ldisc.lock().readable()
    }

    /// Bytes that were written but not sent yet (`TIOCOUTQ`).
    pub fn pending_output(&self) -> usize {
        self.line.pending_output()
    }

    /// Sends bytes past the settings, for the kernel's log; gives how many the line took. Usable in any context.
    pub fn write_raw(&self, bytes: &[u8]) -> usize {
        self.line.write(bytes)
    }

    /// Drops what was received and not read.
    pub fn flush_input(&self) {
        self.ldisc.lock().flush_input();
        self.output_wait.wake_all();
    }

    /// Drops what was written and not sent.
    pub fn flush_output(&self) {
        self.line.flush_output();
        self.output_wait.wake_all();
    }

    /// Stops output.
    pub(crate) fn stop_output(&self) {
        self.set_flags(TtyFlags::STOPPED);
    }

    /// Lets stopped output go on.
    pub(crate) fn start_output(&self) {
        self.clear_flags(TtyFlags::STOPPED);
        self.output_wait.wake_all();
    }

    /// Waits until all output is sent. `ERESTARTSYS`: a signal came.
    pub fn drain(&self) -> Result<()> {
        let is_sent = || (self.line.pending_output() == 0 || self.is_hung_up()).then_some(());
        while is_sent().is_none() {
            // The chip does not tell when its last byte is out: look again after some time.
            let deadline = hal::time::now_ns() + 10_000_000;
            match self.output_wait.wait_deadline(is_sent, Some(deadline), Interruptible::Yes) {
                Err(WaitError::Interrupted) => return Err(Errno::ERESTARTSYS),
                Err(WaitError::TimedOut) | Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes the terminal useless for those who have it open: reads end, writes fail with `EIO`.
    pub fn hang_up(&self) {
        self.set_flags(TtyFlags::HUNG_UP);
        self.input_wait.wake_all();
        self.output_wait.wake_all();
    }

    /// Reads. At most one line in canonical mode, else by `VMIN` and `VTIME`.
    ///
    /// `EAGAIN`: nothing there and `wait` is no. `ERESTARTSYS`: a signal came. `EFAULT`. May sleep.
    pub fn read(&self, dst: &mut Dest<'_>, wait: Wait) -> Result<usize> {
        let mut total = 0;
        let mut buf = [0; CHUNK];
        while dst.remaining() > 0 {
            if self.is_hung_up() {
                break;
            }
            let want = dst.remaining().min(CHUNK);
            let taken = self.ldisc.lock().read(&mut buf[..want]);
            let (count, is_line) = match taken {
                Read::Line(count) => (count, true),
                Read::Taken(count) => (count, false),
                Read::Empty => match self.wait_for_input(total, wait) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(_) if total > 0 => break,
                    Err(errno) => return Err(errno),
                },
            };
            total += dst.put_bytes(&buf[..count])?;
            if is_line {
                break;
            }
        }
        if total > 0 {
            self.output_wait.wake_all();
        }
        Ok(total)
    }

    /// Waits for a read that has `so_far` bytes; `Ok(false)` means that it is done with them.
    fn wait_for_input(&self, so_far: usize, wait: Wait) -> Result<bool> {
        let (is_canonical, (min, time)) = {
            let ldisc = self.ldisc.lock();
            (ldisc.is_canonical(), ldisc.min_and_time())
        };
        let has_timer = !is_canonical && time > 0 && (min == 0 || so_far > 0);
        if !is_canonical && (so_far > 0 && so_far >= usize::from(min) || min == 0 && time == 0) {
            return Ok(false);
        }
        if is_canonical && so_far > 0 {
            return Ok(false);
        }
        if wait == Wait::No {
            return Err(Errno::EAGAIN);
        }
        let deadline = has_timer.then(|| hal::time::now_ns() + u64::from(time) * 100_000_000);
        let is_ready = || (self.ldisc.lock().is_ready(1) || self.is_hung_up()).then_some(());
        match self.input_wait.wait_deadline(is_ready, deadline, Interruptible::Yes) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
        }
    }

    /// Writes. Waits while the line is full or output is stopped.
    ///
    /// `EIO`: hung up. `EAGAIN`: no room and `wait` is no. `ERESTARTSYS`: a signal came. `EFAULT`. May sleep.
    pub fn write(&self, src: &mut Src<'_>, wait: Wait) -> Result<usize> {
        let mut total = 0;
        let mut buf = [0; CHUNK];
        while src.remaining() > 0 {
            if self.is_hung_up() {
                return Err(Errno::EIO);
            }
            let want = src.remaining().min(CHUNK);
            let got = src.take_bytes(&mut buf[..want])?;
            let sent = self.process_output(&buf[..got]);
            src.revert(got - sent);
            total += sent;
            if sent < got
                && let Err(errno) = self.wait_for_room(wait)
            {
                return if total > 0 { Ok(total) } else { Err(errno) };
            }
        }
        Ok(total)
    }

    /// Sends as much of `bytes` as there is room for, processed, and returns how much that was.
    fn process_output(&self, bytes: &[u8]) -> usize {
        if self.flags().contains(TtyFlags::STOPPED) {
            return 0;
        }
        let mut ldisc = self.ldisc.lock();
        let mut out = ArrayVec::<u8, { 2 * CHUNK }>::new();
        let room = self.line.write_room().min(out.capacity());
        let mut done = 0;
        for &byte in bytes {
            if out.len() + EXPANSION > room {
                break;
            }
            ldisc.output(byte, &mut |b| out.push(b));
            done += 1;
        }
        self.line.write(&out);
        done
    }

    fn wait_for_room(&self, wait: Wait) -> Result<()> {
        let has_room = || {
            let can_write = !self.flags().contains(TtyFlags::STOPPED) && self.line.write_room() >= EXPANSION;
            (can_write || self.is_hung_up()).then_some(())
        };
        if has_room().is_some() {
            return Ok(());
        }
        if wait == Wait::No {
            return Err(Errno::EAGAIN);
        }
        self.output_wait.wait_interruptible(has_room).map_err(Errno::from)
    }

    /// What is ready; registers with `table`.
    pub fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.input_wait);
        table.register(&self.output_wait);
        if self.is_hung_up() {
            let both = PollEvents::IN | PollEvents::RDNORM | PollEvents::OUT | PollEvents::WRNORM;
            return both | PollEvents::ERR | PollEvents::HUP;
        }
        let mut ready = PollEvents::empty();
        let is_readable = {
            let ldisc = self.ldisc.lock();
            let (min, time) = ldisc.min_and_time();
            ldisc.is_ready(if time == 0 { usize::from(min) } else { 1 })
        };
        if is_readable {
            ready |= PollEvents::IN | PollEvents::RDNORM;
        }
        if !self.flags().contains(TtyFlags::STOPPED) && self.line.write_room() >= EXPANSION {
            ready |= PollEvents::OUT | PollEvents::WRNORM;
        }
        ready
    }

    /// Room for input: how much a master may write without loss.
    pub(crate) fn input_room(&self) -> usize {
        let ldisc = self.ldisc.lock();
        // A full line without an end takes more, or nobody could ever end it.
        if ldisc.is_canonical() && !ldisc.is_ready(1) { CHUNK } else { ldisc.room() }
    }

    /// Runs input through the line discipline up to the first signal; returns how much that was, and the signal.
    ///
    /// It stops there because the signal comes before what is typed after it: a reader that gets the rest of the
    /// line has had the signal.
    fn interpret(&self, bytes: &[u8]) -> (usize, Option<u32>) {
        let mut echo = ArrayVec::<u8, CHUNK>::new();
        let mut ldisc = self.ldisc.lock();
        let mut signal = None;
        let mut done = 0;
        for &byte in bytes {
            done += 1;
            // The longest echo of one byte is an erased line: send it by itself.
            match ldisc.receive(byte, &mut |b| self.echo(&mut echo, b)) {
                Action::None => continue,
                Action::StopOutput => self.stop_output(),
                Action::StartOutput => self.start_output(),
                Action::Signal(number) => {
                    // What came before the signal goes, its own echo stays.
                    if ldisc.flushes_on_signal() {
                        echo.clear();
                        self.line.flush_output();
                    }
                    ldisc.echo_signal(number, &mut |b| self.echo(&mut echo, b));
                    signal = Some(number);
                    break;
                }
            }
        }
        self.line.write(&echo);
        (done, signal)
    }

    /// Adds a byte to `pending` echo, which is sent when it is full.
    fn echo(&self, pending: &mut ArrayVec<u8, CHUNK>, byte: u8) {
        if pending.is_full() {
            self.line.write(pending);
            pending.clear();
        }
        pending.push(byte);
    }
}

impl Receiver for Tty {
    fn receive(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (done, signal) = self.interpret(&rest[..rest.len().min(CHUNK)]);
            rest = &rest[done..];
            if let Some(signal) = signal {
                self.signal_foreground(SigInfo::kernel(signal));
                self.output_wait.wake_all();
            }
        }
        self.input_wait.wake_all();
    }

    fn output_drained(&self) {
        self.output_wait.wake_all();
    }
}
