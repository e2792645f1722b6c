use super::*;

const DAY: i64 = 20_000 * SECONDS_PER_DAY;

fn ask(modes: u32) -> Request {
    Request { modes, ..Request::default() }
}

/// Nanoseconds of a rate.
fn ns(rate: Rate) -> i64 {
    rate.0 >> SHIFT
}

/// A clock that a daemon keeps, in second `at`.
fn locked(at: i64) -> Discipline {
    let mut clock = Discipline::new();
    clock.clock_was_set(at);
    clock.adjust(&Request { status: sta::PLL, ..ask(adj::STATUS | adj::NANO) }, at);
    clock.adjust(&Request { constant: 0, ..ask(adj::TIMECONST | adj::MAXERROR) }, at);
    clock
}

#[test]
fn frequency_and_tick_are_the_rate() {
    let mut clock = Discipline::new();
    assert_eq!((clock.rate(), clock.is_busy(), clock.verdict()), (Rate(0), false, 5));
    clock.adjust(&Request { freq: 100 << 16, ..ask(adj::FREQUENCY) }, 0);
    assert_eq!((ns(clock.rate()), clock.freq()), (100_000, 100 << 16));
    clock.adjust(&Request { freq: -7, ..ask(adj::FREQUENCY) }, 0);
    assert_eq!(clock.freq(), -7);
    clock.adjust(&Request { freq: i64::MAX, ..ask(adj::FREQUENCY) }, 0);
    assert_eq!((ns(clock.rate()), clock.freq()), (500_000, TOLERANCE));
    clock.adjust(&Request { tick: 9_000, ..ask(adj::TICK | adj::FREQUENCY) }, 0);
    assert_eq!((ns(clock.rate()), clock.tick_us(), clock.freq()), (-100_000_000, 9_000, 0));
    assert!(!clock.is_busy(), "a steady rate needs nobody");
}

#[test]
fn adjtime_goes_half_a_millisecond_a_second() {
    let mut clock = Discipline::new();
    assert_eq!(clock.replace_adjustment(-1200), 0);
    let mut corrected = 0;
    for second in 1..=5 {
        assert_eq!(clock.advance(second), None);
        corrected += ns(clock.rate());
    }
    assert_eq!((corrected, clock.replace_adjustment(0)), (-1_200_000, 0));
    clock.advance(6);
    assert_eq!((clock.rate(), clock.is_busy()), (Rate(0), false));
}

#[test]
fn an_offset_is_corrected_by_a_quarter_of_the_rest_a_second() {
    let mut clock = locked(0);
    clock.adjust(&Request { offset: 1_000_000, ..ask(adj::OFFSET) }, 0);
    assert_eq!((clock.offset(), clock.rate()), (1_000_000, Rate(0)), "from the next second on");
    let mut corrected = 0;
    for second in 1..=200 {
        clock.advance(second);
        corrected += clock.rate().0;
    }
    assert!((999_999..=1_000_000).contains(&(corrected >> SHIFT)));
    assert_eq!((clock.offset(), clock.is_busy()), (0, false));
}

#[test]
fn offsets_that_come_again_and_again_change_the_frequency() {
    let mut clock = locked(0);
    for second in (16..=160).step_by(16) {
        clock.advance(second);
        clock.adjust(&Request { offset: 10_000, ..ask(adj::OFFSET) }, second);
    }
    assert!(clock.freq() > 0);
    let mut held = locked(0);
    held.adjust(&Request { status: sta::PLL | sta::FREQHOLD, ..ask(adj::STATUS) }, 0);
    held.adjust(&Request { offset: 10_000, ..ask(adj::OFFSET) }, 16);
    assert_eq!(held.freq(), 0);
    let mut rare = locked(0);
    rare.adjust(&Request { offset: -10_000, ..ask(adj::OFFSET) }, 5000);
    assert_ne!(rare.status() & sta::MODE, 0, "the frequency-locked loop");
    assert!(rare.freq() < 0);
    let mut free = Discipline::new();
    free.adjust(&Request { offset: 10_000, ..ask(adj::OFFSET) }, 16);
    assert_eq!(free.offset(), 0, "nobody locked it");
}

#[test]
fn a_second_is_inserted_at_midnight() {
    let mut clock = locked(DAY - 100);
    clock.adjust(&Request { status: sta::PLL | sta::INS, ..ask(adj::STATUS) }, DAY - 100);
    assert_eq!(clock.advance(DAY - 99), None);
    assert_eq!(clock.verdict(), State::Insert as u8);
    for second in DAY - 98..DAY {
        assert_eq!(clock.advance(second), None);
    }
    assert_eq!(clock.advance(DAY), Some(Leap::Back));
    clock.leapt(Leap::Back, DAY - 1);
    assert_eq!((clock.verdict(), clock.tai_s()), (State::InProgress as u8, 1));
    assert_eq!((clock.advance(DAY), clock.verdict()), (None, State::Wait as u8));
    assert_eq!(clock.advance(DAY + 5), None);
    clock.adjust(&Request { status: sta::PLL, ..ask(adj::STATUS) }, DAY + 5);
    assert_eq!((clock.advance(DAY + 6), clock.verdict()), (None, State::Ok as u8));
    assert!(!clock.is_busy());
}

#[test]
fn a_second_is_left_out_before_midnight() {
    let mut clock = locked(DAY - 10);
    clock.adjust(&Request { status: sta::PLL | sta::DEL, ..ask(adj::STATUS) }, DAY - 10);
    assert_eq!((clock.advance(DAY - 9), clock.verdict()), (None, State::Delete as u8));
    // The call comes late.
    assert_eq!(clock.advance(DAY + 3), Some(Leap::Forward));
    clock.leapt(Leap::Forward, DAY + 4);
    assert_eq!((clock.verdict(), clock.tai_s()), (State::Wait as u8, -1));
}

#[test]
fn a_leap_that_is_taken_back_does_not_come() {
    for back in [0, sta::PLL] {
        let mut clock = locked(DAY - 10);
        clock.adjust(&Request { status: sta::PLL | sta::INS, ..ask(adj::STATUS) }, DAY - 10);
        clock.advance(DAY - 9);
        clock.adjust(&Request { status: back, ..ask(adj::STATUS) }, DAY - 9);
        assert_eq!(clock.advance(DAY + 9), None);
        assert!(!clock.is_busy());
    }
}

#[test]
fn errors_grow_until_nobody_trusts_the_clock() {
    let mut clock = locked(0);
    assert_eq!(clock.verdict(), 0);
    clock.advance(10);
    assert_eq!(clock.errors_us().0, 5000);
    clock.advance(40_000);
    assert_eq!((clock.errors_us().0, clock.verdict()), (16_000_000, 5));
    assert_ne!(clock.status() & sta::UNSYNC, 0);
}

#[test]
fn setting_the_clock_forgets_what_was_going_on() {
    let mut clock = locked(0);
    clock.adjust(&Request { offset: 1_000_000, freq: 5 << 16, ..ask(adj::OFFSET | adj::FREQUENCY) }, 0);
    clock.replace_adjustment(400);
    clock.advance(1);
    clock.clock_was_set(1000);
    assert_eq!((clock.offset(), clock.adjustment_us(), ns(clock.rate())), (0, 0, 5000));
    assert_eq!(clock.verdict(), 5);
}

#[test]
fn nothing_that_is_asked_overflows() {
    let wild = [i64::MIN, -1, 0, 1, 20_000, i64::MAX];
    for value in wild {
        for nano in [adj::NANO, adj::MICRO] {
            for now_s in [0, 1 << 40] {
                let mut clock = locked(0);
                let all = Request {
                    modes: 0xff | nano | adj::TICK,
                    offset: value,
                    freq: value,
                    maxerror: value,
                    esterror: value,
                    status: value as u32 | sta::PLL,
                    constant: value,
                    tick: value,
                };
                clock.adjust(&all, now_s);
                clock.replace_adjustment(value);
                for later in [1, 2, 5000, 1 << 41] {
                    clock.advance(now_s + later);
                    assert!(clock.rate().0.abs() < 1_000_000_000 << SHIFT);
                }
                let _ = (clock.offset(), clock.freq(), clock.errors_us());
            }
        }
    }
}
