//! Handles: operations that belong to the running transaction. A commit closes the gate and waits until all are done.

use hal::sync::SpinLock;
use sched::WaitQueue;

#[derive(Clone, Copy)]
struct State {
    nr_inside: u32,
    is_closed: bool,
}

/// See the module's front page. Its lock is a leaf.
pub(crate) struct Gate {
    state: SpinLock<State>,
    changed: WaitQueue,
}

/// The right to change the running transaction.
pub(crate) struct Pass<'a>(&'a Gate);

/// The gate is closed while this lives.
pub(crate) struct Closed<'a>(&'a Gate);

impl Gate {
    pub(crate) const fn new() -> Self {
        let state = State { nr_inside: 0, is_closed: false };
        Self { state: SpinLock::new("ext4.gate", state), changed: WaitQueue::new() }
    }

    fn try_enter(&self) -> Option<()> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        state.nr_inside += 1;
        Some(())
    }

    /// Enters; sleeps while the gate is closed. Who is inside must not enter again.
    pub(crate) fn enter(&self) -> Pass<'_> {
        if self.try_enter().is_none() {
            self.changed.wait(|| self.try_enter());
        }
        Pass(self)
    }

    /// Closes the gate and waits until nobody is inside. One at a time.
    pub(crate) fn close(&self) -> Closed<'_> {
        self.state.lock().is_closed = true;
        self.changed.wait(|| (self.state.lock().nr_inside == 0).then_some(()));
        Closed(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let wake = {
            let mut state = self.0.state.lock();
            state.nr_inside -= 1;
            state.nr_inside == 0 && state.is_closed
        };
        if wake {
            self.0.changed.wake_all();
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = false;
        self.0.changed.wake_all();
    }
}
