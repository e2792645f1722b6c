//! Functions whose return is awaited: the return addresses that were replaced by the trampoline's.
//!
//! The newest is last. A function that was left by longjmp(3) never returns; its entry goes when the stack pointer is
//! found above it. One that ends with a jump to another probed function leaves two entries for one return address: the
//! later is *chained* to the earlier, and both returns are reported together.
//!
//! Source: behaviour of Linux 7.2.

use alloc::vec::Vec;

/// At most so many returns are awaited at once; deeper calls are not reported.
const MAX_DEPTH: usize = 64;

/// A return that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Return {
    /// The probe of the function.
    pub probe: u64,
    /// The stack pointer at entry, where the return address is.
    pub stack: u64,
    /// Where the function returns to.
    pub to: u64,
    is_chained: bool,
}

/// The awaited returns of one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Returns(Vec<Return>);

impl Returns {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that the function of `probe`, just entered with stack pointer `stack`, returns to `to`, which may be the
    /// `trampoline` already. `false`: it cannot be awaited.
    pub(super) fn push(&mut self, probe: u64, stack: u64, to: u64, trampoline: u64) -> bool {
        while self.0.last().is_some_and(|last| last.stack < stack) {
            self.0.pop();
        }
        if self.0.len() >= MAX_DEPTH || self.0.try_reserve(1).is_err() {
            return false;
        }
        let is_chained = to == trampoline;
        let to = match (is_chained, self.0.last()) {
            (false, _) => to,
            (true, Some(last)) => last.to,
            (true, None) => return false,
        };
        self.0.push(Return { probe, stack, to, is_chained });
        true
    }

    /// Takes what returns now, with the stack pointer `sp` behind the return address: calls `each` for each function,
    /// the innermost first, and gives where to go on. `None`: nothing was awaited.
    pub(super) fn pop(&mut self, sp: u64, mut each: impl FnMut(u64)) -> Option<u64> {
        let mut to = None;
        loop {
            // One return address stands for an entry and all that it is chained to.
            let start = self.0.iter().rposition(|entry| !entry.is_chained).unwrap_or(0);
            let group = self.0.get(start..).unwrap_or_default();
            let Some(newest) = group.last() else { return to };
            to = Some(newest.to);
            // What is older and still below the stack pointer was left without a return, and so was this one then.
            let older = start.checked_sub(1).and_then(|at| self.0.get(at));
            let is_it = older.is_none_or(|older| sp <= older.stack);
            if is_it {
                group.iter().rev().for_each(|entry| each(entry.probe));
            }
            self.0.truncate(start);
            if is_it {
                return to;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAMPOLINE: u64 = 0xffff;

    fn popped(returns: &mut Returns, sp: u64) -> (Option<u64>, Vec<u64>) {
        let mut seen = Vec::new();
        let to = returns.pop(sp, |probe| seen.push(probe));
        (to, seen)
    }

    #[test]
    fn nested_calls_return_in_turn() {
        let mut returns = Returns::default();
        assert!(returns.push(1, 1000, 10, TRAMPOLINE));
        assert!(returns.push(2, 900, 20, TRAMPOLINE));
        assert_eq!(popped(&mut returns, 908), (Some(20), vec![2]));
        assert_eq!(popped(&mut returns, 1008), (Some(10), vec![1]));
        assert_eq!(popped(&mut returns, 1008), (None, vec![]));
        assert!(returns.is_empty());
    }

    #[test]
    fn a_tail_call_returns_for_both() {
        let mut returns = Returns::default();
        assert!(returns.push(1, 1000, 10, TRAMPOLINE));
        assert!(returns.push(2, 1000, TRAMPOLINE, TRAMPOLINE));
        assert_eq!(popped(&mut returns, 1008), (Some(10), vec![2, 1]));
        assert!(!returns.push(3, 1000, TRAMPOLINE, TRAMPOLINE));
    }

    #[test]
    fn what_longjmp_left_is_forgotten() {
        let mut returns = Returns::default();
        assert!(returns.push(1, 1000, 10, TRAMPOLINE));
        assert!(returns.push(2, 900, 20, TRAMPOLINE));
        assert!(returns.push(3, 950, 30, TRAMPOLINE));
        assert_eq!(popped(&mut returns, 958), (Some(30), vec![3]));
        // 1 returns while 4 never did.
        assert!(returns.push(4, 800, 40, TRAMPOLINE));
        assert_eq!(popped(&mut returns, 1008), (Some(10), vec![1]));
    }

    #[test]
    fn recursion_without_end_is_cut_off() {
        let mut returns = Returns::default();
        let taken = (0..100).filter(|n| returns.push(1, 10_000 - n, 10, TRAMPOLINE)).count();
        assert_eq!(taken, MAX_DEPTH);
    }
}
