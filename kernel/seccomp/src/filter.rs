//! The chain of filters of a task.

use alloc::sync::Arc;

use cbpf::{Data, Program};

use crate::notify::Notifications;
use crate::{ARCH, action};

/// System calls of which a filter knows beforehand that it allows them.
const NR_KNOWN: usize = 512;

/// A filter, with those that were there before it.
pub(crate) struct Filter {
    program: Program,
    /// A bit for each call that it allows whatever the arguments are.
    allowed: [u64; NR_KNOWN / 64],
    /// `SECCOMP_FILTER_FLAG_LOG`.
    pub(crate) logs: bool,
    /// Where its notifications go (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
    pub(crate) notifications: Option<Arc<Notifications>>,
    pub(crate) before: Option<Arc<Filter>>,
    /// Instructions of the whole chain, with 4 for each filter (`MAX_INSNS_PER_PATH`).
    pub(crate) total_len: usize,
}

impl Filter {
    /// Puts `program` on top of `before`.
    pub(crate) fn new(
        program: Program,
        logs: bool,
        notifications: Option<Arc<Notifications>>,
        before: Option<Arc<Filter>>,
    ) -> Self {
        let mut allowed = [0; NR_KNOWN / 64];
        for nr in 0..NR_KNOWN as u32 {
            if program.constant(nr, ARCH) == Some(action::ALLOW) {
                allowed[nr as usize / 64] |= 1 << (nr % 64);
            }
        }
        let total_len = program.source().len() + before.as_ref().map_or(0, |before| before.total_len + 4);
        Self { program, allowed, logs, notifications, before, total_len }
    }

    /// The filters from this one down to the first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &Filter> {
        core::iter::successors(Some(self), |filter| filter.before.as_deref())
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    fn allows_always(&self, nr: u32) -> bool {
        self.allowed.get(nr as usize / 64).is_some_and(|word| word >> (nr % 64) & 1 != 0)
    }

    /// The most severe answer of the chain, and the filter that gave it; the newest one wins a draw.
    pub(crate) fn decide(&self, data: &Data) -> (u32, &Filter) {
        // Severity is the order of the actions as signed numbers.
        let severity = |answer: u32| (answer & action::MASK) as i32;
        let mut worst = (action::ALLOW, self);
        for filter in self.chain() {
            if filter.allows_always(data.nr) {
                continue;
            }
            let answer = filter.program.run(data);
            if severity(answer) < severity(worst.0) {
                worst = (answer, filter);
            }
        }
        worst
    }
}

impl Drop for Filter {
    /// A chain may be long: it is taken apart without recursion.
    fn drop(&mut self) {
        if let Some(notifications) = &self.notifications {
            notifications.lose_users();
        }
        let mut next = self.before.take();
        while let Some(filter) = next {
            next = Arc::into_inner(filter).and_then(|mut filter| filter.before.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use cbpf::Instruction;

    /// Answers `answer` for call `nr`, else allows.
    fn filter(nr: u32, answer: u32, before: Option<Arc<Filter>>) -> Arc<Filter> {
        let op = |code, k| Instruction { code, jt: 0, jf: 0, k };
        let source = Vec::from([
            op(0x20, 0),
            Instruction { code: 0x15, jt: 0, jf: 1, k: nr },
            op(0x06, answer),
            op(0x06, action::ALLOW),
        ]);
        let program = Program::new(source).unwrap().unwrap();
        Arc::new(Filter::new(program, false, None, before))
    }

    #[track_caller]
    fn check(top: &Filter, nr: u32, wanted: u32) {
        assert_eq!(top.decide(&Data { nr, arch: ARCH, ..Data::default() }).0, wanted);
    }

    #[test]
    fn the_most_severe_answer_of_the_chain_counts() {
        let first = filter(5, action::ERRNO | 13, None);
        let second = filter(5, action::TRAP | 1, Some(first.clone()));
        let third = filter(6, action::KILL_PROCESS, Some(second));
        check(&first, 5, action::ERRNO | 13);
        check(&third, 5, action::TRAP | 1);
        check(&third, 6, action::KILL_PROCESS);
        check(&third, 7, action::ALLOW);
        check(&third, 100_000, action::ALLOW);
    }

    #[test]
    fn a_draw_goes_to_the_newest() {
        let old = filter(5, action::ERRNO | 1, None);
        let new = filter(5, action::ERRNO | 2, Some(old));
        check(&new, 5, action::ERRNO | 2);
    }

    #[test]
    fn long_chains_are_dropped_without_recursion() {
        let mut top = filter(5, action::ALLOW, None);
        for _ in 0..100_000 {
            top = filter(5, action::ALLOW, Some(top));
        }
        drop(top);
    }
}
