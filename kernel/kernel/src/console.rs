//! The kernel's log on a terminal of the hypervisor (`console=hvc0`).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hal::klog::{self, Console};
use hal::sync::Once;
use tty::Tty;

/// How long a line waits for a host that takes nothing; then it is lost.
const PATIENCE_NS: u64 = 5_000_000;

/// The terminal that is the console.
struct Terminal(Once<Arc<Tty>>);

static TERMINAL: Terminal = Terminal(Once::new());

impl Console for Terminal {
    fn write(&self, line: &[u8]) {
        let Some(tty) = self.0.get() else { return };
        let deadline_ns = hal::time::now_ns().saturating_add(PATIENCE_NS);
        // A terminal wants both.
        let pieces = line.split_inclusive(|&byte| byte == b'\n').flat_map(|piece| {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            [text, if text.len() < piece.len() { &b"\r\n"[..] } else { b"" }]
        });
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() && hal::time::now_ns() < deadline_ns {
                rest = &rest[tty.write_raw(rest).min(rest.len())..];
            }
        }
    }
}

/// Shows what was logged so far on the console, and what will be.
pub(crate) fn show_log() {
    let Some(tty) = tty::device::console() else { return };
    TERMINAL.0.call_once(|| tty);
    let (first, end) = klog::seq_range();
    let (mut text, mut seq) = (Vec::new(), first);
    while seq < end {
        text.clear();
        let Some(info) = klog::read(seq, &mut text) else { break };
        seq = info.seq + 1;
        if info.priority as u8 & 7 < klog::console_level() {
            let us = info.time_ns / 1000;
            let mut line = format!("[{:5}.{:06}] ", us / 1_000_000, us % 1_000_000).into_bytes();
            line.extend_from_slice(&text);
            line.push(b'\n');
            TERMINAL.write(&line);
        }
    }
    klog::register_console(&TERMINAL);
}
