//! Requests about interfaces (netdevice(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::socket::AF_INET;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use ns::NetNs;
use security::{Cap, Cred};

use crate::interface::{self, Address};
use crate::ip::{Endpoint, Ip};
use crate::stack::{LO_INDEX, Stack};

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCETHTOOL: u32 = 0x8946;

/// `ETHTOOL_GLINK`, `ETHTOOL_GET_TS_INFO`.
const ETHTOOL_LINK: u32 = 0xa;
const ETHTOOL_STAMPS: u32 = 0x41;
/// `SOF_TIMESTAMPING_RX_SOFTWARE` and `SOF_TIMESTAMPING_SOFTWARE`.
const SOFTWARE_STAMPS: u32 = 8 | 16;

/// `IFF_UP`, `IFF_LOOPBACK`, `IFF_RUNNING`.
const IFF_UP: u16 = 0x1;
const IFF_LOOPBACK: u16 = 0x8;
const IFF_RUNNING: u16 = 0x40;
/// `ARPHRD_LOOPBACK`.
const ARPHRD_LOOPBACK: u16 = 772;
/// Length of an interface's name, and of `struct ifreq`.
const NAME_LEN: usize = 16;
const REQUEST_LEN: usize = 40;

/// Flags of `lo` as `SIOCGIFFLAGS` shows them.
pub(crate) fn flags(stack: &Stack) -> u16 {
    IFF_LOOPBACK | if stack.lo.is_up() { IFF_UP | IFF_RUNNING } else { 0 }
}

fn is_lo(request: &[u8; REQUEST_LEN]) -> bool {
    let name = &request[..NAME_LEN];
    // An alias ("lo:1") is the same interface, for what is asked here.
    name.starts_with(b"lo\0") || name.starts_with(b"lo:")
}

/// The addresses of version 4.
fn addresses(stack: &Stack) -> Vec<Address> {
    stack.addresses.all().into_iter().filter(|address| address.ip.is_ipv4()).collect()
}

/// What `which` gives of the first address of version 4. `EADDRNOTAVAIL`: there is none.
fn address(stack: &Stack, which: impl FnOnce(&Address) -> Ip) -> Result<[u8; 16]> {
    let address = addresses(stack).into_iter().next().ok_or(Errno::EADDRNOTAVAIL)?;
    Ok(socket_address(which(&address)))
}

fn socket_address(ip: Ip) -> [u8; 16] {
    Endpoint { ip, port: 0 }.to_bytes(AF_INET).first_chunk().copied().unwrap_or_default()
}

fn netmask(address: &Address) -> Ip {
    Ip::v4(u32::MAX.checked_shl(32 - u32::from(address.prefix.min(32))).unwrap_or(0))
}

/// The request is about addresses of version 4: only sockets of that family take it.
fn is_of_version_4(cmd: u32) -> bool {
    [SIOCGIFADDR, SIOCGIFDSTADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK].contains(&cmd)
}

/// ioctl(2) about interfaces, of a socket of `family`. `ENODEV`: no such interface. `EPERM`: a change by who may not.
/// `ENOTTY`: unknown.
pub(crate) fn interface(
    net: Arc<dyn Any + Send + Sync>,
    family: u16,
    cmd: u32,
    arg: UserAddr,
    cred: &Cred,
) -> Result<usize> {
    if !(0x8910..=0x894a).contains(&cmd) || is_of_version_4(cmd) && family != AF_INET {
        return Err(Errno::ENOTTY);
    }
    let net: Arc<NetNs> = net.downcast().map_err(|_| Errno::ENOTTY)?;
    answer(&net, &Stack::of(&net), cmd, arg, cred)
}

fn answer(net: &NetNs, stack: &Stack, cmd: u32, arg: UserAddr, cred: &Cred) -> Result<usize> {
    if cmd == SIOCGIFCONF {
        return configuration(stack, arg);
    }
    let mut request: [u8; REQUEST_LEN] = user::read(arg)?;
    let value = &mut [0u8; REQUEST_LEN - NAME_LEN];
    if cmd == SIOCGIFNAME {
        if request[16..20] != LO_INDEX.to_ne_bytes() {
            return Err(Errno::ENODEV);
        }
        request[..NAME_LEN].fill(0);
        request[..2].copy_from_slice(b"lo");
        user::write(arg, &request)?;
        return Ok(0);
    }
    if !is_lo(&request) {
        return Err(Errno::ENODEV);
    }
    let mut put = |bytes: &[u8]| value[..bytes.len()].copy_from_slice(bytes);
    match cmd {
        SIOCGIFFLAGS => put(&flags(stack).to_ne_bytes()),
        SIOCGIFADDR | SIOCGIFDSTADDR => put(&address(stack, |address| Ip::of_std(address.ip))?),
        SIOCGIFBRDADDR => put(&address(stack, |_| Ip::ANY_V4)?),
        SIOCGIFNETMASK => put(&address(stack, netmask)?),
        SIOCGIFMETRIC => put(&0i32.to_ne_bytes()),
        SIOCGIFMTU => put(&stack.lo.mtu().to_ne_bytes()),
        SIOCGIFHWADDR => put(&ARPHRD_LOOPBACK.to_ne_bytes()),
        SIOCGIFINDEX => put(&LO_INDEX.to_ne_bytes()),
        SIOCGIFTXQLEN => put(&1000i32.to_ne_bytes()),
        SIOCETHTOOL => return ethtool(stack, &request),
        SIOCSIFFLAGS | SIOCSIFMTU => return change(net, cmd, &request, cred),
        _ => return Err(Errno::ENOTTY),
    }
    request[NAME_LEN..].copy_from_slice(value);
    user::write(arg, &request)?;
    Ok(0)
}

/// Requests about the hardware, of which `lo` has none. `EOPNOTSUPP`: unknown.
fn ethtool(stack: &Stack, request: &[u8; REQUEST_LEN]) -> Result<usize> {
    let at =
        request.get(NAME_LEN..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_ne_bytes(*raw));
    let at = UserAddr(at);
    match user::read::<u32>(at)? {
        ETHTOOL_LINK => user::write(at, &[ETHTOOL_LINK, u32::from(stack.lo.is_up())])?,
        ETHTOOL_STAMPS => {
            // struct ethtool_ts_info: what there is, the clock of the hardware, and what that could do.
            let mut info = [0u32; 11];
            (info[0], info[1], info[2]) = (ETHTOOL_STAMPS, SOFTWARE_STAMPS, u32::MAX);
            user::write(at, &info)?;
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}

fn change(net: &NetNs, cmd: u32, request: &[u8; REQUEST_LEN], cred: &Cred) -> Result<usize> {
    if !cred.ns_capable(net.id().owner(), Cap::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    if cmd == SIOCSIFFLAGS {
        interface::set_up(net, u16::from_ne_bytes([request[16], request[17]]) & IFF_UP != 0);
        return Ok(0);
    }
    let mtu = u32::from_ne_bytes([request[16], request[17], request[18], request[19]]);
    interface::set_mtu(net, mtu).map(|()| 0)
}

/// The addresses of all interfaces: as many as there is room for, or with no buffer only the length.
fn configuration(stack: &Stack, arg: UserAddr) -> Result<usize> {
    // struct ifconf: length, padding, pointer.
    let [len, _, low, high]: [u32; 4] = user::read(arg)?;
    let buffer = UserAddr(u64::from(high) << 32 | u64::from(low));
    let found = addresses(stack);
    let room = usize::try_from(len as i32).unwrap_or(0) / REQUEST_LEN;
    let count = if buffer.0 == 0 { found.len() } else { found.len().min(room) };
    if buffer.0 != 0 {
        for (at, address) in found.iter().take(count).enumerate() {
            let mut request = [0u8; REQUEST_LEN];
            request[..2].copy_from_slice(b"lo");
            request[NAME_LEN..NAME_LEN + 16].copy_from_slice(&socket_address(Ip::of_std(address.ip)));
            user::write(UserAddr(buffer.0.wrapping_add((at * REQUEST_LEN) as u64)), &request)?;
        }
    }
    let used = count * REQUEST_LEN;
    user::write(arg, &(used as u32))?;
    Ok(0)
}
