//! The descriptor of an event: read(2), ioctl(2), poll(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::perf::{ReadFormat, ioc};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::uio::Dest;
use hal::{UserAddr, user};
use sched::PollTable;
use security::Cred;
use vfs::{File, FileMode, FileOps};
use zerocopy::IntoBytes;

use crate::counts::Totals;
use crate::event::Event;

/// The operations of an event.
pub(crate) struct EventFile(Arc<Event>);

/// Makes the file of `event`.
pub(crate) fn create(event: Arc<Event>, cred: &Arc<Cred>) -> Result<Arc<File>> {
    vfs::anon::file("[perf_event]", Arc::new(EventFile(event)), OpenFlags::RDWR, cred)
}

impl EventFile {
    /// The event behind a file.
    pub(crate) fn event(&self) -> &Arc<Event> {
        &self.0
    }

    /// Words before those of each event, and words of each.
    fn layout(&self) -> (usize, usize) {
        let format = self.0.attr.read_format;
        let nr = |flags: ReadFormat| (format & flags).bits().count_ones() as usize;
        let times = nr(ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING);
        let each = 1 + nr(ReadFormat::ID | ReadFormat::LOST);
        (times + nr(ReadFormat::GROUP), each)
    }

    fn put_times(&self, words: &mut Vec<u64>, totals: &Totals) {
        let format = self.0.attr.read_format;
        if format.contains(ReadFormat::TOTAL_TIME_ENABLED) {
            words.push(totals.enabled_ns);
        }
        if format.contains(ReadFormat::TOTAL_TIME_RUNNING) {
            words.push(totals.running_ns);
        }
    }

    fn put_id(&self, words: &mut Vec<u64>, event: &Event) {
        let format = self.0.attr.read_format;
        if format.contains(ReadFormat::ID) {
            words.push(event.id);
        }
        if format.contains(ReadFormat::LOST) {
            // Samples that found no room: there are none.
            words.push(0);
        }
    }

    /// The event alone.
    fn read_one(&self, words: &mut Vec<u64>) {
        let totals = self.0.totals();
        words.push(totals.value);
        self.put_times(words, &totals);
        self.put_id(words, &self.0);
    }

    /// The whole group, its leader first. `ENOSPC`: it has grown.
    fn read_group(&self, words: &mut Vec<u64>, room: usize) -> Result<()> {
        let leader = self.0.leader();
        let members = leader.members()?;
        let (head, each) = self.layout();
        if (head + each * (1 + members.len())) > room {
            return Err(Errno::ENOSPC);
        }
        words.try_reserve(room).map_err(|_| Errno::ENOMEM)?;
        let totals = leader.totals();
        words.push(1 + members.len() as u64);
        self.put_times(words, &totals);
        words.push(totals.value);
        self.put_id(words, &leader);
        for member in members {
            words.push(member.totals().value);
            self.put_id(words, &member);
        }
        Ok(())
    }

    /// Calls `act` with the event, or with all of its group. `ENOMEM`.
    fn for_scope(&self, arg: usize, act: impl Fn(&Event)) -> Result<usize> {
        if arg & ioc::FLAG_GROUP == 0 {
            act(&self.0);
            return Ok(0);
        }
        let leader = self.0.leader();
        let members = leader.members()?;
        act(&leader);
        members.iter().for_each(|member| act(member));
        Ok(0)
    }
}

impl FileOps for EventFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, _file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let (head, each) = self.layout();
        let is_group = self.0.attr.read_format.contains(ReadFormat::GROUP);
        let nr = if is_group { self.0.leader().group_len() } else { 1 };
        let room = dst.remaining() / size_of::<u64>();
        if room < head + each * nr {
            return Err(Errno::ENOSPC);
        }
        let mut words = Vec::new();
        if is_group {
            self.read_group(&mut words, room.min(head + each * (nr + 1)))?;
        } else {
            self.read_one(&mut words);
        }
        let bytes = words.as_bytes();
        if dst.put_bytes(bytes)? < bytes.len() {
            return Err(Errno::EFAULT);
        }
        Ok(bytes.len())
    }

    fn poll(&self, _file: &File, _table: &mut PollTable) -> PollEvents {
        // Without a ring buffer there is nothing to wait for.
        PollEvents::HUP
    }

    fn ready(&self, _file: &File) -> Option<PollEvents> {
        Some(PollEvents::HUP)
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        match cmd {
            ioc::ENABLE => self.for_scope(arg, |event| event.set_on(true)),
            ioc::DISABLE => self.for_scope(arg, |event| event.set_on(false)),
            ioc::RESET => self.for_scope(arg, Event::reset),
            ioc::ID => {
                user::write(UserAddr(arg as u64), &self.0.id)?;
                Ok(0)
            }
            // What has no samples has no period, no limit of them and no output to pause, and no filter.
            ioc::PERIOD => {
                let _period: u64 = user::read(UserAddr(arg as u64))?;
                Err(Errno::EINVAL)
            }
            ioc::SET_OUTPUT if arg as i32 == -1 => Ok(0),
            ioc::REFRESH
            | ioc::SET_OUTPUT
            | ioc::SET_FILTER
            | ioc::SET_BPF
            | ioc::PAUSE_OUTPUT
            | ioc::QUERY_BPF => Err(Errno::EINVAL),
            ioc::MODIFY_ATTRIBUTES => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn release(&self, _file: &File) {
        self.0.close();
    }
}
