//! Rules that say which table of routes counts: `RTM_GETRULE`. There are those that are always there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};
use net_netlink::message::{self, Builder, Header};
use net_netlink::{Answer, Request};

use super::NEW_RULE;

/// Bytes of `struct fib_rule_hdr`.
const INFO_LEN: usize = 12;
/// `FRA_*`.
const PRIORITY: u16 = 6;
const SUPPRESS_PREFIX: u16 = 14;
const TABLE: u16 = 15;
const PROTOCOL: u16 = 21;
/// The rule names a table (`FR_ACT_TO_TBL`), and the kernel made it (`RTPROT_KERNEL`).
const TO_TABLE: u8 = 1;
const BY_KERNEL: u8 = 2;

/// The rules of version 4, of which version 6 has no last one: their place in the order, and their table.
const RULES: [(u32, u8); 3] = [(0, 255), (32766, 254), (32767, 253)];

fn describe(header: Header, family: u16, (priority, table): (u32, u8)) -> Vec<u8> {
    let mut out = Builder::new(header);
    out.put(&[family as u8, 0, 0, 0, table, 0, 0, TO_TABLE]).put(&[0; 4]);
    out.word(TABLE, u32::from(table)).word(SUPPRESS_PREFIX, u32::MAX).byte(PROTOCOL, BY_KERNEL);
    if priority != 0 {
        out.word(PRIORITY, priority);
    }
    out.finish()
}

/// All rules of `family`, or of both. `EINVAL`: a filter, for who wants to know.
pub(super) fn dump(request: &Request<'_>, family: u16) -> Result<Answer> {
    if request.is_strict() {
        let (head, rest) = request.message.body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
        if head[1..] != [0; INFO_LEN - 1] || !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
    }
    let families: &'static [u16] = match family {
        AF_INET => &[AF_INET],
        AF_INET6 => &[AF_INET6],
        0 => &[AF_INET, AF_INET6],
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let header = request.header(NEW_RULE, message::MULTI);
    let all = families.iter().flat_map(|&family| {
        let count = if family == AF_INET { RULES.len() } else { RULES.len() - 1 };
        RULES.into_iter().take(count).map(move |rule| (family, rule))
    });
    Ok(Answer::Dump(Box::new(all.map(move |(family, rule)| describe(header, family, rule)))))
}
