//! The loopback interface, which no kernel switches on by itself (netdevice(7)).

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// `struct ifreq`: a name, then what is asked for.
type Request = [u8; 40];

nix::ioctl_read_bad!(get_flags, 0x8913, Request);
nix::ioctl_write_ptr_bad!(set_flags, 0x8914, Request);

/// `IFF_UP`.
const UP: u8 = 1;

/// Switches `lo` on; without a network nothing happens.
pub fn bring_up() {
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return };
    let mut request: Request = [0; 40];
    request[..2].copy_from_slice(b"lo");
    // SAFETY: both requests read and write one `struct ifreq`, which is as long.
    unsafe {
        if get_flags(socket.as_raw_fd(), &mut request).is_ok() {
            request[16] |= UP;
            let _ = set_flags(socket.as_raw_fd(), &request);
        }
    }
}
