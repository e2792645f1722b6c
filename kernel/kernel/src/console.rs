//! The kernel's log on a terminal of the hypervisor (`console=hvc0`).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use hal::klog::{self, Console};
use hal::sync::Once;
use tty::Tty;

/// How long a line waits for a host that takes nothing; then it is lost.
const PATIENCE_NS: u64 = 5_000_000;

/// The terminal that is the console.
struct Terminal {
    tty: Once<Arc<Tty>>,
    /// It took nothing for so long that lines do not wait for it until it does again.
    is_stuck: AtomicBool,
}

static TERMINAL: Terminal = Terminal { tty: Once::new(), is_stuck: AtomicBool::new(false) };

impl Console for Terminal {
    fn write(&self, line: &[u8]) {
        let Some(tty) = self.tty.get() else { return };
        let deadline_ns = hal::time::now_ns().saturating_add(PATIENCE_NS);
        // A terminal wants both.
        let pieces = line.split_inclusive(|&byte| byte == b'\n').flat_map(|piece| {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            [text, if text.len() < piece.len() { &b"\r\n"[..] } else { b"" }]
        });
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() {
                let taken = tty.write_raw(rest).min(rest.len());
                rest = &rest[taken..];
                if taken > 0 {
                    self.is_stuck.store(false, Relaxed);
                } else if self.is_stuck.load(Relaxed) || hal::time::now_ns() >= deadline_ns {
                    return self.is_stuck.store(true, Relaxed);
                }
            }
        }
    }
}

/// Shows what was logged so far on the console, and what will be.
pub(crate) fn show_log() {
    let Some(tty) = tty::device::console() else { return };
    TERMINAL.tty.call_once(|| tty);
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
