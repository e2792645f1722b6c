//! Two connections over a link that loses, doubles, delays and reorders.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::segment::SegOptions;
use super::seq::Seq;
use super::*;

#[derive(Clone, Debug)]
struct Bytes(Arc<Vec<u8>>, usize, usize);

impl Bytes {
    fn new(data: &[u8]) -> Self {
        Bytes(Arc::new(data.to_vec()), 0, data.len())
    }
    fn get(&self) -> &[u8] {
        &self.0[self.1..self.2]
    }
}

impl Payload for Bytes {
    fn len(&self) -> usize {
        self.2 - self.1
    }
    fn slice(&self, start: usize, end: usize) -> Self {
        assert!(start < end && end <= self.len());
        Bytes(self.0.clone(), self.1 + start, self.1 + end)
    }
    fn concat(parts: &[Self], len: usize) -> Option<Self> {
        let all: Vec<u8> = parts.iter().flat_map(|p| p.get().to_vec()).collect();
        assert_eq!(all.len(), len);
        Some(Bytes::new(&all))
    }
    fn byte(&self, at: usize) -> u8 {
        self.get()[at]
    }
}

const MS: u64 = 1_000_000;

/// A small generator, so that a failing case repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// Percentages, and the longest extra delay in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    loss: u64,
    double: u64,
    jitter_ms: u64,
}

struct Net {
    ends: [Option<Tcb<Bytes>>; 2],
    wire: BTreeMap<(u64, u64), (usize, Segment<Bytes>)>,
    now: u64,
    count: u64,
    dice: Dice,
    weather: Weather,
    configs: [Config; 2],
    iss: [u32; 2],
    listens: bool,
    got: [Vec<u8>; 2],
    resets: usize,
}

impl Net {
    fn new(weather: Weather, seed: u64) -> Self {
        let config = Config::new(1460);
        Net {
            ends: [None, None],
            wire: BTreeMap::new(),
            now: 1000 * MS,
            count: 0,
            dice: Dice(seed),
            weather,
            configs: [config.clone(), config],
            iss: [u32::MAX - 3000, 77],
            listens: true,
            got: [vec![], vec![]],
            resets: 0,
        }
    }

    fn open(&mut self, who: usize) {
        self.ends[who] = Some(Tcb::connect(self.configs[who].clone(), self.iss[who], self.now));
        self.flush(who);
    }

    fn put(&mut self, from: usize, segment: Segment<Bytes>) {
        self.resets += usize::from(segment.flags.has(Flags::RST));
        let copies = 1 + u64::from(self.dice.roll(100) < self.weather.double);
        for _ in 0..copies {
            if self.dice.roll(100) < self.weather.loss {
                continue;
            }
            self.count += 1;
            let at = self.now + 5 * MS + self.dice.roll(self.weather.jitter_ms + 1) * MS;
            self.wire.insert((at, self.count), (1 - from, segment.clone()));
        }
    }

    fn flush(&mut self, who: usize) {
        let mut out = vec![];
        if let Some(tcb) = &mut self.ends[who] {
            tcb.output(self.now, &mut |s| out.push(s));
            tcb.check_invariants();
        }
        for segment in out {
            self.put(who, segment);
        }
    }

    fn with(&mut self, who: usize, f: impl FnOnce(&mut Tcb<Bytes>)) {
        f(self.ends[who].as_mut().unwrap());
        self.flush(who);
    }

    fn deliver(&mut self, to: usize, segment: Segment<Bytes>) {
        let now = self.now;
        let answer = match &mut self.ends[to] {
            Some(tcb) => tcb.on_segment(segment, now),
            None if self.listens && segment.flags == Flags::SYN => {
                self.ends[to] = Some(Tcb::accept(self.configs[to].clone(), self.iss[to], &segment, now));
                None
            }
            None => segment.refusal(),
        };
        if let Some(answer) = answer {
            self.put(to, answer);
        }
        self.flush(to);
    }

    /// Moves time to the next event; `false` when nothing is left to happen before `limit`.
    fn step(&mut self, limit: u64) -> bool {
        let wire = self.wire.first_key_value().map(|(key, _)| key.0);
        let timer = self.ends.iter().flatten().filter_map(Tcb::deadline_ns).min();
        let Some(at) = wire.into_iter().chain(timer).min().filter(|&at| at <= limit) else { return false };
        self.now = self.now.max(at);
        if wire == Some(at) {
            let (_, (to, segment)) = self.wire.pop_first().unwrap();
            self.deliver(to, segment);
            return true;
        }
        for who in 0..2 {
            let mut out = vec![];
            if let Some(tcb) = &mut self.ends[who]
                && tcb.deadline_ns().is_some_and(|at| at <= self.now)
            {
                tcb.on_timer(self.now, &mut |s| out.push(s));
                tcb.check_invariants();
            }
            for segment in out {
                self.put(who, segment);
            }
        }
        true
    }

    fn run(&mut self, ms: u64) {
        let limit = self.now + ms * MS;
        while self.step(limit) {}
        self.now = limit;
    }

    fn read(&mut self, who: usize, most: usize) {
        let Some(tcb) = &mut self.ends[who] else { return };
        let mut left = most;
        while left > 0
            && let Some(piece) = tcb.peek(0)
        {
            let n = piece.len().min(left);
            self.got[who].extend_from_slice(&piece.get()[..n]);
            tcb.consume(n);
            left -= n;
        }
        self.flush(who);
    }

    fn state(&self, who: usize) -> State {
        self.ends[who].as_ref().map_or(State::Closed, Tcb::state)
    }

    /// A connection in quiet weather.
    fn connected() -> Self {
        let mut net = Net::new(Weather::default(), 1);
        net.open(0);
        net.run(100);
        assert_eq!((net.state(0), net.state(1)), (State::Established, State::Established));
        net
    }
}

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ salt).collect()
}

/// Sends `data` both ways, closes both, and checks that all came.
fn exchange(net: &mut Net, len: usize, piece: usize, read: usize) {
    let data = [pattern(len, 1), pattern(len / 3, 2)];
    let mut sent = [0, 0];
    let mut closed = [false, false];
    let limit = net.now + 3_000_000 * MS;
    net.open(0);
    loop {
        for who in 0..2 {
            net.read(who, read);
            let Some(tcb) = &mut net.ends[who] else { continue };
            while sent[who] < data[who].len() && tcb.can_send() && tcb.has_room() {
                let n = piece.min(data[who].len() - sent[who]);
                tcb.send(Bytes::new(&data[who][sent[who]..sent[who] + n]));
                sent[who] += n;
            }
            if sent[who] == data[who].len() && tcb.can_send() && !closed[who] {
                tcb.shutdown();
                closed[who] = true;
            }
            net.flush(who);
        }
        let is_over = |who: usize| {
            net.ends[who].as_ref().is_some_and(|t| t.is_receive_over() && t.readable() == 0 && closed[who])
        };
        let is_read = net.ends.iter().flatten().all(|tcb| tcb.readable() == 0);
        if is_over(0) && is_over(1) || !net.step(limit) && is_read {
            break;
        }
    }
    for (who, data) in data.iter().enumerate() {
        let failure = net.ends[who].as_ref().and_then(Tcb::failure);
        assert_eq!(failure, None);
        let states = [net.state(0), net.state(1)];
        let infos =
            net.ends.iter().flatten().map(|t| (t.info(), t.readable(), t.unsent())).collect::<Vec<_>>();
        let at = net.now / MS;
        assert_eq!(net.got[1 - who].len(), data.len(), "end {who} at {at} ms: {states:?} {infos:#?}");
        assert!(net.got[1 - who] == *data);
    }
}

#[test]
fn three_segments_open_a_connection() {
    let net = Net::connected();
    assert_eq!(net.count, 3);
    let info = net.ends[0].as_ref().unwrap().info();
    assert!(info.sack && info.timestamps && info.send_shift == 7 && info.mss == 1448);
}

#[test]
fn nobody_listening_refuses() {
    let mut net = Net::new(Weather::default(), 1);
    net.listens = false;
    net.open(0);
    net.run(100);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::Refused));
}

#[test]
fn an_unanswered_syn_times_out() {
    let mut net = Net::new(Weather { loss: 100, ..Weather::default() }, 1);
    net.open(0);
    net.run(200_000);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::TimedOut));
}

#[test]
fn both_may_open_at_once() {
    let mut net = Net::new(Weather::default(), 1);
    net.open(0);
    net.open(1);
    net.run(3000);
    assert_eq!((net.state(0), net.state(1)), (State::Established, State::Established));
    net.with(0, |t| t.send(Bytes::new(b"crossed")));
    net.run(100);
    net.read(1, 100);
    assert_eq!(net.got[1], b"crossed");
}

#[test]
fn close_passes_through_the_states() {
    let mut net = Net::connected();
    net.with(0, Tcb::shutdown);
    assert_eq!(net.state(0), State::FinWait1);
    net.run(12);
    assert_eq!((net.state(0), net.state(1)), (State::FinWait2, State::CloseWait));
    net.with(1, |t| t.send(Bytes::new(b"half closed")));
    net.run(100);
    net.read(0, 100);
    assert_eq!(net.got[0], b"half closed");
    net.with(1, Tcb::shutdown);
    assert_eq!(net.state(1), State::LastAck);
    net.run(100);
    assert_eq!((net.state(0), net.state(1)), (State::TimeWait, State::Closed));
    net.run(61_000);
    assert_eq!(net.state(0), State::Closed);
}

#[test]
fn both_may_close_at_once() {
    let mut net = Net::connected();
    net.with(0, Tcb::shutdown);
    net.with(1, Tcb::shutdown);
    net.run(6);
    assert_eq!((net.state(0), net.state(1)), (State::Closing, State::Closing));
    net.run(100);
    assert_eq!((net.state(0), net.state(1)), (State::TimeWait, State::TimeWait));
}

#[test]
fn unread_data_at_close_is_a_reset() {
    let mut net = Net::connected();
    net.with(0, |t| t.send(Bytes::new(b"never read")));
    net.run(10);
    let now = net.now;
    let reset = net.ends[1].as_mut().unwrap().close(now).unwrap();
    net.put(1, reset);
    net.run(100);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::Reset));
}

#[test]
fn data_for_one_who_is_gone_is_a_reset() {
    let mut net = Net::connected();
    let now = net.now;
    assert!(net.ends[1].as_mut().unwrap().close(now).is_none());
    net.flush(1);
    net.run(100);
    assert_eq!(net.state(0), State::CloseWait);
    net.with(0, |t| t.send(Bytes::new(b"too late")));
    net.run(100);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::Broken));
}

#[test]
fn a_forged_reset_is_challenged() {
    let mut net = Net::connected();
    let next = net.ends[1].as_ref().unwrap().rcv.nxt;
    net.deliver(1, Segment::bare(next + 100, Seq(0), Flags::RST));
    assert_eq!(net.state(1), State::Established);
    net.run(100);
    net.deliver(1, Segment::bare(next, Seq(0), Flags::RST));
    assert_eq!(net.state(1), State::Closed);
}

#[test]
fn a_closed_window_stops_the_sender_and_opens_again() {
    let mut net = Net::connected();
    let len = 400_000;
    net.with(0, |t| t.send(Bytes::new(&pattern(len, 3))));
    net.run(10_000);
    let readable = net.ends[1].as_ref().unwrap().readable();
    assert!((60_000..140_000).contains(&readable), "{readable}");
    net.run(600_000);
    assert_eq!(
        net.ends[0].as_ref().unwrap().failure(),
        None,
        "probing does not give up while it is answered"
    );
    for _ in 0..1000 {
        net.read(1, 10_000);
        net.run(20);
    }
    assert!(net.got[1] == pattern(len, 3));
}

#[test]
fn small_writes_wait_for_each_other_unless_told_not_to() {
    for (no_delay, expected) in [(false, 2), (true, 5)] {
        let mut net = Net::connected();
        let before = net.count;
        net.with(0, |t| t.config.no_delay = no_delay);
        for _ in 0..5 {
            net.with(0, |t| t.send(Bytes::new(b"x")));
        }
        net.run(300);
        net.read(1, 100);
        assert_eq!(net.got[1], b"xxxxx");
        let data = net.ends[0].as_ref().unwrap().counters.segments_out - 2;
        assert_eq!(data, expected, "{before}");
    }
}

#[test]
fn a_cork_holds_until_pulled() {
    let mut net = Net::connected();
    net.with(0, |t| {
        t.config.cork = true;
        t.send(Bytes::new(b"held"));
    });
    net.run(50);
    assert_eq!(net.ends[1].as_ref().unwrap().readable(), 0);
    net.with(0, |t| {
        t.config.cork = false;
        t.push();
    });
    net.run(50);
    assert_eq!(net.ends[1].as_ref().unwrap().readable(), 4);
}

#[test]
fn keepalive_notices_that_nobody_is_there() {
    let mut net = Net::connected();
    let now = net.now;
    net.with(0, |t| {
        t.config.keepalive_idle_ns = 1000 * MS;
        t.config.keepalive_interval_ns = 100 * MS;
        t.config.keepalive_probes = 3;
        t.set_keepalive(true, now);
    });
    net.run(5000);
    assert_eq!(net.state(0), State::Established, "probes are answered");
    net.weather.loss = 100;
    net.run(5000);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::TimedOut));
}

#[test]
fn the_user_timeout_ends_a_dead_connection() {
    let mut net = Net::connected();
    net.weather.loss = 100;
    net.with(0, |t| {
        t.config.user_timeout_ns = 2000 * MS;
        t.send(Bytes::new(b"hello?"));
    });
    net.run(10_000);
    assert_eq!(net.ends[0].as_ref().unwrap().failure(), Some(Failure::TimedOut));
}

#[test]
fn one_lost_segment_is_sent_again_at_once() {
    let mut net = Net::connected();
    net.with(0, |t| t.send(Bytes::new(&pattern(14_480, 9))));
    let first = *net.wire.first_key_value().unwrap().0;
    net.wire.remove(&first);
    net.run(60);
    assert_eq!(net.ends[1].as_ref().unwrap().readable(), 14_480, "before the timer");
    assert_eq!(net.ends[0].as_ref().unwrap().counters.retransmits, 1);
}

#[test]
fn urgent_data_is_marked() {
    let mut net = Net::connected();
    net.with(0, |t| t.send_urgent(Bytes::new(b"ab!")));
    net.run(20);
    let tcb = net.ends[1].as_mut().unwrap();
    assert_eq!(tcb.urgent_offset(), Some(2));
    assert_eq!(tcb.urgent_byte(), Some(Some(b'!')));
    tcb.take_urgent();
    assert_eq!(tcb.urgent_byte(), Some(None));
}

#[test]
fn old_segments_do_not_reach_a_successor() {
    let mut net = Net::connected();
    net.with(0, |t| t.send(Bytes::new(b"old")));
    let (_, (_, old)) = net.wire.first_key_value().map(|(k, v)| (*k, v.clone())).unwrap();
    net.run(5000);
    net.read(1, 10);
    net.with(0, |t| t.send(Bytes::new(b"new")));
    net.run(100);
    let mut late = old;
    late.seq = net.ends[1].as_ref().unwrap().rcv.nxt;
    net.deliver(1, late);
    net.read(1, 10);
    assert_eq!(net.got[1], b"oldnew", "its timestamp is too old");
}

#[test]
fn many_small_segments_are_bounded() {
    let mut net = Net::connected();
    net.with(0, |t| t.config.no_delay = true);
    for _ in 0..20_000 {
        net.with(0, |t| t.send(Bytes::new(b"y")));
        net.run(0);
    }
    net.run(60_000);
    let tcb = net.ends[1].as_ref().unwrap();
    assert!(tcb.receiving.charged() <= 4 * 131_072 + 1000, "{}", tcb.receiving.charged());
    for _ in 0..100 {
        net.read(1, 1000);
        net.run(1000);
    }
    assert_eq!(net.got[1].len(), 20_000);
}

fn configs() -> impl Strategy<Value = Config> {
    (any::<[bool; 5]>(), 64u16..3000, 2000usize..100_000, any::<bool>()).prop_map(
        |(on, mss, buffer, reno)| Config {
            window_scaling: on[0],
            sack: on[1],
            timestamps: on[2],
            no_delay: on[3],
            burst: if on[4] { 5000 } else { 0 },
            receive_buffer: buffer,
            send_buffer: buffer * 2,
            algorithm: if reno { congestion::Algorithm::Reno } else { congestion::Algorithm::Cubic },
            data_retries: 1000,
            syn_retries: 1000,
            synack_retries: 1000,
            ..Config::new(mss)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_in_order(
        (a, b) in (configs(), configs()),
        (loss, double, jitter_ms) in (0u64..30, 0u64..20, 0u64..30),
        seed in any::<u64>(),
        iss in any::<[u32; 2]>(),
        len in 0usize..120_000,
        piece in 1usize..9000,
        read in 100usize..70_000,
    ) {
        let mut net = Net::new(Weather { loss, double, jitter_ms }, seed);
        net.configs = [a, b];
        net.iss = iss;
        exchange(&mut net, len, piece.max(len / 300 + 1), read);
        prop_assert!(net.resets == 0 || loss + double > 0);
    }

    #[test]
    fn any_segment_is_survived(
        numbers in proptest::collection::vec((any::<u32>(), -3000i64..3000, any::<u8>(), any::<u16>(), 0usize..50, 0u8..8), 1..60)
    ) {
        let mut net = Net::connected();
        net.with(1, |t| t.send(Bytes::new(&pattern(3000, 5))));
        for (wild, near, flags, window, len, which) in numbers {
            let tcb = net.ends[1].as_ref().unwrap();
            let (next, una) = (tcb.rcv.nxt, tcb.snd.una);
            let seq = if which & 1 == 0 { Seq(next.0.wrapping_add(near as u32)) } else { Seq(wild) };
            let ack = if which & 2 == 0 { Seq(una.0.wrapping_add(near as u32)) } else { Seq(wild) };
            let mut s = Segment::bare(seq, ack, Flags(flags & 63));
            s.window = window;
            s.urgent = window;
            s.options = SegOptions { timestamps: (which & 4 == 0).then_some((wild, wild)), ..SegOptions::default() };
            s.options.sack.push((ack, Seq(wild)));
            if len > 0 {
                s.data.push(Bytes::new(&pattern(len, 1)));
            }
            net.deliver(1, s);
            net.run(u64::from(window % 500));
        }
    }
}

/// A segment of any bytes around where `net` is.
fn hostile(net: &mut Net) -> Segment<Bytes> {
    let near = |dice: &mut Dice, at: u32| match dice.roll(8) {
        0 => dice.roll(1 << 32) as u32,
        1 => at,
        _ => at.wrapping_add(dice.roll(200_000) as u32).wrapping_sub(100_000),
    };
    let dice = &mut net.dice;
    let base = net.iss[dice.roll(2) as usize];
    let mut segment = Segment::bare(Seq(near(dice, base)), Seq(near(dice, base)), Flags(dice.roll(64) as u8));
    segment.window = dice.roll(65536) as u16;
    segment.urgent = dice.roll(65536) as u16;
    segment.options = SegOptions {
        mss: (dice.roll(2) == 0).then(|| dice.roll(65536) as u16),
        window_scale: (dice.roll(2) == 0).then(|| dice.roll(15) as u8),
        sack_permitted: dice.roll(2) == 0,
        timestamps: (dice.roll(2) == 0).then(|| (dice.roll(1 << 32) as u32, dice.roll(1 << 32) as u32)),
        sack: (0..dice.roll(5)).map(|_| (Seq(near(dice, base)), Seq(near(dice, base)))).collect(),
    };
    let len = [0, 1, dice.roll(3000), dice.roll(66_000)][dice.roll(4) as usize];
    if len > 0 {
        segment.data.push(Bytes::new(&pattern(len as usize, 3)));
    }
    segment
}

#[test]
fn ends_that_were_set_apart_do_not_answer_each_other_for_ever() {
    let mut net = Net::connected();
    // Each end believes to have received what the other never sent.
    for (to, from) in [(0, 1), (1, 0)] {
        let at = Seq(net.iss[from]) + 1;
        let mut segment = Segment::bare(at, Seq(net.iss[to]) + 1, Flags::ACK);
        segment.window = 1000;
        segment.data.push(Bytes::new(&[7; 100]));
        net.deliver(to, segment);
    }
    let before = net.count;
    net.run(5000);
    assert!(net.count - before < 40, "{} segments", net.count - before);
}

#[test]
fn a_forged_timestamp_outside_of_the_window_does_not_stall() {
    let mut net = Net::connected();
    let recent = net.ends[1].as_ref().unwrap().rcv.ts_recent;
    let (at, ack) = (Seq(net.iss[0]) + 1, Seq(net.iss[1]) + 1);
    let forge = |seq: Seq, ack: Seq| {
        let mut segment = Segment::bare(seq, ack, Flags::ACK);
        segment.options.timestamps = Some((recent.wrapping_add(i32::MAX as u32), 0));
        segment
    };
    // Far before the window, and one in it that acknowledges what was never sent.
    net.deliver(1, forge(Seq(at.0.wrapping_sub(1 << 30)), ack));
    net.deliver(1, forge(at, ack + 1000));
    assert_eq!(net.ends[1].as_ref().unwrap().rcv.ts_recent, recent);
    net.with(0, |tcb| tcb.send(Bytes::new(&[5; 1000])));
    net.run(1000);
    net.read(1, 2000);
    assert_eq!(net.got[1], [5; 1000]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn hostile_segments_do_no_harm(seed in any::<u64>(), config in configs(), rounds in 1usize..200) {
        let mut net = Net::new(Weather::default(), seed);
        net.configs = [config.clone(), config];
        net.open(0);
        net.run(100);
        for round in 0..rounds {
            let (to, segment) = (net.dice.roll(2) as usize, hostile(&mut net));
            net.deliver(to, segment);
            if let Some(tcb) = net.ends[to].as_mut().filter(|tcb| tcb.can_send() && tcb.has_room()) {
                tcb.send(Bytes::new(&pattern(500, 4)));
            }
            if round % 3 == 0 {
                net.run(50);
                net.read(to, 10_000);
            }
        }
    }
}
