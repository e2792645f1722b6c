//! Filters on sockets as programs (`INET_DIAG_REQ_BYTECODE`), which ss(8) makes of its expressions.
//!
//! ```text
//!   operation   code, yes, no        then what it compares with
//!               └─ bytes to go on if it is so, and if not: forwards only
//! ```
//!
//! Who comes exactly to the end is taken; the way that leads four bytes beyond means no.
//!
//! # Invariants (`new` checks them)
//!
//! - P1: each way leads forwards, to an operation or to the end, or for `no` also four bytes beyond it.
//! - P2: an operation has what it compares with before the next one begins.
//!
//! A pure type, tested on the host. Source: linux/inet_diag.h, ss(8).

use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};
use net_inet::diag::{Description, Side};

/// Bytes of an operation (`struct inet_diag_bc_op`), and of what a way that means no leads beyond the end.
const OPERATION_LEN: usize = 4;
/// Bytes of a condition on an end (`struct inet_diag_hostcond`) without its address.
const END_LEN: usize = 8;

/// `INET_DIAG_BC_*`.
const NOP: u8 = 0;
const JUMP: u8 = 1;
const LOCAL_AT_LEAST: u8 = 2;
const LOCAL_AT_MOST: u8 = 3;
const REMOTE_AT_LEAST: u8 = 4;
const REMOTE_AT_MOST: u8 = 5;
const AUTO_PORT: u8 = 6;
const LOCAL_END: u8 = 7;
const REMOTE_END: u8 = 8;
const INTERFACE: u8 = 9;
const MARK: u8 = 10;
const LOCAL_IS: u8 = 11;
const REMOTE_IS: u8 = 12;
const CGROUP: u8 = 13;

/// A checked program.
pub(super) struct Filter(Vec<u8>);

/// An operation in a program.
#[derive(Clone, Copy)]
struct Operation {
    code: u8,
    yes: usize,
    no: usize,
}

/// The operation at the start of `program`.
fn operation(program: &[u8]) -> Option<Operation> {
    let &[code, yes, a, b] = program.first_chunk()?;
    Some(Operation { code, yes: yes.into(), no: u16::from_ne_bytes([a, b]).into() })
}

/// Bytes of an address of a condition's family; any family has none. `None`: there is no such family.
fn address_len(family: u8) -> Option<usize> {
    match u16::from(family) {
        0 => Some(0),
        AF_INET => Some(4),
        AF_INET6 => Some(16),
        _ => None,
    }
}

/// Bytes of the operation at the start of `program`. `EINVAL`: it is none, or cut off. `EOPNOTSUPP`: not here.
fn len_of(program: &[u8]) -> Result<usize> {
    let one = operation(program).ok_or(Errno::EINVAL)?;
    let len = match one.code {
        NOP | JUMP => OPERATION_LEN,
        LOCAL_AT_LEAST | LOCAL_AT_MOST | LOCAL_IS | REMOTE_AT_LEAST | REMOTE_AT_MOST | REMOTE_IS => {
            2 * OPERATION_LEN
        }
        INTERFACE => OPERATION_LEN + 4,
        LOCAL_END | REMOTE_END => {
            let &[family, bits] =
                program.get(OPERATION_LEN..).and_then(|end| end.first_chunk()).ok_or(Errno::EINVAL)?;
            let address = address_len(family).ok_or(Errno::EINVAL)?;
            if usize::from(bits) > 8 * address {
                return Err(Errno::EINVAL);
            }
            OPERATION_LEN + END_LEN + address
        }
        // LINUX: it knows these; here sockets keep nothing of it.
        AUTO_PORT | MARK | CGROUP => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    if program.len() < len { Err(Errno::EINVAL) } else { Ok(len) }
}

/// Whether the first `bits` of both are the same.
fn same_bits(a: &[u8], b: &[u8], bits: u8) -> bool {
    let (bytes, rest) = (usize::from(bits / 8), bits % 8);
    let last = |of: &[u8]| of.get(bytes).map(|byte| byte.checked_shr(8 - u32::from(rest)).unwrap_or(0));
    a.get(..bytes) == b.get(..bytes) && (rest == 0 || last(a) == last(b))
}

/// Whether an end of a socket of `family` is as the condition `end` says.
fn is_end(end: &[u8], side: &Side, family: u16) -> bool {
    let (Some(&[wanted, bits, _, _, a, b, c, d]), address) =
        (end.first_chunk(), end.get(END_LEN..).unwrap_or(&[]))
    else {
        return false;
    };
    let port = i32::from_ne_bytes([a, b, c, d]);
    if port != -1 && port != i32::from(side.port) {
        return false;
    }
    let wanted = u16::from(wanted);
    if wanted == 0 || wanted == family {
        return same_bits(&side.ip, address, bits);
    }
    // One of version 4 in the form of version 6.
    let is_mapped = side.ip[..10] == [0; 10] && side.ip[10..12] == [0xff; 2];
    family == AF_INET6 && wanted == AF_INET && is_mapped && same_bits(&side.ip[12..], address, bits)
}

impl Filter {
    /// Checks a program. `EINVAL`: it is wrong. `EOPNOTSUPP`: it asks for what sockets here do not keep. `ENOBUFS`: there is
    /// no memory.
    pub(super) fn new(program: &[u8]) -> Result<Self> {
        let (mut starts, mut targets) = (Vec::new(), Vec::new());
        let (mut at, end) = (0, program.len());
        while at < end {
            let rest = program.get(at..).unwrap_or(&[]);
            let len = len_of(rest)?;
            let Operation { code, yes, no } = operation(rest).ok_or(Errno::EINVAL)?;
            let is_good = |way: usize| {
                (len..=rest.len() + OPERATION_LEN).contains(&way) && way.is_multiple_of(OPERATION_LEN)
            };
            if !is_good(yes) || code != NOP && !is_good(no) {
                return Err(Errno::EINVAL);
            }
            starts.try_reserve(1).and_then(|()| targets.try_reserve(1)).map_err(|_| Errno::ENOBUFS)?;
            starts.push(at);
            if code != NOP && no < rest.len() {
                targets.push(at + no);
            }
            at += yes;
        }
        if at != end || targets.iter().any(|target| starts.binary_search(target).is_err()) {
            return Err(Errno::EINVAL);
        }
        let mut own = Vec::new();
        own.try_reserve_exact(end).map_err(|_| Errno::ENOBUFS)?;
        own.extend_from_slice(program);
        Ok(Self(own))
    }

    /// Whether the program takes this socket.
    pub(super) fn takes(&self, one: &Description) -> bool {
        let mut rest = &self.0[..];
        while let Some(Operation { code, yes, no }) = operation(rest) {
            let behind = rest.get(OPERATION_LEN..).unwrap_or(&[]);
            // The port is in the place of the next operation's way.
            let port = || operation(behind).map_or(0, |next| next.no);
            let (local, remote) = (usize::from(one.local.port), usize::from(one.remote.port));
            let is_so = match code {
                JUMP => false,
                LOCAL_AT_LEAST => local >= port(),
                LOCAL_AT_MOST => local <= port(),
                LOCAL_IS => local == port(),
                REMOTE_AT_LEAST => remote >= port(),
                REMOTE_AT_MOST => remote <= port(),
                REMOTE_IS => remote == port(),
                LOCAL_END => is_end(behind, &one.local, one.family),
                REMOTE_END => is_end(behind, &one.remote, one.family),
                // No socket is bound to an interface.
                INTERFACE => behind.first_chunk() == Some(&[0; 4]),
                _ => true,
            };
            match rest.get(if is_so { yes } else { no }..) {
                Some(next) => rest = next,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_core::Halves;
    use proptest::prelude::*;

    fn socket(local: u16, remote: u16, ip: [u8; 4]) -> Description {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&ip);
        let side = |port| Side { ip: bytes, port };
        Description {
            family: AF_INET,
            state: 1,
            local: side(local),
            remote: side(remote),
            timer: 0,
            retries: 0,
            expires_ms: 0,
            receivable: 0,
            unsent: 0,
            uid: 0,
            ino: 0,
            shut: Halves { receive: false, send: false },
            v6_only: false,
            cookie: 0,
        }
    }

    fn op(code: u8, yes: u8, no: u16) -> Vec<u8> {
        let mut all = vec![code, yes];
        all.extend(no.to_ne_bytes());
        all
    }

    /// A comparison of a port, whose failure leads `no` bytes on.
    fn port(code: u8, port: u16, no: u16) -> Vec<u8> {
        [op(code, 8, no), op(NOP, 0, port)].concat()
    }

    fn end(code: u8, family: u16, bits: u8, port: i32, ip: &[u8]) -> Vec<u8> {
        let len = (12 + ip.len()) as u8;
        let mut all = op(code, len, u16::from(len) + 4);
        all.extend([family as u8, bits, 0, 0]);
        all.extend(port.to_ne_bytes());
        all.extend(ip);
        all
    }

    fn takes(program: &[u8], one: &Description) -> bool {
        Filter::new(program).unwrap().takes(one)
    }

    #[test]
    fn ports_are_compared() {
        let one = socket(22, 5000, [127, 0, 0, 1]);
        for (code, wanted, is_so) in [
            (LOCAL_IS, 22, true),
            (LOCAL_IS, 23, false),
            (LOCAL_AT_LEAST, 22, true),
            (LOCAL_AT_LEAST, 23, false),
            (LOCAL_AT_MOST, 21, false),
            (REMOTE_AT_MOST, 5000, true),
            (REMOTE_AT_LEAST, 5001, false),
            (REMOTE_IS, 5000, true),
        ] {
            assert_eq!(takes(&port(code, wanted, 12), &one), is_so, "{code} {wanted}");
        }
        assert!(takes(&[], &one));
    }

    #[test]
    fn jumps_join_conditions() {
        // Local 22, or remote 80: what is so jumps over the other.
        let either = [port(LOCAL_IS, 22, 12), op(JUMP, 4, 12), port(REMOTE_IS, 80, 12)].concat();
        for (local, remote, is_so) in [(22, 1, true), (1, 80, true), (1, 1, false)] {
            assert_eq!(takes(&either, &socket(local, remote, [0; 4])), is_so, "{local} {remote}");
        }
    }

    #[test]
    fn ends_have_networks() {
        let one = socket(22, 80, [10, 1, 2, 3]);
        assert!(takes(&end(LOCAL_END, AF_INET, 8, -1, &[10, 9, 9, 9]), &one));
        assert!(takes(&end(LOCAL_END, AF_INET, 15, 22, &[10, 0, 0, 0]), &one));
        assert!(!takes(&end(LOCAL_END, AF_INET, 16, 22, &[10, 0, 0, 0]), &one));
        assert!(!takes(&end(REMOTE_END, AF_INET, 0, 22, &[0; 4]), &one));
        assert!(takes(&end(REMOTE_END, 0, 0, 80, &[]), &one));
        assert!(!takes(&end(LOCAL_END, AF_INET6, 0, -1, &[0; 16]), &one));
        let mut mapped = one.clone();
        mapped.family = AF_INET6;
        mapped.local.ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3];
        assert!(takes(&end(LOCAL_END, AF_INET, 32, -1, &[10, 1, 2, 3]), &mapped));
        assert!(!takes(&end(REMOTE_END, AF_INET, 32, -1, &[10, 1, 2, 3]), &mapped));
    }

    #[test]
    fn wrong_programs_are_refused() {
        for wrong in [
            vec![LOCAL_IS],
            op(LOCAL_IS, 4, 4),
            op(14, 4, 4),
            op(JUMP, 4, 0),
            op(JUMP, 4, 6),
            op(JUMP, 0, 4),
            op(NOP, 8, 0),
            port(LOCAL_IS, 1, 16),
            end(LOCAL_END, AF_INET, 33, -1, &[0; 4]),
            end(LOCAL_END, 1, 0, -1, &[]),
            // Into the middle of an operation.
            [op(JUMP, 4, 8), port(LOCAL_IS, 1, 12)].concat(),
        ] {
            assert_eq!(Filter::new(&wrong).err(), Some(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(Filter::new(&op(AUTO_PORT, 4, 8)).err(), Some(Errno::EOPNOTSUPP));
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(parts in proptest::collection::vec((0u8..14, 0u8..6, 0u16..9), 0..40)) {
            let program: Vec<u8> = parts.into_iter().flat_map(|(code, yes, no)| op(code, 4 * yes, 4 * no)).collect();
            if let Ok(filter) = Filter::new(&program) {
                filter.takes(&socket(1, 2, [1, 2, 3, 4]));
            }
        }
    }
}
