//! A message that is promised to a socket and sent later, as by mq_notify(3) with `SIGEV_THREAD`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::{Errno, Result};
use vfs::File;

use crate::queue::Packet;
use crate::socket::NetlinkSocket;

/// A place in a socket's queue for one message. The socket may end meanwhile: then nobody gets it.
pub struct Notice {
    socket: Arc<NetlinkSocket>,
    /// Bytes that are reserved; `None`: they are used.
    reserved: Option<usize>,
}

impl Notice {
    /// Takes the place of a message of `len` bytes; waits for room.
    ///
    /// `ENOTSOCK`: `file` is no socket. `EINVAL`: it is one of another family. `ERESTARTSYS`.
    pub fn reserve(file: &File, len: usize) -> Result<Self> {
        let socket: &dyn Any = &**net_core::socket_of(file)?;
        let socket = socket.downcast_ref::<NetlinkSocket>().ok_or(Errno::EINVAL)?;
        let socket = socket.weak().upgrade().ok_or(Errno::EINVAL)?;
        socket.reserve(len)?;
        Ok(Self { socket, reserved: Some(len) })
    }

    /// Sends `data`, of which as much counts as was reserved.
    pub fn send(mut self, mut data: Vec<u8>) {
        if let Some(len) = self.reserved.take() {
            data.resize(len, 0);
            self.socket.use_reserve(len, Some(Packet::of_kernel(data, 0)));
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(len) = self.reserved.take() {
            self.socket.use_reserve(len, None);
        }
    }
}
