//! A fid: what the server keeps for us, a file at first and an open file later. The last owner gives it back.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use p9_wire::{Attributes, Change, NO_FID, Qid, Request, Statfs};
use sched::Interruptible;

use crate::channel::Part;
use crate::client::{Answer, Client, Data, errno};

/// See the module's front page.
pub(crate) struct Fid {
    client: Arc<Client>,
    id: u32,
}

impl Drop for Fid {
    fn drop(&mut self) {
        if self.id == NO_FID || self.client.is_dead() {
            return;
        }
        // Whoever drops it may hold locks, and an answer has to be waited for.
        let (client, id) = (self.client.clone(), self.id);
        self.client.later.queue(Box::new(move || {
            let _ = client.call_surely(&Request::Clunk { fid: id });
            client.free_fid(id);
        }));
    }
}

impl Fid {
    /// The fid `id`, as if the server knew it.
    #[cfg(test)]
    pub(crate) fn of(client: &Arc<Client>, id: u32) -> Fid {
        Fid { client: client.clone(), id }
    }

    /// Enters the tree `aname` of the server as `uname` with the id `uid`: its root.
    pub(crate) fn attach(client: &Arc<Client>, uname: &[u8], aname: &[u8], uid: u32) -> Result<Fid> {
        let new = Fid::new(client)?;
        let request = Request::Attach { fid: new.id, uname, aname, uid };
        client.call(&request, Data::None)?.body()?.qid().map_err(errno)?;
        Ok(new)
    }

    /// A number that the server is to connect with a file. It is given back even when that failed: the server may have done it
    /// all the same.
    pub(crate) fn new(client: &Arc<Client>) -> Result<Fid> {
        Ok(Fid { client: client.clone(), id: client.new_fid()? })
    }

    /// Gives the number back, which the server surely does not know.
    pub(crate) fn unused(mut self) {
        self.client.free_fid(core::mem::replace(&mut self.id, NO_FID));
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    fn call(&self, request: &Request<'_>) -> Result<Answer> {
        self.client.call(request, Data::None)
    }

    /// Gives it back, and hears what the server says to that.
    pub(crate) fn clunk(mut self) -> Result<()> {
        let id = core::mem::replace(&mut self.id, NO_FID);
        let said = self.client.call_surely(&Request::Clunk { fid: id });
        self.client.free_fid(id);
        said.map(drop)
    }

    /// A second fid for the same file; `kind` tells which signals end the wait.
    pub(crate) fn duplicate(&self, kind: Interruptible) -> Result<Fid> {
        let new = Fid::new(&self.client)?;
        let request = Request::Walk { fid: self.id, new_fid: new.id, names: &[] };
        let answer = self.client.call_as(&request, Data::None, kind)?;
        answer.body()?.walked(0).map_err(errno)?;
        Ok(new)
    }

    /// The file `name` in this directory; `None`: there is none.
    pub(crate) fn walk(&self, name: &[u8]) -> Result<Option<(Fid, Qid)>> {
        let new = Fid::new(&self.client)?;
        let answer = match self.call(&Request::Walk { fid: self.id, new_fid: new.id, names: &[name] }) {
            Err(Errno::ENOENT) => {
                new.unused();
                return Ok(None);
            }
            answer => answer?,
        };
        match answer.body()?.walked(1).map_err(errno)? {
            (1, Some(qid)) => Ok(Some((new, qid))),
            _ => {
                new.unused();
                Ok(None)
            }
        }
    }

    pub(crate) fn attributes(&self) -> Result<Attributes> {
        self.call(&Request::GetAttr { fid: self.id })?.body()?.attributes().map_err(errno)
    }

    pub(crate) fn change(&self, change: &Change) -> Result<()> {
        self.call(&Request::SetAttr { fid: self.id, change: *change }).map(drop)
    }

    pub(crate) fn statfs(&self) -> Result<Statfs> {
        self.call(&Request::Statfs { fid: self.id })?.body()?.statfs().map_err(errno)
    }

    /// Opens it, with the flags of open(2); `kind` tells which signals end the wait.
    pub(crate) fn open(&self, flags: u32, kind: Interruptible) -> Result<()> {
        let answer = self.client.call_as(&Request::Open { fid: self.id, flags }, Data::None, kind)?;
        answer.body()?.qid().map(drop).map_err(errno)
    }

    /// Makes the regular file `name` in this directory; the fid is that of the open file afterwards.
    pub(crate) fn create(&self, name: &[u8], flags: u32, mode: u32, gid: u32) -> Result<()> {
        let answer = self.call(&Request::Create { fid: self.id, name, flags, mode, gid })?;
        answer.body()?.qid().map(drop).map_err(errno)
    }

    /// Sends a request that has no answer but success.
    pub(crate) fn tell(&self, request: &Request<'_>) -> Result<()> {
        self.call(request).map(drop)
    }

    pub(crate) fn read_link(&self) -> Result<Vec<u8>> {
        let answer = self.call(&Request::ReadLink { fid: self.id })?;
        copy(answer.body()?.string().map_err(errno)?)
    }

    /// Reads at `offset` into `parts`, which hold the payload at most; gives the number of bytes.
    pub(crate) fn read(&self, offset: u64, parts: &[Part]) -> Result<usize> {
        let count = len_of(parts);
        let answer = self.client.call(&Request::Read { fid: self.id, offset, count }, Data::In(parts))?;
        Ok(answer.body()?.count(count).map_err(errno)? as usize)
    }

    /// As [`Fid::read`], of a directory's entries.
    pub(crate) fn read_dir(&self, offset: u64, parts: &[Part]) -> Result<usize> {
        let count = len_of(parts);
        let answer = self.client.call(&Request::ReadDir { fid: self.id, offset, count }, Data::In(parts))?;
        Ok(answer.body()?.count(count).map_err(errno)? as usize)
    }

    /// Writes `parts` at `offset`; gives the number of bytes. `kind` tells which signals end the wait. `EIO`: none.
    pub(crate) fn write(&self, offset: u64, parts: &[Part], kind: Interruptible) -> Result<usize> {
        let count = len_of(parts);
        let request = Request::Write { fid: self.id, offset, count };
        let answer = self.client.call_as(&request, Data::Out(parts), kind)?;
        match answer.body()?.count(count).map_err(errno)? {
            0 if count > 0 => Err(Errno::EIO),
            done => Ok(done as usize),
        }
    }

    pub(crate) fn sync(&self, data_only: bool) -> Result<()> {
        self.tell(&Request::Fsync { fid: self.id, data_only: data_only.into() })
    }
}

fn len_of(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.len as u32).sum()
}

/// A copy of bytes, if there is memory.
pub(crate) fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    out.extend_from_slice(bytes);
    Ok(out)
}
