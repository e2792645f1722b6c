//! Pseudo-terminals: a master that a program holds and a slave that looks like a terminal (pty(7)).
//!
//! ```text
//! master write ──▶ Tty::receive (line discipline) ──▶ slave read
//! master read  ◀── PtyLine ring ◀── line discipline ◀── slave write
//! ```
//!
//! The master owns the pair: the slave's name lives as long as the master is open. When the master closes,
//! the slave is hung up; when the last slave closes, the master reads what is left and then gets `EIO`.
//!
//! # Locks
//!
//! `PtyLine::ring` (interrupts off) nests in the slave's `ldisc`. `TABLE` sleeps and nests in nothing.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::*};

use abi::fs::{OpenFlags, makedev};
use abi::poll::PollEvents;
use abi::raw::ioctl as cmd;
use abi::signal::{NSIG, SigInfo};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::sync::{IrqLock, Once};
use hal::uio::{Dest, Src};
use hal::user;
use sched::{Mutex, PollTable, WaitQueue};
use vfs::{FdFlags, File, FileMode, FileOps, Inode};

use crate::file::{TtyFile, settings_ioctl, wait_of};
use crate::flags::Kind;
use crate::line::{Line, Receiver};
use crate::tty::{Tty, TtyFlags, Wait};

/// Bytes between slave and master.
const CAPACITY: usize = 16 * 1024;
/// Bytes moved at a time.
const CHUNK: usize = 256;
/// Most pseudo-terminals at once (Linux: kernel.pty.max).
pub const MAX_PTYS: usize = 4096;
/// Major number of slaves (Linux: `UNIX98_PTY_SLAVE_MAJOR`); the minor number is the index.
pub const SLAVE_MAJOR: u32 = 136;
/// Leads every packet of data in packet mode (ioctl_tty(2), TIOCPKT).
const TIOCPKT_DATA: u8 = 0;

/// Told when slaves come and go: devpts, which shows them as files.
pub trait SlaveSink: Sync {
    /// Slave `index` came; it belongs to `uid` and `gid`.
    fn added(&self, index: u32, uid: u32, gid: u32);
    /// Slave `index` went.
    fn removed(&self, index: u32);
    /// The file that shows slave `index`.
    fn inode(&self, index: u32) -> Option<Arc<Inode>>;
}

static SINK: Once<&'static dyn SlaveSink> = Once::new();
/// The pairs by number. Its lock sleeps: a pair is made under it, so that two openers get two numbers.
static TABLE: Mutex<Vec<Option<Weak<Pair>>>> = Mutex::new("tty.pty_table", Vec::new());

/// Registers who shows slaves as files. Once.
pub fn set_sink(sink: &'static dyn SlaveSink) {
    SINK.call_once(|| sink);
}

/// The way from slave to master.
struct PtyLine {
    ring: IrqLock<VecDeque<u8>>,
    /// Masters that wait to read, or for room to write.
    wait: WaitQueue,
}

impl Line for PtyLine {
    fn write(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let count = {
            let mut ring = self.ring.lock();
            let count = bytes.len().min(CAPACITY.saturating_sub(ring.len()));
            ring.extend(&bytes[..count]);
            count
        };
        self.wait.wake_all();
        count
    }

    fn write_room(&self) -> usize {
        CAPACITY.saturating_sub(self.ring.lock().len())
    }

    fn pending_output(&self) -> usize {
        self.ring.lock().len()
    }

    fn flush_output(&self) {
        self.ring.lock().clear();
    }
}

/// A master with its slave.
pub struct Pair {
    index: u32,
    slave: Arc<Tty>,
    line: Arc<PtyLine>,
    is_locked: AtomicBool,
    packet_mode: AtomicBool,
    /// Status bits for the next packet-mode read.
    packet_status: AtomicU8,
    slave_opens: AtomicU32,
    was_slave_opened: AtomicBool,
}

impl Pair {
    /// The number in the slave's name.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The other end is gone: it was open once and nobody has it now.
    fn is_slave_gone(&self) -> bool {
        self.was_slave_opened.load(Acquire) && self.slave_opens.load(Acquire) == 0
    }
}

/// Finds a pair by number.
pub fn find(index: u32) -> Option<Arc<Pair>> {
    TABLE.lock().get(index as usize)?.as_ref()?.upgrade()
}

/// How many pairs there are (/proc/sys/kernel/pty/nr).
pub fn count() -> usize {
    TABLE.lock().iter().flatten().filter(|pair| pair.strong_count() > 0).count()
}

/// Opens /dev/ptmx: makes a new pair and gives its master end.
///
/// `ENOSPC`: there are [`MAX_PTYS`] already. `ENOMEM`.
pub fn open_master(uid: u32, gid: u32) -> Result<Arc<dyn FileOps>> {
    let mut ring = VecDeque::new();
    ring.try_reserve(CAPACITY).map_err(|_| Errno::ENOMEM)?;
    let line = Arc::new(PtyLine { ring: IrqLock::new("tty.pty_ring", ring), wait: WaitQueue::new() });
    let pair = {
        let mut table = TABLE.lock();
        let free = table.iter().position(|place| place.as_ref().is_none_or(|weak| weak.strong_count() == 0));
        let index = free.unwrap_or(table.len());
        if index >= MAX_PTYS {
            return Err(Errno::ENOSPC);
        }
        if index == table.len() {
            table.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            table.push(None);
        }
        let pair = new_pair(index as u32, line);
        table[index] = Some(Arc::downgrade(&pair));
        pair
    };
    if let Some(sink) = SINK.get() {
        sink.added(pair.index, uid, gid);
    }
    Ok(Arc::new(Master { pair }))
}

fn new_pair(index: u32, line: Arc<PtyLine>) -> Arc<Pair> {
    let device = makedev(SLAVE_MAJOR, index);
    let slave = Tty::new(format!("pts/{index}"), device, Kind::Pty, line.clone());
    Arc::new(Pair {
        index,
        slave,
        line,
        is_locked: AtomicBool::new(true),
        packet_mode: AtomicBool::new(false),
        packet_status: AtomicU8::new(0),
        slave_opens: AtomicU32::new(0),
        was_slave_opened: AtomicBool::new(false),
    })
}

/// Opens the slave with number `index`. `EIO`: it is locked, or its master is gone.
pub fn open_slave(index: u32, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
    let pair = find(index).ok_or(Errno::EIO)?;
    if pair.is_locked.load(Acquire) || pair.slave.flags().contains(TtyFlags::HUNG_UP) {
        return Err(Errno::EIO);
    }
    pair.slave_opens.fetch_add(1, AcqRel);
    pair.was_slave_opened.store(true, Release);
    if !flags.contains(OpenFlags::NOCTTY) {
        pair.slave.adopt_session();
    }
    let inner = TtyFile { tty: pair.slave.clone() };
    Ok(Arc::new(Slave { inner, pair: Arc::downgrade(&pair) }))
}

/// The operations of an open slave: those of a terminal, and a count for the master.
struct Slave {
    inner: TtyFile,
    pair: Weak<Pair>,
}

impl FileOps for Slave {
    fn mode(&self) -> FileMode {
        self.inner.mode()
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        self.inner.read(file, dst, pos)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        self.inner.write(file, src, pos)
    }

    fn poll(&self, file: &File, table: &mut PollTable) -> PollEvents {
        self.inner.poll(file, table)
    }

    fn readable_bytes(&self, file: &File) -> Result<usize> {
        self.inner.readable_bytes(file)
    }

    fn ioctl(&self, file: &Arc<File>, request: u32, arg: usize) -> Result<usize> {
        self.inner.ioctl(file, request, arg)
    }

    fn release(&self, _file: &File) {
        if let Some(pair) = self.pair.upgrade() {
            pair.slave_opens.fetch_sub(1, AcqRel);
            pair.line.wait.wake_all();
        }
    }
}

/// The operations of an open master.
pub struct Master {
    pair: Arc<Pair>,
}

impl Master {
    /// The pair that it is the master of.
    pub fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    fn has_input(&self) -> bool {
        let pair = &self.pair;
        pair.line.pending_output() > 0 || pair.packet_status.load(Acquire) != 0 || pair.is_slave_gone()
    }
}

impl FileOps for Master {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let pair = &self.pair;
        while !self.has_input() {
            if wait_of(file) == Wait::No {
                return Err(Errno::EAGAIN);
            }
            pair.line.wait.wait_interruptible(|| self.has_input().then_some(()))?;
        }
        let mut total = 0;
        if pair.packet_mode.load(Relaxed) {
            let status = pair.packet_status.swap(TIOCPKT_DATA, AcqRel);
            total += dst.put_bytes(&[status])?;
            if status != TIOCPKT_DATA {
                return Ok(total);
            }
        }
        let mut buf = [0; CHUNK];
        loop {
            let count = {
                let mut ring = pair.line.ring.lock();
                let count = ring.len().min(CHUNK).min(dst.remaining());
                for (slot, byte) in buf.iter_mut().zip(ring.drain(..count)) {
                    *slot = byte;
                }
                count
            };
            if count == 0 {
                break;
            }
            total += dst.put_bytes(&buf[..count])?;
        }
        if total == 0 && dst.remaining() > 0 {
            return Err(Errno::EIO);
        }
        pair.slave.output_drained();
        Ok(total)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let slave = &self.pair.slave;
        let mut total = 0;
        let mut buf = [0; CHUNK];
        while src.remaining() > 0 {
            if self.pair.is_slave_gone() {
                return if total > 0 { Ok(total) } else { Err(Errno::EIO) };
            }
            let room = slave.input_room().min(CHUNK).min(src.remaining());
            if room == 0 {
                if wait_of(file) == Wait::No {
                    return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN) };
                }
                let has_room = || (slave.input_room() > 0 || self.pair.is_slave_gone()).then_some(());
                match slave.output_wait.wait_interruptible(has_room) {
                    Ok(()) => continue,
                    Err(_) if total > 0 => return Ok(total),
                    Err(interrupted) => return Err(interrupted.into()),
                }
            }
            let count = src.take_bytes(&mut buf[..room])?;
            slave.receive(&buf[..count]);
            total += count;
        }
        Ok(total)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.pair.line.wait);
        table.register(&self.pair.slave.output_wait);
        let mut ready = PollEvents::empty();
        if self.pair.line.pending_output() > 0 || self.pair.packet_status.load(Acquire) != 0 {
            ready |= PollEvents::IN | PollEvents::RDNORM;
        }
        if self.pair.is_slave_gone() {
            ready |= PollEvents::HUP;
        }
        if self.pair.slave.input_room() > 0 {
            ready |= PollEvents::OUT | PollEvents::WRNORM;
        }
        ready
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.pair.line.pending_output())
    }

    fn ioctl(&self, file: &Arc<File>, request: u32, arg: usize) -> Result<usize> {
        let pair = &self.pair;
        let addr = UserAddr(arg as u64);
        match request {
            cmd::TIOCGPTN => user::write(addr, &pair.index)?,
            cmd::TIOCSPTLCK => pair.is_locked.store(user::read::<i32>(addr)? != 0, Release),
            cmd::TIOCGPTLCK => user::write(addr, &i32::from(pair.is_locked.load(Relaxed)))?,
            cmd::TIOCPKT => pair.packet_mode.store(user::read::<i32>(addr)? != 0, Relaxed),
            cmd::TIOCGPKT => user::write(addr, &i32::from(pair.packet_mode.load(Relaxed)))?,
            cmd::TIOCGPTPEER => return open_peer(pair, file, arg),
            cmd::TIOCGPGRP => user::write(addr, &process::pid::visible(pair.slave.foreground_id()))?,
            cmd::TIOCGSID => {
                user::write(addr, &process::pid::visible(pair.slave.session_id().ok_or(Errno::ENOTTY)?))?
            }
            cmd::TIOCSIG => {
                let signal =
                    u32::try_from(arg).ok().filter(|s| (1..=NSIG).contains(s)).ok_or(Errno::EINVAL)?;
                pair.slave.signal_foreground(SigInfo::kernel(signal));
            }
            cmd::TIOCSCTTY | cmd::TIOCNOTTY | cmd::TIOCSPGRP => return Err(Errno::ENOTTY),
            _ => return settings_ioctl(&pair.slave, request, arg),
        }
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.pair.slave.hang_up_session();
        if let Some(sink) = SINK.get() {
            sink.removed(self.pair.index);
        }
    }
}

/// `TIOCGPTPEER`: opens the slave without its name and gives a descriptor.
fn open_peer(pair: &Arc<Pair>, master: &Arc<File>, flags: usize) -> Result<usize> {
    let flags = OpenFlags::from_bits_truncate(flags as u32);
    let ops = open_slave(pair.index, flags)?;
    let name = format!("/dev/pts/{}", pair.index);
    let task = process::current();
    let shown = SINK.get().and_then(|sink| sink.inode(pair.index));
    let inode = shown.as_ref().unwrap_or(master.inode());
    let file = vfs::anon::file_on(inode, name.as_bytes(), ops, flags, &task.cred())?;
    let files = task.files().ok_or(Errno::EMFILE)?;
    let cloexec = if flags.contains(OpenFlags::CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    let limit = task.group().rlimits().cur(limits::Resource::Nofile) as usize;
    files.insert(file, 0, limit, cloexec).map(|fd| fd as usize)
}
