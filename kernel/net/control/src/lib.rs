#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod diag;
mod generic;
mod route;
pub mod uevent;

/// Makes the protocols known. Call once at boot.
pub fn register() {
    net_netlink::register(net_netlink::ROUTE, &route::Route);
    net_netlink::register(net_netlink::SOCK_DIAG, &diag::SockDiag);
    net_netlink::register(net_netlink::KOBJECT_UEVENT, &uevent::Uevent);
    net_netlink::register(net_netlink::GENERIC, &generic::Generic);
    net_inet::interface::register_requests();
    net_inet::interface::register_watcher(route::announce);
}
