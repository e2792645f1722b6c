//! What waits to be received, and what that costs.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::Ucred;

/// What a message costs beyond its data; about what a Linux `sk_buff` does, so that queues hold similar numbers.
const OVERHEAD: usize = 576;
/// Data is counted in units of this.
const UNIT: usize = 512;

/// A message under way.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) data: Arc<Vec<u8>>,
    /// The sender's port.
    pub(crate) from: u32,
    /// The group that it went to; 0: to one socket.
    pub(crate) group: u32,
    pub(crate) cred: Ucred,
}

impl Packet {
    /// One of the kernel.
    pub(crate) fn of_kernel(data: Vec<u8>, group: u32) -> Self {
        Self { data: Arc::new(data), from: 0, group, cred: Ucred::default() }
    }
}

/// What a message of `len` bytes is charged with.
pub(crate) fn cost(len: usize) -> usize {
    len.saturating_add(OVERHEAD).next_multiple_of(UNIT)
}

/// A queue with its account.
#[derive(Default)]
pub(crate) struct Queue {
    packets: VecDeque<Packet>,
    charged: usize,
    /// A message was lost: nothing more comes in until all that is here was received.
    is_congested: bool,
}

impl Queue {
    /// Bytes that it is charged with.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether `more` bytes find room under `limit`; the first ones always do.
    pub(crate) fn admits(&self, more: usize, limit: usize) -> bool {
        !self.is_congested && (self.charged == 0 || self.charged.saturating_add(more) <= limit)
    }

    /// Whether it is worth to wake those who wait for room: each of them asks [`Queue::admits`] for itself.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        !self.is_congested && self.charged <= limit
    }

    /// Charges `more` bytes. `false`: there is no room.
    pub(crate) fn charge(&mut self, more: usize, limit: usize) -> bool {
        let admits = self.admits(more, limit);
        if admits {
            self.charged += more;
        }
        admits
    }

    /// Charges and appends `packet`, also where there is no room.
    pub(crate) fn force(&mut self, packet: Packet) {
        self.charged += cost(packet.data.len());
        self.packets.push_back(packet);
    }

    /// Takes a charge back.
    pub(crate) fn uncharge(&mut self, less: usize) {
        self.charged = self.charged.saturating_sub(less);
    }

    /// Appends what was charged.
    pub(crate) fn push_charged(&mut self, packet: Packet) {
        self.packets.push_back(packet);
    }

    /// A message was lost. `true`: it is the first one since the queue was empty.
    pub(crate) fn overrun(&mut self) -> bool {
        !core::mem::replace(&mut self.is_congested, true)
    }

    /// Ends the state that [`Queue::overrun`] began.
    pub(crate) fn recover(&mut self) {
        self.is_congested = false;
    }

    /// Ends that state if nothing is left to receive. `true`: it was so, and those who wait for room are to be woken.
    pub(crate) fn recover_if_empty(&mut self) -> bool {
        self.packets.is_empty() && core::mem::replace(&mut self.is_congested, false)
    }

    /// The first message, which stays.
    pub(crate) fn peek(&self) -> Option<Packet> {
        self.packets.front().cloned()
    }

    /// The first message.
    pub(crate) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front();
        if let Some(packet) = &packet {
            self.uncharge(cost(packet.data.len()));
        }
        self.recover_if_empty();
        packet
    }

    /// Everything; the charges of others stay.
    pub(crate) fn take_all(&mut self) -> VecDeque<Packet> {
        let all = core::mem::take(&mut self.packets);
        self.uncharge(all.iter().map(|packet| cost(packet.data.len())).sum());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize) -> Packet {
        Packet::of_kernel(vec![0; len], 0)
    }

    fn put(queue: &mut Queue, len: usize, limit: usize) -> bool {
        let is_in = queue.charge(cost(len), limit);
        if is_in {
            queue.push_charged(packet(len));
        }
        is_in
    }

    #[test]
    fn the_first_message_always_fits() {
        let mut queue = Queue::default();
        assert!(put(&mut queue, 100_000, 1000));
        assert!(!put(&mut queue, 1, 1000));
        assert!(queue.pop().is_some() && queue.charged() == 0);
    }

    #[test]
    fn after_a_loss_nothing_comes_in_until_it_is_empty() {
        let mut queue = Queue::default();
        assert!(put(&mut queue, 1, 10_000) && put(&mut queue, 1, 10_000));
        assert!(queue.overrun() && !queue.overrun());
        queue.pop();
        assert!(!put(&mut queue, 1, 10_000) && !queue.has_room(10_000));
        queue.pop();
        assert!(put(&mut queue, 1, 10_000));
    }

    #[test]
    fn room_for_some_is_no_room_for_more() {
        let (mut queue, limit) = (Queue::default(), 3000);
        assert!(put(&mut queue, 1, limit));
        assert!(queue.charged() < limit && queue.charged() + cost(2000) > limit);
        assert!(queue.has_room(limit) && queue.admits(cost(1), limit));
        assert!(!queue.admits(cost(2000), limit), "what a sender waits for is what it then gets");
        assert!(!put(&mut queue, 2000, limit));
        queue.pop();
        assert!(queue.admits(cost(2000), limit) && put(&mut queue, 2000, limit));
    }

    #[test]
    fn a_loss_beside_an_empty_queue_is_got_over() {
        let mut queue = Queue::default();
        assert!(queue.charge(1000, 1000) && !queue.charge(1, 1000) && queue.overrun());
        assert!(queue.recover_if_empty() && !queue.recover_if_empty());
        assert!(queue.has_room(1000));
    }

    #[test]
    fn charges_of_others_stay() {
        let mut queue = Queue::default();
        assert!(queue.charge(1000, 5000) && put(&mut queue, 10, 5000));
        assert_eq!(queue.take_all().len(), 1);
        assert_eq!(queue.charged(), 1000);
    }
}
