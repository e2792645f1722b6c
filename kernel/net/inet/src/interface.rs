//! The interface `lo` for others: what it is, its addresses, and who wants to know when they change (rtnetlink(7)).
//!
//! As on Linux: `lo` gets `127.0.0.1/8` when it is switched on and has no address of version 4, and `::1/128` whenever it
//! is switched on; those of version 6 go when it is switched off. An address of version 4 makes all of its network this
//! machine's, since it is on `lo`. An address in the network of an earlier one is a secondary one, and goes with that.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::{Once, SpinLock};
use ns::NetNs;
use sched::Mutex;

use crate::ip::Ip;
use crate::stack::Stack;
pub use crate::stack::{LO_INDEX, LO_MTU};

/// Most addresses of an interface.
///
/// LINUX: there is no such limit.
const MAX_ADDRESSES: usize = 1024;
/// Least packet that both versions of IP can live with.
const MIN_MTU: u32 = 1280;
/// Where an address counts: on this machine only (`RT_SCOPE_HOST`).
pub const SCOPE_HOST: u8 = 254;
/// In one network only (`RT_SCOPE_LINK`).
const SCOPE_LINK: u8 = 253;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// It.
    pub ip: IpAddr,
    /// Bits of it that name its network.
    pub prefix: u8,
    /// Where it counts (`RT_SCOPE_*`).
    pub scope: u8,
    /// It came with the interface, and not from a program.
    pub is_own: bool,
    /// Another one of its network was there first.
    pub is_secondary: bool,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Whether the interface is on, or its packets' size; true in the first case.
    Link(bool),
    /// An address is there.
    Added(Address),
    /// An address is gone.
    Removed(Address),
}

/// Who wants to know.
pub type Watcher = fn(&NetNs, Change);

/// Held over a change and the word about it, so that nobody hears of changes in another order, or of what is no more.
static SWITCH: Mutex<()> = Mutex::new("inet.switch", ());
static WATCHER: Once<Watcher> = Once::new();

/// Registers who wants to know. Later calls have no effect.
pub fn register_watcher(watcher: Watcher) {
    WATCHER.call_once(|| watcher);
}

/// Makes sockets of all families answer requests about the interface (netdevice(7)). Call once at boot.
pub fn register_requests() {
    net_core::register_interfaces(crate::ioctl::interface);
}

fn tell(net: &NetNs, change: Change) {
    if let Some(watcher) = WATCHER.get() {
        watcher(net, change);
    }
}

/// Bits that are the same in all addresses of a network of `prefix` bits, in the mapped form.
fn mask(ip: IpAddr, prefix: u8) -> u128 {
    let (width, given) = match ip {
        IpAddr::V4(_) => (32, u32::from(prefix).min(32)),
        IpAddr::V6(_) => (128, u32::from(prefix).min(128)),
    };
    u128::MAX.checked_shl(width - given).unwrap_or(0)
}

impl Address {
    fn own(ip: Ip, prefix: u8) -> Self {
        Self { ip: ip.to_std(), prefix, scope: SCOPE_HOST, is_own: true, is_secondary: false }
    }

    /// One that a program wants; the scope counts for version 4 only.
    ///
    /// `EINVAL`: more bits than an address has. `EADDRNOTAVAIL`: one of version 6 that is no interface's.
    pub fn new(ip: IpAddr, prefix: u8, scope: u8) -> Result<Self> {
        let (bits, scope) = match ip {
            IpAddr::V4(_) => (32, scope),
            IpAddr::V6(ip) if ip.is_loopback() => (128, SCOPE_HOST),
            IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80 => (128, SCOPE_LINK),
            IpAddr::V6(_) => (128, 0),
        };
        if prefix > bits {
            return Err(Errno::EINVAL);
        }
        // LINUX: an address of version 4 in the form of version 6 can be had; here it would be one of version 4.
        if let IpAddr::V6(v6) = ip
            && (v6.is_unspecified() || v6.is_multicast() || Ip::of_std(ip).is_v4())
        {
            return Err(Errno::EADDRNOTAVAIL);
        }
        Ok(Self { ip, prefix, scope, is_own: false, is_secondary: false })
    }

    fn network(&self) -> u128 {
        Ip::of_std(self.ip).0 & mask(self.ip, self.prefix)
    }

    /// First address of its network.
    pub fn first(&self) -> IpAddr {
        Ip(self.network()).to_std()
    }

    /// Last address of its network.
    pub fn last(&self) -> IpAddr {
        Ip(self.network() | !mask(self.ip, self.prefix)).to_std()
    }

    /// Whether `ip` is in its network.
    pub fn is_network_of(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && Ip::of_std(ip).0 & mask(self.ip, self.prefix) == self.network()
    }

    /// Whether both are of one network, of the same size.
    fn is_beside(&self, other: &Self) -> bool {
        self.ip.is_ipv4() == other.ip.is_ipv4()
            && self.prefix == other.prefix
            && self.network() == other.network()
    }

    /// Whether it makes `ip` one of this machine.
    fn covers(&self, ip: Ip) -> bool {
        match self.ip {
            IpAddr::V4(_) => ip.is_v4() && ip.0 & mask(self.ip, self.prefix) == self.network(),
            IpAddr::V6(_) => Ip::of_std(self.ip) == ip,
        }
    }
}

/// The addresses of `lo`.
pub(crate) struct Addresses {
    all: SpinLock<Vec<Address>>,
    /// They are those that it comes with, and no others.
    is_plain: AtomicBool,
}

impl Addresses {
    pub(crate) fn new() -> Self {
        Self { all: SpinLock::new("inet.addresses", Vec::new()), is_plain: AtomicBool::new(false) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Address>) -> T) -> T {
        let mut all = self.all.lock();
        let result = change(&mut all);
        let own = [Address::own(Ip::LOOPBACK_V4, 8), Address::own(Ip::LOOPBACK_V6, 128)];
        self.is_plain.store(all.len() == own.len() && own.iter().all(|one| all.contains(one)), Relaxed);
        result
    }

    /// Those of the moment.
    pub(crate) fn all(&self) -> Vec<Address> {
        self.all.lock().clone()
    }

    /// The address that makes `ip` this machine's: it itself, or the first whose network has it.
    #[inline]
    pub(crate) fn source_for(&self, ip: Ip) -> Option<Ip> {
        if self.is_plain.load(Relaxed) {
            let is_ours = ip == Ip::LOOPBACK_V6 || ip.as_v4().is_some_and(|bits| bits >> 24 == 127);
            return is_ours.then(|| ip.loopback_like());
        }
        self.search(ip)
    }

    fn search(&self, ip: Ip) -> Option<Ip> {
        let all = self.all.lock();
        let own = |address: &&Address| Ip::of_std(address.ip) == ip;
        let found = all.iter().find(own).or_else(|| all.iter().find(|address| address.covers(ip)));
        found.map(|address| Ip::of_std(address.ip))
    }

    /// The interface was switched on or off: gives what came and what went.
    fn switched(&self, is_up: bool) -> (Vec<Address>, Vec<Address>) {
        self.change(|all| {
            let (mut added, mut removed) = (Vec::new(), Vec::new());
            if is_up {
                if all.iter().all(|address| address.ip.is_ipv6()) {
                    added.push(Address::own(Ip::LOOPBACK_V4, 8));
                }
                if !all.iter().any(|address| Ip::of_std(address.ip) == Ip::LOOPBACK_V6) {
                    added.push(Address::own(Ip::LOOPBACK_V6, 128));
                }
                all.extend_from_slice(&added);
            } else {
                removed.extend(all.iter().copied().filter(|address| address.ip.is_ipv6()));
                all.retain(|address| address.ip.is_ipv4());
            }
            (added, removed)
        })
    }

    fn add(&self, mut new: Address) -> Result<Address> {
        self.change(|all| {
            let is_there = |old: &Address| old.ip == new.ip && (old.ip.is_ipv6() || old.is_beside(&new));
            if all.iter().any(is_there) {
                return Err(Errno::EEXIST);
            }
            if all.len() >= MAX_ADDRESSES || all.try_reserve(1).is_err() {
                return Err(Errno::ENOBUFS);
            }
            new.is_secondary =
                new.ip.is_ipv4() && all.iter().any(|old| !old.is_secondary && old.is_beside(&new));
            all.push(new);
            Ok(new)
        })
    }

    #[cfg(test)]
    pub(crate) fn add_for_test(&self, ip: IpAddr, prefix: u8) {
        self.add(Address::new(ip, prefix, 0).unwrap()).unwrap();
    }

    fn remove(&self, is_it: impl Fn(&Address) -> bool) -> Result<Vec<Address>> {
        self.change(|all| {
            let gone = all.iter().copied().find(is_it).ok_or(Errno::EADDRNOTAVAIL)?;
            let takes_along = |one: &Address| !gone.is_secondary && one.is_secondary && one.is_beside(&gone);
            let mut removed = Vec::new();
            all.retain(|one| {
                let goes = *one == gone || takes_along(one);
                if goes {
                    removed.push(*one);
                }
                !goes
            });
            Ok(removed)
        })
    }
}

/// An interface as others see it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Whether it is on.
    pub is_up: bool,
    /// Whether it was on at some time.
    pub was_up: bool,
    /// Most bytes of a packet.
    pub mtu: u32,
    /// Packets that it sent, which are those that it received.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// `lo` in `net`.
pub fn link(net: &NetNs) -> Link {
    let lo = &Stack::of(net).lo;
    Link {
        is_up: lo.is_up(),
        was_up: lo.was_up(),
        mtu: lo.mtu(),
        packets: lo.packets.load(Relaxed),
        bytes: lo.bytes.load(Relaxed),
    }
}

/// Switches `lo` on or off.
pub fn set_up(net: &NetNs, is_up: bool) {
    let stack: Arc<Stack> = Stack::of(net);
    let _order = SWITCH.lock();
    if stack.lo.set_up(is_up) == is_up {
        return;
    }
    let (added, removed) = stack.addresses.switched(is_up);
    if !is_up {
        stack.taps.link_down();
    }
    tell(net, Change::Link(true));
    removed.into_iter().for_each(|address| tell(net, Change::Removed(address)));
    added.into_iter().for_each(|address| tell(net, Change::Added(address)));
}

/// Sets the size of the packets of `lo`. `EINVAL`: too small or too large.
pub fn set_mtu(net: &NetNs, mtu: u32) -> Result<()> {
    if !(MIN_MTU..=LO_MTU).contains(&mtu) {
        return Err(Errno::EINVAL);
    }
    let _order = SWITCH.lock();
    Stack::of(net).lo.set_mtu(mtu);
    tell(net, Change::Link(false));
    Ok(())
}

/// The addresses of `lo`, the oldest first.
pub fn addresses(net: &NetNs) -> Vec<Address> {
    Stack::of(net).addresses.all()
}

/// Gives `lo` an address; as on Linux nothing comes of 0.0.0.0. `EEXIST`: it has it. `ENOBUFS`: it has too many.
pub fn add_address(net: &NetNs, address: Address) -> Result<()> {
    if address.ip.is_unspecified() {
        return Ok(());
    }
    let _order = SWITCH.lock();
    let added = Stack::of(net).addresses.add(address)?;
    tell(net, Change::Added(added));
    Ok(())
}

/// Takes the first address that is `is_it`, which is asked under a lock. `EADDRNOTAVAIL`: none of `lo` is.
pub fn remove_address(net: &NetNs, is_it: impl Fn(&Address) -> bool) -> Result<()> {
    let _order = SWITCH.lock();
    let removed = Stack::of(net).addresses.remove(is_it)?;
    removed.into_iter().for_each(|address| tell(net, Change::Removed(address)));
    Ok(())
}

/// The address from which packets to `ip` come, which is on this machine. `ENETUNREACH`: it is not.
pub fn source_for(net: &NetNs, ip: IpAddr) -> Result<IpAddr> {
    Stack::of(net).route(Ip::ANY, Ip::of_std(ip)).map(|(from, _)| from.to_std())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, prefix: u8) -> Address {
        Address::new(text.parse().unwrap(), prefix, 0).unwrap()
    }

    fn ip(text: &str) -> Ip {
        Ip::of_std(text.parse().unwrap())
    }

    #[test]
    fn networks_of_addresses() {
        let a = address("10.1.2.3", 24);
        assert_eq!((a.first(), a.last()), ("10.1.2.0".parse().unwrap(), "10.1.2.255".parse().unwrap()));
        let all = address("10.1.2.3", 0);
        assert_eq!(
            (all.first(), all.last()),
            ("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap())
        );
        assert_eq!(address("fe80::1", 64).scope, 253);
        assert!(Address::new("10.0.0.1".parse().unwrap(), 33, 0).is_err());
        assert!(a.covers(ip("10.1.2.77")) && !a.covers(ip("10.1.3.1")) && !a.covers(ip("::1")));
        assert!(!address("fd00::1", 64).covers(ip("fd00::2")));
        let beside = |text: &str| a.is_network_of(text.parse().unwrap());
        assert!(beside("10.1.2.0") && !beside("10.1.3.3") && !beside("::ffff:10.1.2.3"));
    }

    #[test]
    fn addresses_that_are_no_interfaces() {
        for text in ["::", "ff02::1", "::ffff:10.0.0.1"] {
            let made = Address::new(text.parse().unwrap(), 64, 0);
            assert_eq!(made, Err(Errno::EADDRNOTAVAIL), "{text}");
        }
        assert_eq!(Address::new("::".parse().unwrap(), 129, 0), Err(Errno::EINVAL));
        assert!(Address::new("0.0.0.0".parse().unwrap(), 8, 0).is_ok(), "nothing comes of it");
    }

    #[test]
    fn the_plain_addresses_and_any_others_lead_to_the_same_answers() {
        let plain = Addresses::new();
        plain.switched(true);
        for text in ["127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "::2", "128.0.0.1"] {
            assert_eq!(plain.source_for(ip(text)), plain.search(ip(text)), "{text}");
        }
        assert!(plain.is_plain.load(Relaxed));
        plain.add(address("10.0.0.1", 24)).unwrap();
        assert_eq!(plain.source_for(ip("10.0.0.9")), Some(ip("10.0.0.1")));
        assert_eq!(plain.source_for(ip("127.0.0.2")), Some(ip("127.0.0.1")));
    }

    #[test]
    fn secondary_addresses_go_with_the_first_of_their_network() {
        let all = Addresses::new();
        assert!(!all.add(address("10.0.0.1", 24)).unwrap().is_secondary);
        assert!(all.add(address("10.0.0.2", 24)).unwrap().is_secondary);
        assert!(!all.add(address("10.0.0.3", 25)).unwrap().is_secondary);
        assert_eq!(all.add(address("10.0.0.2", 24)), Err(Errno::EEXIST));
        let first: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(all.remove(|one| one.ip == first && one.prefix == 8), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(all.remove(|one| one.ip == first).unwrap().len(), 2);
        assert_eq!(all.all().len(), 1);
    }

    #[test]
    fn switching_brings_and_takes_what_linux_does() {
        let all = Addresses::new();
        assert_eq!(all.switched(true).0.len(), 2);
        assert_eq!(all.switched(false).1.len(), 1, "that of version 6");
        assert_eq!(all.source_for(ip("::1")), None);
        assert_eq!(all.switched(true).0.len(), 1);
        all.remove(|one| Ip::of_std(one.ip) == Ip::LOOPBACK_V4).unwrap();
        all.add(address("10.0.0.1", 32)).unwrap();
        all.switched(false);
        all.switched(true);
        assert_eq!(all.source_for(ip("127.0.0.1")), None, "there is another one");
    }
}
