//! TCP sockets (tcp(7)).

pub(crate) mod conn;
mod options;
mod receive;
mod send;
mod socket;
pub(crate) mod table;

pub(crate) use options::{info, state_number};
pub(crate) use socket::{IPPROTO_TCP, TcpSocket};
