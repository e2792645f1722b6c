//! The two directions between a terminal and what is behind it.
//!
//! ```text
//! program --> Tty --Line::write--> serial port, or the master of a pseudo-terminal
//! program <-- Tty <--Receiver::receive-- the same
//! ```

/// Where a terminal's output goes.
///
/// Called with the terminal's locks held or interrupts off: implementations do not sleep.
pub trait Line: Send + Sync {
    /// Takes as many of `bytes` as there is room for and returns how many.
    fn write(&self, bytes: &[u8]) -> usize;

    /// How many bytes [`Line::write`] would take now.
    fn write_room(&self) -> usize;

    /// How many bytes are taken but not sent yet (`TIOCOUTQ`).
    fn pending_output(&self) -> usize;

    /// Forgets output that is not sent yet.
    fn flush_output(&self);
}

/// Where a line's input goes. Called from interrupt context: implementations neither sleep nor allocate.
pub trait Receiver: Send + Sync {
    /// Takes bytes from the line; what finds no room is lost, as on a real line.
    fn receive(&self, bytes: &[u8]);

    /// The line has room for output again.
    fn output_drained(&self);
}
