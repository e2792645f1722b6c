//! A submission queue with its completion queue (NVM Express Base Specification 2.0, ch. 3.3).
//!
//! # Invariants
//!
//! - Q1: slot `id` has a token exactly while the controller has command `id`.
//! - Q2: fewer commands are under way than the submission ring has places, so there is always one for a retry.
//! - Q3 (D1 of `hal::dma`): what a command names belongs to its token or to its slot, and both stay until the command
//!   has completed or the controller is switched off.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::dma::Buffer;

use crate::command::{COMMAND_BYTES, COMPLETION_BYTES, Command, Status};
use crate::controller::Controller;

/// How often a command is sent again.
const MAX_RETRIES: u8 = 5;

struct Slot<T> {
    token: Option<T>,
    command: Command,
    retries: u8,
    /// Its PRP list or range, made at first use.
    page: Option<Buffer>,
}

/// A pair of queues of the same size.
pub(crate) struct Queue<T> {
    submission: Buffer,
    completion: Buffer,
    depth: u16,
    tail: u16,
    head: u16,
    /// The phase bit of completions that are new.
    phase: u16,
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    is_broken: bool,
    /// The controller and the number that it knows the queues by; `None` once it is gone.
    doorbell: Option<(Arc<Controller>, u16)>,
}

/// A completion taken out of the queue.
pub(crate) struct Done<T> {
    pub(crate) token: T,
    pub(crate) status: Status,
    /// The command's own result.
    pub(crate) result: u32,
}

impl<T> Queue<T> {
    /// Queues of `depth` entries (at least 2). `ENOMEM`.
    pub(crate) fn new(depth: u16) -> Result<Self> {
        let depth = depth.max(2);
        let ring = |bytes: usize| Buffer::alloc(usize::from(depth) * bytes).ok_or(Errno::ENOMEM);
        let nr_slots = depth - 1;
        let mut slots = Vec::new();
        let mut free = Vec::new();
        slots.try_reserve_exact(nr_slots.into()).map_err(|_| Errno::ENOMEM)?;
        free.try_reserve_exact(nr_slots.into()).map_err(|_| Errno::ENOMEM)?;
        for id in (0..nr_slots).rev() {
            slots.push(Slot { token: None, command: Command::default(), retries: 0, page: None });
            free.push(id);
        }
        Ok(Self {
            submission: ring(COMMAND_BYTES)?,
            completion: ring(COMPLETION_BYTES)?,
            depth,
            tail: 0,
            head: 0,
            phase: 1,
            slots,
            free,
            is_broken: false,
            doorbell: None,
        })
    }

    /// Lets the controller know the queues as number `id`.
    pub(crate) fn connect(&mut self, controller: &Arc<Controller>, id: u16) {
        self.doorbell = Some((controller.clone(), id));
    }

    /// Tells the controller about new commands.
    pub(crate) fn ring_submission(&self) {
        if let Some((controller, id)) = &self.doorbell {
            controller.ring_submission(*id, self.tail);
        }
    }

    /// Tells the controller which completions were seen.
    pub(crate) fn ring_completion(&self) {
        if let Some((controller, id)) = &self.doorbell {
            controller.ring_completion(*id, self.head);
        }
    }

    /// Addresses of the rings: of commands, of completions.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.submission.paddr().0, self.completion.paddr().0)
    }

    /// Entries of each ring.
    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }

    /// What the submission doorbell is to be told.
    pub(crate) fn tail(&self) -> u16 {
        self.tail
    }

    /// What the completion doorbell is to be told.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }

    /// How many commands there is room for.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// The most commands at once.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether no command is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether the controller answered nonsense; nothing is sent any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// The tokens of commands under way.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.token.as_ref())
    }

    /// A page that stays with the command to be sent next, for its list. `None`: no room, or no memory.
    pub(crate) fn next_page(&mut self) -> Option<&Buffer> {
        let id = usize::from(*self.free.last()?);
        let slot = self.slots.get_mut(id)?;
        if slot.page.is_none() {
            slot.page = Some(Buffer::alloc(hal::PAGE_SIZE)?);
        }
        slot.page.as_ref()
    }

    /// Sends `command`, unless there is no room.
    pub(crate) fn push(&mut self, command: Command, token: T) -> Result<(), T> {
        let Some(id) = self.free.pop() else { return Err(token) };
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            (slot.token, slot.command, slot.retries) = (Some(token), command, 0);
        }
        self.send(command, id);
        Ok(())
    }

    fn send(&mut self, command: Command, id: u16) {
        self.submission.write(usize::from(self.tail) * COMMAND_BYTES, &command.bytes(id));
        hal::dma::barrier();
        self.tail = (self.tail + 1) % self.depth;
    }

    /// The next completion, if there is one; failed commands are sent again first. Ring both doorbells after.
    pub(crate) fn pop(&mut self) -> Option<Done<T>> {
        while !self.is_broken {
            let at = usize::from(self.head) * COMPLETION_BYTES;
            // The word with the phase bit comes last.
            let last = self.completion.read_u32(at + 12);
            let status = Status((last >> 17) as u16);
            if (last >> 16) as u16 & 1 != self.phase {
                return None;
            }
            let result = self.completion.read_u32(at);
            self.head += 1;
            if self.head == self.depth {
                (self.head, self.phase) = (0, self.phase ^ 1);
            }
            let id = last as u16;
            let Some(slot) = self.slots.get_mut(usize::from(id)).filter(|slot| slot.token.is_some()) else {
                self.is_broken = true;
                return None;
            };
            if status.is_worth_retrying() && slot.retries < MAX_RETRIES {
                slot.retries += 1;
                let command = slot.command;
                self.send(command, id);
                continue;
            }
            let token = slot.token.take()?;
            self.free.push(id);
            return Some(Done { token, status, result });
        }
        None
    }

    /// Takes all tokens: the controller is switched off.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.is_broken = true;
        self.doorbell = None;
        self.slots.iter_mut().filter_map(|slot| slot.token.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Queue<T> {
        /// Plays the controller: ends command `id`.
        fn finish(&self, at: u16, phase: u16, id: u16, status: u16) {
            let last = u32::from(id) | u32::from(phase) << 16 | u32::from(status) << 17;
            self.completion.write_u32(usize::from(at) * COMPLETION_BYTES + 12, last);
        }
    }

    fn command() -> Command {
        Command::new(crate::command::io::READ, 1)
    }

    #[test]
    fn commands_come_back_by_their_number_in_any_order() {
        let mut queue = Queue::new(4).unwrap();
        for token in ['a', 'b', 'c'] {
            queue.push(command(), token).unwrap();
        }
        assert_eq!((queue.room(), queue.tail(), queue.push(command(), 'd')), (0, 3, Err('d')));
        assert!(queue.pop().is_none());
        queue.finish(0, 1, 2, 0);
        queue.finish(1, 1, 0, 0x4281);
        let first = queue.pop().unwrap();
        assert_eq!((first.token, first.status.is_ok()), ('c', true));
        let second = queue.pop().unwrap();
        assert_eq!((second.token, second.status.is_ok()), ('a', false));
        assert!(queue.pop().is_none());
        assert_eq!((queue.room(), queue.head()), (2, 2));
    }

    #[test]
    fn the_phase_changes_with_each_round() {
        let mut queue = Queue::new(2).unwrap();
        for round in 0..6_u16 {
            queue.push(command(), round).unwrap();
            queue.finish(round % 2, 1 - round / 2 % 2, 0, 0);
            assert_eq!(queue.pop().unwrap().token, round);
            assert!(queue.pop().is_none());
        }
    }

    #[test]
    fn what_may_be_retried_is_sent_again() {
        let mut queue = Queue::new(16).unwrap();
        queue.push(command(), 'a').unwrap();
        for at in 0..5 {
            queue.finish(at, 1, 0, 0x281);
            assert!(queue.pop().is_none());
        }
        assert_eq!(queue.tail(), 6);
        queue.finish(5, 1, 0, 0x281);
        assert_eq!(queue.pop().unwrap().status, Status(0x281));
    }

    #[test]
    fn nonsense_breaks_the_queue() {
        let mut queue = Queue::new(4).unwrap();
        queue.push(command(), 'a').unwrap();
        queue.finish(0, 1, 999, 0);
        assert!(queue.pop().is_none());
        assert!(queue.is_broken());
        assert_eq!(queue.take_all(), ['a']);
    }
}
