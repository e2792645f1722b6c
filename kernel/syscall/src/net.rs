//! Sockets (socket(2), bind(2), send(2), recv(2), ...) of the families `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK` and
//! `AF_PACKET`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::signal::{SIGPIPE, SigInfo};
use abi::socket::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IOV_MAX, Mmsghdr, Msghdr, Ucred};
use abi::time::{Timespec, Timeval};
use abi::{Errno, Result};
use events::pidfd;
use hal::time::now_ns;
use hal::uio::{Dest, Src, UserBuf};
use hal::{UserAddr, user};
use net_core::options::{self, Value};
use net_core::{End, Halves, MsgFlags, Outgoing, Process, Received, SockType, Socket};
use ns::NetNs;
use process::ThreadGroup;
use process::signal::{Target, send_kernel};
use security::Cap;
use vfs::{FdFlags, File};

use crate::Cx;
use crate::caller::{self, Caller, file};
use crate::control;

/// Size of `struct sockaddr_storage`: no address is longer.
const MAX_ADDRESS: usize = 128;
/// One past the highest address family of Linux.
const NR_FAMILIES: i32 = 46;
/// One past the highest socket type.
const NR_TYPES: i32 = 11;
/// Most bytes of an option's value that count.
const MAX_OPTION: usize = 256;
/// `SOL_SOCKET`.
pub(crate) const SOL_SOCKET: i32 = 1;
/// An option of unix(7) that makes a descriptor.
const SO_PEERPIDFD: i32 = 77;

/// Who calls, for `SCM_CREDENTIALS` and `SO_PEERCRED`.
fn identify() -> Ucred {
    process::try_current().map_or_else(Ucred::default, |task| {
        let pid = task.pid() as i32;
        task.with_cred(|cred| Ucred { pid, uid: cred.euid, gid: cred.egid })
    })
}

/// The calling process, for `SO_PEERPIDFD`.
fn identify_process() -> Option<Process> {
    Some(process::try_current()?.group().clone())
}

/// A pidfd of what [`identify_process`] gave, which may have been reaped meanwhile.
pub(crate) fn pidfd_of(process: Process, caller: &Caller) -> Result<Arc<File>> {
    let group = process.downcast::<ThreadGroup>().map_err(|_| Errno::ESRCH)?;
    pidfd::create(pidfd::Subject::Process(group), OpenFlags::CLOEXEC, &caller.cred)
}

/// `SIOCGSKNS`: a descriptor of the socket's network namespace. `EPERM` without CAP_NET_ADMIN there. `None`: `fd` is no
/// socket.
pub(crate) fn namespace_of(fd: i32) -> Option<Result<usize>> {
    let file = file(fd).ok()?;
    let socket = net_core::socket_of(&file).ok()?;
    let open = || {
        let net = socket.net().and_then(|net| net.downcast::<NetNs>().ok()).ok_or(Errno::ENOTTY)?;
        let caller = Caller::new()?;
        if !caller.cred.ns_capable(net.id().owner(), Cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        caller.install(nsfs::open(nsfs::Namespace::Net(net))?, FdFlags::CLOEXEC)
    };
    Some(open())
}

/// Splits the type argument of socket(2) from its flags. `EINVAL`: unknown flags.
fn split_type(kind: i32) -> Result<(i32, OpenFlags)> {
    const TYPE_MASK: i32 = 0xf;
    Ok((kind & TYPE_MASK, socket_flags((kind & !TYPE_MASK) as u32)?))
}

/// `SOCK_CLOEXEC` and `SOCK_NONBLOCK`, which are `O_CLOEXEC` and `O_NONBLOCK`. `EINVAL`: others.
pub(crate) fn socket_flags(flags: u32) -> Result<OpenFlags> {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    OpenFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::EINVAL)
}

/// `EAFNOSUPPORT`: a family that is not there. `EINVAL`: no such type in any family.
fn check_family(family: i32, kind: i32) -> Result<()> {
    net_core::register_identity(identify);
    net_core::register_process(identify_process);
    net_core::register_cred(|| process::try_current().map(|task| task.cred()));
    net_core::register_show(crate::control::shown_creds);
    if !(0..NR_FAMILIES).contains(&family) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !(0..NR_TYPES).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    let known = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET].map(i32::from);
    if known.contains(&family) { Ok(()) } else { Err(Errno::EAFNOSUPPORT) }
}

/// Makes a socket as socket(2) does.
pub(crate) fn open_socket(family: i32, kind: i32, protocol: i32) -> Result<(Arc<File>, FdFlags)> {
    let (kind, flags) = split_type(kind)?;
    check_family(family, kind)?;
    let caller = Caller::new()?;
    let socket = if family == i32::from(AF_UNIX) {
        net_unix::create(kind, protocol)?
    } else if family == i32::from(AF_NETLINK) {
        net_netlink::create(kind, protocol, &caller.cred)?
    } else if family == i32::from(AF_PACKET) {
        net_packet::create(kind, protocol, &caller.cred)?
    } else {
        net_inet::create(family as u16, kind, protocol, &caller.cred)?
    };
    Ok((net_core::open(socket, flags, &caller.cred)?, caller::cloexec(flags)))
}

/// socket(2).
pub(crate) fn sys_socket(_cx: &mut Cx<'_>, family: i32, kind: i32, protocol: i32) -> Result<usize> {
    let (file, flags) = open_socket(family, kind, protocol)?;
    Caller::new()?.install(file, flags)
}

/// socketpair(2).
pub(crate) fn sys_socketpair(
    _cx: &mut Cx<'_>,
    family: i32,
    kind: i32,
    protocol: i32,
    fds: UserAddr,
) -> Result<usize> {
    let (kind, flags) = split_type(kind)?;
    check_family(family, kind)?;
    if family != i32::from(AF_UNIX) {
        // The sockets of these families cannot be born connected.
        if family == i32::from(AF_NETLINK) {
            net_netlink::refuse_pair(kind, protocol)?;
        } else if family == i32::from(AF_PACKET) {
            net_packet::check(kind, &caller::Caller::new()?.cred)?;
        } else {
            net_inet::check(family as u16, kind, protocol)?;
        }
        return Err(Errno::EOPNOTSUPP);
    }
    let caller = Caller::new()?;
    let (a, b) = net_unix::pair(kind, protocol)?;
    // Both are opened before anything can fail, so that both are released.
    let (a, b) = (net_core::open(a, flags, &caller.cred), net_core::open(b, flags, &caller.cred));
    let (a, b) = (a?, b?);
    let limit = caller::nofile();
    let first = caller.files.reserve(0, limit, caller::cloexec(flags))?;
    let second = caller.files.reserve(0, limit, caller::cloexec(flags))?;
    user::write(fds, &[first.fd(), second.fd()])?;
    first.install(a);
    second.install(b);
    Ok(0)
}

/// Reads a socket address; empty for no bytes. `EINVAL`: negative or too long. `EFAULT`.
pub(crate) fn read_address(addr: UserAddr, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|&len| len <= MAX_ADDRESS).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; MAX_ADDRESS];
    user::read_bytes(addr, &mut bytes[..len])?;
    Ok(bytes[..len].to_vec())
}

/// Writes as much of an address as there is room for, and its whole length. `EINVAL`: negative room.
fn write_address(address: &[u8], addr: UserAddr, len: UserAddr) -> Result<()> {
    let room: i32 = user::read(len)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?.min(address.len());
    user::write_bytes(addr, &address[..room])?;
    user::write(len, &(address.len() as i32))?;
    Ok(())
}

/// bind(2).
pub(crate) fn sys_bind(_cx: &mut Cx<'_>, fd: i32, addr: UserAddr, len: i32) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let socket = net_core::socket_of(&file)?;
    socket.bind(&caller.walk(), &read_address(addr, len)?).map(|()| 0)
}

/// connect(2).
pub(crate) fn sys_connect(_cx: &mut Cx<'_>, fd: i32, addr: UserAddr, len: i32) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let socket = net_core::socket_of(&file)?;
    let address = read_address(addr, len)?;
    socket.connect(&caller.walk(), &address, with_file(&file, 0)).map(|()| 0)
}

/// listen(2).
pub(crate) fn sys_listen(_cx: &mut Cx<'_>, fd: i32, backlog: i32) -> Result<usize> {
    net_core::socket_of(&*file(fd)?)?.listen(backlog).map(|()| 0)
}

/// accept4(2).
pub(crate) fn sys_accept4(
    _cx: &mut Cx<'_>,
    fd: i32,
    addr: UserAddr,
    len: UserAddr,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let flags = socket_flags(flags)?;
    let reserved = caller.files.reserve(0, caller::nofile(), caller::cloexec(flags))?;
    let new = accept(&caller, &file, flags, addr, len)?;
    Ok(reserved.install(new) as usize)
}

/// Accepts a connection as a file, and writes the address of the other side.
pub(crate) fn accept(
    caller: &Caller,
    file: &File,
    flags: OpenFlags,
    addr: UserAddr,
    len: UserAddr,
) -> Result<Arc<File>> {
    let accepted = net_core::socket_of(file)?.accept(with_file(file, 0))?;
    let new = net_core::open(accepted.clone(), flags, &caller.cred)?;
    if addr.0 != 0 {
        write_address(&accepted.address(End::Peer)?, addr, len)?;
    }
    Ok(new)
}

/// accept(2).
pub(crate) fn sys_accept(cx: &mut Cx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> Result<usize> {
    sys_accept4(cx, fd, addr, len, 0)
}

/// shutdown(2).
pub(crate) fn sys_shutdown(_cx: &mut Cx<'_>, fd: i32, how: i32) -> Result<usize> {
    net_core::socket_of(&*file(fd)?)?.shutdown(Halves::from_raw(how)?).map(|()| 0)
}

fn name_of(fd: i32, end: End, addr: UserAddr, len: UserAddr) -> Result<usize> {
    write_address(&net_core::socket_of(&*file(fd)?)?.address(end)?, addr, len).map(|()| 0)
}

/// getsockname(2).
pub(crate) fn sys_getsockname(_cx: &mut Cx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> Result<usize> {
    name_of(fd, End::Local, addr, len)
}

/// getpeername(2).
pub(crate) fn sys_getpeername(_cx: &mut Cx<'_>, fd: i32, addr: UserAddr, len: UserAddr) -> Result<usize> {
    name_of(fd, End::Peer, addr, len)
}

/// setsockopt(2). `EOPNOTSUPP`: a level that the family does not know.
pub(crate) fn sys_setsockopt(
    _cx: &mut Cx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: UserAddr,
    len: i32,
) -> Result<usize> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let socket = net_core::socket_of(&file)?;
    if level != SOL_SOCKET {
        let mut bytes = [0; MAX_OPTION];
        let len = len.min(MAX_OPTION);
        user::read_bytes(value, &mut bytes[..len])?;
        return socket.set_option(level, name, &bytes[..len], &caller.cred).map(|()| 0);
    }
    if len < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    if let (options::SO_ATTACH_FILTER | options::SO_DETACH_FILTER | options::SO_LOCK_FILTER, Some(slot)) =
        (name, socket.filter())
    {
        return slot.set(name, value, len).map(|()| 0);
    }
    let int: i32 = user::read(value)?;
    let sized = |size: usize| if len < size { Err(Errno::EINVAL) } else { Ok(()) };
    let time = || sized(size_of::<Timeval>()).and_then(|()| Ok(user::read::<Timeval>(value)?));
    let linger = || sized(size_of::<[i32; 2]>()).and_then(|()| Ok(user::read::<[i32; 2]>(value)?));
    match socket.options().set(name, int, time, linger, &caller.cred) {
        Err(Errno::ENOPROTOOPT) => socket.set_own_option(name, int)?,
        other => other?,
    }
    socket.option_changed(name);
    Ok(0)
}

/// getsockopt(2). `EOPNOTSUPP`: a level that the family does not know.
pub(crate) fn sys_getsockopt(
    _cx: &mut Cx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: UserAddr,
    len: UserAddr,
) -> Result<usize> {
    use zerocopy::IntoBytes;
    let file = file(fd)?;
    let socket = net_core::socket_of(&file)?;
    let room: i32 = user::read(len)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        let asked = || if room < size_of::<i32>() { Err(Errno::EINVAL) } else { Ok(user::read(value)?) };
        let bytes = socket.get_option(level, name, &net_core::Place { room, asked: &asked })?;
        let room = room.min(bytes.len());
        user::write_bytes(value, &bytes[..room])?;
        let told = if socket.tells_whole_length(level, name) { bytes.len() } else { room };
        user::write(len, &(told as i32))?;
        return Ok(0);
    }
    if name == SO_PEERPIDFD {
        return get_peer_pidfd(&**socket, value, len, room);
    }
    if let (options::SO_ATTACH_FILTER | options::SO_LOCK_FILTER, Some(slot)) = (name, socket.filter()) {
        return slot.get(name, value, len, room).map(|()| 0);
    }
    let found = options::get(&**socket, name)?;
    let bytes: &[u8] = match &found {
        Value::Int(int) => int.as_bytes(),
        Value::Time(time) => time.as_bytes(),
        Value::Linger(linger) => linger.as_bytes(),
        Value::Cred(cred) => cred.as_bytes(),
        Value::Wide(_) if room < size_of::<u64>() => return Err(Errno::EINVAL),
        Value::Wide(wide) => wide.as_bytes(),
    };
    let room = room.min(bytes.len());
    user::write_bytes(value, &bytes[..room])?;
    user::write(len, &(room as i32))?;
    Ok(0)
}

/// `SO_PEERPIDFD`. `ENODATA`: there is no other side.
fn get_peer_pidfd(socket: &dyn Socket, value: UserAddr, len: UserAddr, room: usize) -> Result<usize> {
    let peer = socket.peer_process().ok_or(Errno::ENODATA)?;
    let caller = Caller::new()?;
    let file = pidfd_of(peer, &caller)?;
    let place = caller.files.reserve(0, caller::nofile(), caller::cloexec(OpenFlags::CLOEXEC))?;
    let bytes = place.fd().to_ne_bytes();
    let room = room.min(bytes.len());
    user::write_bytes(value, &bytes[..room])?;
    user::write(len, &(room as i32))?;
    place.install(file);
    Ok(0)
}

/// The flags of a call on `file`: a non-blocking file adds `MSG_DONTWAIT`.
pub(crate) fn with_file(file: &File, flags: u32) -> MsgFlags {
    let flags = MsgFlags::from_bits_retain(flags);
    if file.is_nonblocking() { flags | MsgFlags::DONTWAIT } else { flags }
}

/// Sends, and the signal that comes with a broken stream.
fn send(caller: &Caller, socket: &Arc<dyn Socket>, message: Outgoing<'_, '_>) -> Result<usize> {
    let flags = message.flags;
    let result = socket.send(Some(&caller.walk()), message);
    let is_silent = flags.contains(MsgFlags::NOSIGNAL) || socket.kind() != SockType::Stream;
    if result == Err(Errno::EPIPE) && !is_silent {
        let task = &caller.task;
        send_kernel(Target::Thread(task.arc()), SigInfo::user(SIGPIPE, 0, task.own_pid() as i32, 0));
    }
    result
}

/// sendto(2).
pub(crate) fn sys_sendto(
    _cx: &mut Cx<'_>,
    fd: i32,
    buf: UserAddr,
    len: usize,
    flags: u32,
    addr: UserAddr,
    addr_len: i32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    net_core::socket_of(&file)?;
    let name = if addr.0 == 0 { None } else { Some(read_address(addr, addr_len)?) };
    send_bytes(&caller, &file, Src::user(buf, len.min(vfs::rw::MAX_COUNT)), name.as_deref(), flags)
}

/// Sends a message without anything besides.
pub(crate) fn send_bytes(
    caller: &Caller,
    file: &File,
    mut data: Src<'_>,
    name: Option<&[u8]>,
    flags: u32,
) -> Result<usize> {
    let socket = net_core::socket_of(file)?;
    let message = Outgoing {
        data: &mut data,
        name: name.filter(|name| !name.is_empty()),
        rights: Vec::new(),
        creds: None,
        control: Vec::new(),
        flags: with_file(file, flags),
    };
    send(caller, socket, message)
}

/// recvfrom(2).
pub(crate) fn sys_recvfrom(
    _cx: &mut Cx<'_>,
    fd: i32,
    buf: UserAddr,
    len: usize,
    flags: u32,
    addr: UserAddr,
    addr_len: UserAddr,
) -> Result<usize> {
    let file = file(fd)?;
    let socket = net_core::socket_of(&file)?;
    let mut dst = Dest::user(buf, len.min(vfs::rw::MAX_COUNT));
    let received = socket.receive(&mut dst, with_file(&file, flags))?;
    if addr.0 != 0 {
        write_address(&received.name, addr, addr_len)?;
    }
    Ok(received.len)
}

pub(crate) fn check_header(header: &Msghdr) -> Result<()> {
    if header.msg_iovlen > IOV_MAX as u64 {
        return Err(Errno::EMSGSIZE);
    }
    if (header.msg_namelen as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The address in `header`. `EFAULT`.
pub(crate) fn header_name(header: &Msghdr) -> Result<Option<Vec<u8>>> {
    let len = header.msg_namelen.min(MAX_ADDRESS as u32) as i32;
    if header.msg_name == 0 || len == 0 {
        return Ok(None);
    }
    read_address(UserAddr(header.msg_name), len).map(Some)
}

fn send_header(caller: &Caller, file: &File, header: &Msghdr, flags: u32) -> Result<usize> {
    check_header(header)?;
    let name = header_name(header)?;
    let bufs = caller::iovec(UserAddr(header.msg_iov), header.msg_iovlen as usize)?;
    send_parts(caller, file, header, bufs, name.as_deref(), flags)
}

/// Sends `bufs` to `name` with what `header` has besides.
pub(crate) fn send_parts(
    caller: &Caller,
    file: &File,
    header: &Msghdr,
    bufs: Vec<UserBuf>,
    name: Option<&[u8]>,
    flags: u32,
) -> Result<usize> {
    let socket = net_core::socket_of(file)?;
    let sent = control::parse(caller, UserAddr(header.msg_control), header.msg_controllen)?;
    let mut data = Src::user_vec(bufs);
    let message = Outgoing {
        data: &mut data,
        name,
        rights: sent.rights,
        creds: sent.creds,
        control: sent.control,
        flags: with_file(file, flags),
    };
    send(caller, socket, message)
}

/// sendmsg(2).
pub(crate) fn sys_sendmsg(_cx: &mut Cx<'_>, fd: i32, message: UserAddr, flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    net_core::socket_of(&file)?;
    send_header(&caller, &file, &user::read(message)?, flags)
}

/// Address of the `index`th message header.
fn nth_message(messages: UserAddr, index: u32) -> UserAddr {
    UserAddr(messages.0.wrapping_add(u64::from(index) * size_of::<Mmsghdr>() as u64))
}

/// Writes the length of the message at `at`.
fn write_len(at: UserAddr, len: usize) -> Result<()> {
    let offset = core::mem::offset_of!(Mmsghdr, msg_len) as u64;
    Ok(user::write(UserAddr(at.0.wrapping_add(offset)), &(len as u32))?)
}

/// sendmmsg(2): an error behind the first message is lost.
pub(crate) fn sys_sendmmsg(
    _cx: &mut Cx<'_>,
    fd: i32,
    messages: UserAddr,
    count: u32,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    net_core::socket_of(&file)?;
    let mut done = 0;
    while done < count.min(IOV_MAX as u32) {
        let at = nth_message(messages, done);
        let sent = user::read(at)
            .map_err(Errno::from)
            .and_then(|header| send_header(&caller, &file, &header, flags))
            .and_then(|len| write_len(at, len));
        match sent {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done as usize)
}

/// Receives into the buffers of the header at `at` and completes it.
fn receive_header(caller: &Caller, file: &File, at: UserAddr, flags: MsgFlags) -> Result<usize> {
    let header: Msghdr = user::read(at)?;
    check_header(&header)?;
    let bufs = caller::iovec(UserAddr(header.msg_iov), header.msg_iovlen as usize)?;
    receive_parts(caller, file, at, &header, bufs, flags)
}

/// Receives into `bufs` and completes `header`, which is at `at`.
pub(crate) fn receive_parts(
    caller: &Caller,
    file: &File,
    at: UserAddr,
    header: &Msghdr,
    bufs: Vec<UserBuf>,
    flags: MsgFlags,
) -> Result<usize> {
    let socket = net_core::socket_of(file)?;
    let mut dst = Dest::user_vec(bufs);
    let mut received = socket.receive(&mut dst, flags)?;
    let passes_creds = socket.options().passcred();
    let used = control::write(caller, header, &mut received, flags, passes_creds)?;
    complete_header(at, header, &received, used, flags)?;
    Ok(received.len)
}

/// Writes name, flags and the used length of the control buffer.
fn complete_header(
    at: UserAddr,
    header: &Msghdr,
    received: &Received,
    used: u64,
    flags: MsgFlags,
) -> Result<()> {
    let field = |offset: usize| UserAddr(at.0.wrapping_add(offset as u64));
    if header.msg_name != 0 {
        let room = received.name.len().min(header.msg_namelen as usize);
        user::write_bytes(UserAddr(header.msg_name), &received.name[..room])?;
        user::write(field(core::mem::offset_of!(Msghdr, msg_namelen)), &(received.name.len() as u32))?;
    }
    let out = received.flags | flags & MsgFlags::CMSG_CLOEXEC;
    user::write(field(core::mem::offset_of!(Msghdr, msg_flags)), &out.bits())?;
    user::write(field(core::mem::offset_of!(Msghdr, msg_controllen)), &used)?;
    Ok(())
}

/// recvmsg(2).
pub(crate) fn sys_recvmsg(_cx: &mut Cx<'_>, fd: i32, message: UserAddr, flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    net_core::socket_of(&file)?;
    receive_header(&caller, &file, message, with_file(&file, flags))
}

/// recvmmsg(2): the timeout is looked at after each message, as on Linux.
pub(crate) fn sys_recvmmsg(
    _cx: &mut Cx<'_>,
    fd: i32,
    messages: UserAddr,
    count: u32,
    flags: u32,
    timeout: UserAddr,
) -> Result<usize> {
    let deadline = if timeout.0 == 0 {
        None
    } else {
        Some(now_ns().saturating_add(user::read::<Timespec>(timeout)?.to_ns()?))
    };
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    net_core::socket_of(&file)?;
    let mut flags = with_file(&file, flags);
    let mut done = 0;
    while done < count.min(IOV_MAX as u32) {
        let at = nth_message(messages, done);
        let plain = flags - MsgFlags::WAITFORONE;
        match receive_header(&caller, &file, at, plain).and_then(|len| write_len(at, len)) {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if flags.contains(MsgFlags::WAITFORONE) {
            flags |= MsgFlags::DONTWAIT;
        }
        if deadline.is_some_and(|at| now_ns() >= at) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        user::write(timeout, &Timespec::from_ns(deadline.saturating_sub(now_ns())))?;
    }
    Ok(done as usize)
}
