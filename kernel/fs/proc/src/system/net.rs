//! /proc/net: what there is of a network, which is unix sockets.

use crate::extra::{self, Extra};
use crate::node::{Entry, text};

const DEV_HEADLINE: &[u8] = b"\
Inter-|   Receive                                                |  Transmit\n \
face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    text("dev", |out| {
        out.push(DEV_HEADLINE);
        Ok(())
    }),
    text("unix", |out| extra::show(Extra::NetUnix, out)),
];
