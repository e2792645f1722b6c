//! The open file in front of a socket.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, S_IFSOCK};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use hal::{UserAddr, user};
use mm::Backing;
use sched::PollTable;
use security::Cred;
use vfs::{File, FileMode, FileOps, anon};

use crate::xattr::SocketInode;

use crate::{MsgFlags, Outgoing, SockType, Socket};

/// `SIOCOUTQ`.
const SIOCOUTQ: u32 = 0x5411;

/// The operations of a socket's open file.
pub struct SocketFile {
    socket: Arc<dyn Socket>,
}

impl SocketFile {
    /// The socket.
    pub fn socket(&self) -> &Arc<dyn Socket> {
        &self.socket
    }
}

/// The flags of a plain read or write on `file`.
fn flags_of(file: &File) -> MsgFlags {
    if file.is_nonblocking() { MsgFlags::DONTWAIT } else { MsgFlags::empty() }
}

impl FileOps for SocketFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        self.socket.receive(dst, flags_of(file)).map(|received| received.len)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let message = Outgoing {
            data: src,
            name: None,
            rights: Vec::new(),
            creds: None,
            control: Vec::new(),
            flags: flags_of(file),
        };
        self.socket.send(None, message)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        self.socket.poll(table)
    }

    fn ioctl(&self, file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd != SIOCOUTQ {
            // What a request may do depends on who makes it, and not on who has opened the file.
            let cred = crate::current_cred().unwrap_or_else(|| file.cred().clone());
            let arg = UserAddr(arg as u64);
            return match self.socket.ioctl(cmd, arg) {
                Err(Errno::ENOTTY) => crate::interface_request(&*self.socket, cmd, arg, &cred),
                result => result,
            };
        }
        user::write(UserAddr(arg as u64), &(self.socket.unsent_bytes()? as i32))?;
        Ok(0)
    }

    fn mmap_at(&self, _file: &Arc<File>, offset: u64, len: u64) -> Result<Backing> {
        self.socket.mmap(offset, len)
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        self.socket.readable_bytes()
    }

    fn raises_sigpipe(&self) -> bool {
        self.socket.kind() == SockType::Stream
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.release();
    }
}

/// Opens a file on `socket`, which is released with it, also when this fails. Of `flags`, `O_NONBLOCK` counts.
pub fn open(socket: Arc<dyn Socket>, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let ops = Arc::new(SocketFile { socket });
    let own = alloc::boxed::Box::new(SocketInode::new(ops.socket.protocol_name()));
    let inode = anon::new_inode_with(anon::SOCKET, S_IFSOCK | 0o777, cred, own);
    ops.socket.opened(inode.ino());
    anon::open(&inode, ops, OpenFlags::RDWR | flags & OpenFlags::NONBLOCK, cred)
}

/// The socket behind `file`. `ENOTSOCK`: it is something else.
pub fn socket_of(file: &File) -> Result<&Arc<dyn Socket>> {
    file.ops_as::<SocketFile>().map(SocketFile::socket).ok_or(Errno::ENOTSOCK)
}
