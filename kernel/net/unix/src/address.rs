//! Names of sockets: paths, abstract names, and the tables that find sockets by them.
//!
//! A path name lives in the file system: the table is keyed by the inode, which its socket keeps alive. Abstract names
//! live here only, one space for each socket type of a network namespace, and go with their socket.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::socket::{AF_UNIX, UNIX_PATH_MAX};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use net_core::SockType;
use security::Access;
use vfs::inode::FileKind;
use vfs::{At, Inode, Path, WalkContext, WalkFlags, namespace, perm};

use crate::socket::UnixSocket;

/// A socket address with its family, as getsockname(2) shows it.
pub(crate) type Address = Arc<[u8]>;

/// Length of the family in front of a name.
const FAMILY: usize = 2;

/// The address of a socket without a name.
pub(crate) fn unnamed() -> Vec<u8> {
    AF_UNIX.to_ne_bytes().to_vec()
}

/// A checked name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// A path, without a NUL.
    Path(&'a [u8]),
    /// All bytes behind the family, of which the first is 0.
    Abstract(&'a [u8]),
}

/// The family of a socket address, if it is long enough.
pub(crate) fn family(address: &[u8]) -> Option<u16> {
    address.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// Whether `address` asks for a name that the kernel chooses.
pub(crate) fn is_autobind(address: &[u8]) -> bool {
    address.len() == FAMILY && family(address) == Some(AF_UNIX)
}

/// The name in a socket address. `EINVAL`: too short, too long, or of another family.
pub(crate) fn parse(address: &[u8]) -> Result<Name<'_>> {
    let name = address.get(FAMILY..).filter(|name| (1..=UNIX_PATH_MAX).contains(&name.len()));
    let name = name.filter(|_| family(address) == Some(AF_UNIX)).ok_or(Errno::EINVAL)?;
    if name[0] == 0 {
        return Ok(Name::Abstract(name));
    }
    Ok(Name::Path(name.split(|&byte| byte == 0).next().unwrap_or(name)))
}

fn to_address(name: &[u8], end: &[u8]) -> Address {
    let mut bytes = unnamed();
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(end);
    bytes.into()
}

type Table<K> = SpinLock<BTreeMap<K, Weak<UnixSocket>>>;

static PATHS: Table<usize> = SpinLock::new("unix.paths", BTreeMap::new());
/// By number of the network namespace, type and name.
static ABSTRACT: Table<(u64, SockType, Vec<u8>)> = SpinLock::new("unix.abstract", BTreeMap::new());

/// A name that a socket has taken; dropping it gives it back.
pub(crate) enum Binding {
    Path { inode: Arc<Inode>, _path: Path },
    Abstract { net: u64, kind: SockType, name: Vec<u8> },
}

fn key(inode: &Arc<Inode>) -> usize {
    Arc::as_ptr(inode) as usize
}

impl Drop for Binding {
    fn drop(&mut self) {
        let gone = match self {
            Self::Path { inode, .. } => PATHS.lock().remove(&key(inode)),
            Self::Abstract { net, kind, name } => {
                ABSTRACT.lock().remove(&(*net, *kind, core::mem::take(name)))
            }
        };
        drop(gone);
    }
}

fn bind_abstract(socket: &UnixSocket, name: &[u8]) -> Result<Binding> {
    let (net, kind) = (socket.net.id().id(), socket.kind);
    let mut table = ABSTRACT.lock();
    if table.contains_key(&(net, kind, name.to_vec())) {
        return Err(Errno::EADDRINUSE);
    }
    table.insert((net, kind, name.to_vec()), socket.me.clone());
    Ok(Binding::Abstract { net, kind, name: name.to_vec() })
}

/// Takes `name` for `socket`. `EADDRINUSE`, and what making a file brings. May sleep.
pub(crate) fn bind(
    socket: &UnixSocket,
    walk: &WalkContext<'_>,
    name: Name<'_>,
) -> Result<(Binding, Address)> {
    match name {
        Name::Abstract(name) => Ok((bind_abstract(socket, name)?, to_address(name, b""))),
        Name::Path(name) => {
            let path = namespace::make_socket(walk, name, 0o777)?;
            let inode = path.inode().ok_or(Errno::ENOENT)?.clone();
            PATHS.lock().insert(key(&inode), socket.me.clone());
            Ok((Binding::Path { inode, _path: path }, to_address(name, b"\0")))
        }
    }
}

/// Takes a free abstract name of five hexadecimal digits (unix(7) "Autobind feature"). `ENOSPC`: there is none.
pub(crate) fn autobind(socket: &UnixSocket) -> Result<(Binding, Address)> {
    const NAMES: u32 = 1 << 20;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..NAMES {
        let number = NEXT.fetch_add(1, Relaxed) % NAMES;
        let name = format!("\0{number:05x}").into_bytes();
        if let Ok(binding) = bind_abstract(socket, &name) {
            return Ok((binding, to_address(&name, b"")));
        }
    }
    Err(Errno::ENOSPC)
}

/// The socket with the name in `address`, of the type and network namespace of `seeker`.
///
/// `EINVAL`: no name. `ECONNREFUSED`: nobody has it. `EPROTOTYPE`: a socket of another type has it. `EACCES`, and what
/// walking a path brings. May sleep.
pub(crate) fn find(walk: &WalkContext<'_>, address: &[u8], seeker: &UnixSocket) -> Result<Arc<UnixSocket>> {
    let found = match parse(address)? {
        Name::Abstract(name) => {
            let known = ABSTRACT.lock().get(&(seeker.net.id().id(), seeker.kind, name.to_vec())).cloned();
            known.and_then(|weak| weak.upgrade())
        }
        Name::Path(name) => {
            let path = vfs::walk(walk, At::Cwd, name, WalkFlags::FOLLOW)?;
            let inode = path.inode().ok_or(Errno::ENOENT)?;
            perm::permission(&path.mount.id_view(), inode, walk.cred, Access::WRITE)?;
            if inode.kind() != FileKind::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            let known = PATHS.lock().get(&key(inode)).cloned();
            known.and_then(|weak| weak.upgrade())
        }
    };
    let socket = found.ok_or(Errno::ECONNREFUSED)?;
    if socket.kind == seeker.kind { Ok(socket) } else { Err(Errno::EPROTOTYPE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_cut() {
        assert_eq!(parse(b"\x01\0/tmp/x\0rest"), Ok(Name::Path(b"/tmp/x")));
        assert_eq!(parse(b"\x01\0\0a\0b"), Ok(Name::Abstract(b"\0a\0b")));
        assert_eq!(parse(b"\x02\0/tmp/x"), Err(Errno::EINVAL));
        assert_eq!(parse(b"\x01\0"), Err(Errno::EINVAL));
        assert_eq!(parse(&[1u8; 111]), Err(Errno::EINVAL));
        assert!(is_autobind(b"\x01\0") && !is_autobind(b"\x01") && !is_autobind(b"\0\0"));
    }
}
