//! /proc/kmsg: the kernel's log as a stream. All readers share one position: what one has read, no other sees.

use alloc::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::uio::Dest;
use sched::PollTable;
use syslog::{Action, Reader};
use vfs::{File, FileMode, FileOps};

struct Kmsg(Reader);

/// Opens it. `EPERM`: no `CAP_SYSLOG`.
pub(super) fn open() -> Result<Arc<dyn FileOps>> {
    process::current().with_cred(|cred| syslog::check(Action::Open, cred))?;
    Ok(Arc::new(Kmsg(Reader::new())))
}

impl FileOps for Kmsg {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let done = syslog::read(dst)?;
            if done > 0 {
                return Ok(done);
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.0.wait()?;
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(self.0.wait_queue());
        if syslog::has_unread() { PollEvents::IN | PollEvents::RDNORM } else { PollEvents::empty() }
    }
}
