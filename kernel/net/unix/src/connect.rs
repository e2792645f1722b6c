//! connect(2).

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use net_core::{MsgFlags, Patience, Socket};
use vfs::WalkContext;

use crate::address;
use crate::socket::{READABLE, State, UnixSocket};

/// `AF_UNSPEC`: ends the association of a datagram socket.
const AF_UNSPEC: u16 = 0;

/// Held by whoever holds the `inner` of two sockets, so that no two hold them crosswise.
static LINK: SpinLock<()> = SpinLock::new("unix.link", ());

/// What became of an attempt to connect.
enum Attempt {
    Done,
    /// The listener's backlog is full.
    Full,
}

impl UnixSocket {
    pub(crate) fn connect_stream(
        &self,
        walk: &WalkContext<'_>,
        address: &[u8],
        flags: MsgFlags,
    ) -> Result<()> {
        address::parse(address)?;
        if self.options().tells_senders() {
            self.autobind()?;
        }
        let patience = Patience::new(flags, self.options().send_timeout());
        let embryo = UnixSocket::new(self.kind, self.net.clone());
        loop {
            let listener = address::find(walk, address, self)?;
            match self.try_connect(&listener, &embryo)? {
                Attempt::Done => {
                    listener.wait.wake_events(READABLE);
                    self.wake_everyone();
                    return Ok(());
                }
                Attempt::Full => patience.wait(&listener.room, || {
                    let theirs = listener.inner.lock();
                    (theirs.state != State::Listening || theirs.shut.receive || !theirs.is_full())
                        .then_some(())
                })?,
            }
        }
    }

    /// Queues `embryo` with `listener` and ties it to this socket. `ECONNREFUSED`: nobody listens. `EISCONN`.
    fn try_connect(&self, listener: &Arc<UnixSocket>, embryo: &Arc<UnixSocket>) -> Result<Attempt> {
        let (cred, process) = (net_core::identity(), net_core::process());
        let me = self.me.upgrade().ok_or(Errno::ECONNREFUSED)?;
        let _link = LINK.lock();
        if !core::ptr::eq(self, &**listener) {
            let mut theirs = listener.inner.lock();
            if theirs.state != State::Listening || theirs.shut.receive {
                return Err(Errno::ECONNREFUSED);
            }
            if theirs.is_full() {
                return Ok(Attempt::Full);
            }
            let mut mine = self.inner.lock();
            match mine.state {
                State::Unconnected => {}
                State::Connected => return Err(Errno::EISCONN),
                _ => return Err(Errno::EINVAL),
            }
            {
                let mut new = embryo.inner.lock();
                new.state = State::Connected;
                new.local = theirs.local.clone();
                new.peer = Some(me);
                new.peer_cred = Some(cred);
                new.peer_process = process;
            }
            embryo.options().inherit(listener.options());
            mine.state = State::Connected;
            mine.peer = Some(embryo.clone());
            mine.peer_cred = Some(theirs.own_cred);
            mine.peer_process = theirs.own_process.clone();
            theirs.embryos.push_back(embryo.clone());
            return Ok(Attempt::Done);
        }
        // A socket that listens cannot connect, to itself least of all.
        Err(if self.is_listening() { Errno::EINVAL } else { Errno::ECONNREFUSED })
    }

    pub(crate) fn connect_datagram(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        let peer = if address::family(address) == Some(AF_UNSPEC) {
            None
        } else {
            address::parse(address)?;
            if self.options().tells_senders() {
                self.autobind()?;
            }
            let other = address::find(walk, address, self)?;
            let theirs = other.inner.lock();
            if theirs.state == State::Dead {
                return Err(Errno::ECONNREFUSED);
            }
            if theirs.peer.is_some() && !self.is_peer_of(&theirs) {
                return Err(Errno::EPERM);
            }
            drop(theirs);
            Some(other)
        };
        let old = {
            let mut inner = self.inner.lock();
            inner.state = if peer.is_some() { State::Connected } else { State::Unconnected };
            core::mem::replace(&mut inner.peer, peer)
        };
        self.wake_everyone();
        drop(old);
        Ok(())
    }
}
