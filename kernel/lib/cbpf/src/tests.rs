use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

const LOAD_NR: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 0 };
const ALLOW: u32 = 0x7fff_0000;

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn ret(k: u32) -> Instruction {
    op(0x06, k)
}

fn program(source: &[Instruction]) -> Result<Program, Invalid> {
    Program::new(source.to_vec()).unwrap()
}

#[track_caller]
fn result(source: &[Instruction], data: &Data) -> u32 {
    program(source).unwrap().run(data)
}

#[test]
fn the_usual_filter_decides_by_number() {
    let filter = [LOAD_NR, jump(0x15, 39, 0, 1), ret(5), ret(ALLOW)];
    assert_eq!(result(&filter, &Data { nr: 39, ..Data::default() }), 5);
    assert_eq!(result(&filter, &Data { nr: 40, ..Data::default() }), ALLOW);
}

#[test]
fn every_word_of_the_data_can_be_loaded() {
    let data = Data {
        nr: 1,
        arch: 2,
        instruction_pointer: 4 << 32 | 3,
        args: [6 << 32 | 5, 0, 0, 0, 0, 16 << 32 | 15],
    };
    for (word, wanted) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (14, 15), (15, 16)] {
        assert_eq!(result(&[op(0x20, word * 4), op(0x16, 0)], &data), wanted);
    }
    for bad in [64, 2, 61, u32::MAX] {
        assert!(program(&[op(0x20, bad), ret(0)]).is_err(), "{bad}");
    }
}

#[test]
fn arithmetic_wraps_and_division_by_zero_ends() {
    let run = |code: u16, a: u32, k: u32| result(&[op(0x00, a), op(code, k), op(0x16, 0)], &Data::default());
    assert_eq!(run(0x04, u32::MAX, 2), 1);
    assert_eq!(run(0x14, 0, 1), u32::MAX);
    assert_eq!(run(0x34, 9, 2), 4);
    assert_eq!(run(0x64, 1, 31), 1 << 31);
    assert_eq!(run(0x84, 1, 0), u32::MAX, "negation");
    let by_x = [op(0x00, 9), op(0x01, 0), op(0x3c, 0), ret(7)];
    assert_eq!(result(&by_x, &Data::default()), 0);
}

#[test]
fn what_linux_refuses_is_refused() {
    let refused: [&[Instruction]; 12] = [
        &[],
        &[LOAD_NR],                     // does not return
        &[op(0x34, 0), ret(0)],         // division by 0
        &[op(0x64, 32), ret(0)],        // shift by 32
        &[op(0x94, 2), ret(0)],         // modulo is not for seccomp
        &[op(0x05, 1), ret(0)],         // jump out
        &[jump(0x15, 0, 1, 0), ret(0)], // likewise
        &[op(0x60, 0), ret(0)],         // reads what was not written
        &[op(0x02, 16), ret(0)],        // no such word
        &[op(0x30, 0), ret(0)],         // byte load
        &[op(0x40, 0), ret(0)],         // indexed load
        &[op(0xb1, 0), ret(0)],         // header length
    ];
    for source in refused {
        assert_eq!(program(source).map(drop), Err(Invalid), "{source:x?}");
    }
    let long = vec![op(0, 0); MAX_LEN];
    let mut fits = long.clone();
    fits[MAX_LEN - 1] = ret(3);
    assert_eq!(result(&fits, &Data::default()), 3);
    assert!(program(&[long, vec![ret(3)]].concat()).is_err());
}

#[test]
fn scratch_words_must_be_written_on_every_path() {
    // if nr == 0 then M[0] = A; A = M[0]
    let one_path = [LOAD_NR, jump(0x15, 0, 0, 1), op(0x02, 0), op(0x60, 0), op(0x16, 0)];
    assert!(program(&one_path).is_err());
    let both = [LOAD_NR, op(0x02, 0), jump(0x15, 0, 0, 1), op(0x02, 0), op(0x60, 0), op(0x16, 0)];
    assert_eq!(result(&both, &Data { nr: 8, ..Data::default() }), 8);
}

#[test]
fn results_that_need_no_arguments_are_known_before() {
    let filter = [LOAD_NR, jump(0x15, 1, 1, 0), ret(ALLOW), op(0x20, 16), op(0x16, 0)];
    let filter = program(&filter).unwrap();
    assert_eq!(filter.constant(0, 0), Some(ALLOW));
    assert_eq!(filter.constant(1, 0), None);
}

/// The machine again, straight from the encoded instructions.
fn model(source: &[Instruction], words: &[u32; 16]) -> u32 {
    let (mut a, mut x, mut m, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let i = source[at];
        let b = if i.code & 8 == 0 { i.k } else { x };
        at += 1;
        match i.code {
            0x20 => a = words[i.k as usize / 4],
            0x00 => a = i.k,
            0x01 => x = i.k,
            0x80 => a = 64,
            0x81 => x = 64,
            0x60 => a = m[i.k as usize],
            0x61 => x = m[i.k as usize],
            0x02 => m[i.k as usize] = a,
            0x03 => m[i.k as usize] = x,
            0x04 | 0x0c => a = a.wrapping_add(b),
            0x14 | 0x1c => a = a.wrapping_sub(b),
            0x24 | 0x2c => a = a.wrapping_mul(b),
            0x34 | 0x3c if b == 0 => return 0,
            0x34 | 0x3c => a /= b,
            0x44 | 0x4c => a |= b,
            0x54 | 0x5c => a &= b,
            0x64 | 0x6c => a <<= b & 31,
            0x74 | 0x7c => a >>= b & 31,
            0xa4 | 0xac => a ^= b,
            0x84 => a = 0u32.wrapping_sub(a),
            0x05 => at += i.k as usize,
            0x15 | 0x1d => at += usize::from(if a == b { i.jt } else { i.jf }),
            0x25 | 0x2d => at += usize::from(if a > b { i.jt } else { i.jf }),
            0x35 | 0x3d => at += usize::from(if a >= b { i.jt } else { i.jf }),
            0x45 | 0x4d => at += usize::from(if a & b != 0 { i.jt } else { i.jf }),
            0x06 => return i.k,
            0x16 => return a,
            0x07 => x = a,
            0x87 => a = x,
            _ => panic!("the checker let {i:x?} pass"),
        }
    }
}

const CODES: [u16; 43] = [
    0x20, 0x00, 0x01, 0x80, 0x81, 0x60, 0x61, 0x02, 0x03, 0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c,
    0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0xa4, 0xac, 0x84, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35,
    0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07, 0x87, 0x30, 0x94,
];

fn instruction() -> impl Strategy<Value = Instruction> {
    let k = prop_oneof![0u32..16, Just(4), Just(60), any::<u32>()];
    (prop::sample::select(&CODES[..]), 0u8..4, 0u8..4, k).prop_map(|(code, jt, jf, k)| Instruction {
        code,
        jt,
        jf,
        k,
    })
}

proptest! {
    #[test]
    fn any_program_is_refused_or_runs_like_the_model(
        mut source in prop::collection::vec(instruction(), 0..24),
        words in any::<[u32; 16]>(),
    ) {
        source.push(op(0x16, 0));
        let Ok(program) = program(&source) else { return Ok(()) };
        let pair = |n: usize| u64::from(words[n]) | u64::from(words[n + 1]) << 32;
        let data = Data {
            nr: words[0],
            arch: words[1],
            instruction_pointer: pair(2),
            args: [4, 6, 8, 10, 12, 14].map(pair),
        };
        prop_assert_eq!(program.run(&data), model(&source, &words));
        prop_assert_eq!(program.source(), &source[..]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(raw in prop::collection::vec(any::<(u16, u8, u8, u32)>(), 0..64)) {
        let source: Vec<_> = raw.into_iter().map(|(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
        if let Ok(program) = program(&source) {
            program.run(&Data::default());
        }
    }
}

/// A packet with a link header of two bytes.
struct Bytes<'a>(&'a [u8]);

impl Packet for Bytes<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }
    fn network(&self) -> &[u8] {
        self.0.get(2..).unwrap_or_default()
    }
    fn link(&self) -> &[u8] {
        self.0
    }
    fn ancillary(&self, which: Ancillary) -> u32 {
        if which == Ancillary::Protocol { 0x800 } else { 7 }
    }
}

#[track_caller]
fn filtered(source: &[Instruction], packet: &[u8]) -> u32 {
    Filter::new(source.to_vec()).unwrap().unwrap().run(&Bytes(packet))
}

#[test]
fn filters_read_packets() {
    let ret_a = op(0x16, 0);
    let packet = [0x45, 1, 2, 3, 4, 5, 6, 7];
    for (load, wanted) in [
        (op(0x20, 1), 0x0102_0304),
        (op(0x28, 6), 0x0607),
        (op(0x30, 7), 7),
        (op(0x30, 8), 0),
        (op(0x28, 7), 0),
        (op(0x20, u32::MAX - 0x3f_ffff), 0),
        (op(0x80, 0), 8),
        (op(0x28, -0x10_0000_i32 as u32), 0x0203),
        (op(0x28, -0x20_0000_i32 as u32), 0x4501),
        (op(0x28, -0x1000_i32 as u32), 0x800),
        (op(0x20, (-0x1000_i32 + 4) as u32), 7),
    ] {
        assert_eq!(filtered(&[load, ret_a], &packet), wanted, "{load:?}");
    }
    // X = 4 * (byte 0 & 15) = 20; X = 2, byte at X + 3.
    assert_eq!(filtered(&[op(0xb1, 0), op(0x87, 0), ret_a], &packet), 20);
    assert_eq!(filtered(&[op(0x01, 2), op(0x50, 3), ret_a], &packet), 5);
    assert_eq!(filtered(&[op(0x00, 9), op(0x94, 4), ret_a], &packet), 1, "remainder");
}

#[test]
fn filters_find_attributes() {
    // Two attributes: type 1 with 2 bytes, type 2 with one of type 5 inside.
    let packet = [6, 0, 1, 0, 9, 9, 0, 0, 12, 0, 2, 0, 8, 0, 5, 0, 1, 2, 3, 4];
    let find = |a: u32, x: u32, which: i32| {
        filtered(&[op(0x00, a), op(0x01, x), op(0x20, (-0x1000 + which) as u32), op(0x16, 0)], &packet)
    };
    assert_eq!((find(0, 2, 12), find(0, 3, 12), find(8, 5, 16)), (8, 0, 12));
}

#[test]
fn each_kind_of_program_has_its_own_loads() {
    let ret = ret(0);
    for load in [op(0x28, 0), op(0x30, 0), op(0x40, 0), op(0xb1, 0), op(0x94, 3)] {
        assert!(program(&[load, ret]).is_err());
        assert!(Filter::new([load, ret].to_vec()).unwrap().is_ok());
    }
    for bad in [op(0x38, 0), op(0x20, (-0x1000_i32 + 2) as u32), op(0x94, 0), op(0xa1, 0)] {
        assert!(Filter::new([bad, ret].to_vec()).unwrap().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn filters_end_on_any_packet(
        source in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 1..30),
        packet in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut source: Vec<_> = source
            .into_iter()
            .map(|(code, jt, jf, k)| Instruction { code: code & 0xff, jt: jt % 4, jf: jf % 4, k: k >> (k % 32) })
            .filter(|&one| Filter::new([one, ret(1), ret(1), ret(1), ret(1), ret(1)].to_vec()).unwrap().is_ok())
            .collect();
        source.extend([ret(1); 5]);
        if let Ok(filter) = Filter::new(source).unwrap() {
            filter.run(&Bytes(&packet));
        }
    }
}

#[test]
fn one_run_looks_at_so_many_attributes() {
    // 16384 attributes of type 1 without data.
    let bytes: Vec<u8> = (0..16384).flat_map(|_| [4u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat()).collect();
    let load = -0x1000_i32 as u32 + 12;
    // `times` times one of type 2 is looked for, of which there is none, and then the first one of type 1 from 4 on.
    let found = |times: usize| {
        let mut source = Vec::from([op(0x01, 2), op(0x00, 0)]);
        source.extend((0..times).map(|_| op(0x20, load)));
        source.extend([op(0x01, 1), op(0x00, 4), op(0x20, load), op(0x16, 0)]);
        filtered(&source, &bytes)
    };
    assert_eq!([found(1), found(3), found(4), found(100)], [4, 4, 0, 0]);
}
