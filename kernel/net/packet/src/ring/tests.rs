use alloc::vec::Vec;

use net_core::SockType;
use net_inet::tap::{Frame, Way};

use super::*;

fn shape(block_size: usize, nr_blocks: usize, frame_size: usize) -> Shape {
    let nr_frames = block_size / frame_size * nr_blocks;
    Shape { block_size, nr_blocks, frame_size, nr_frames, patience_ms: 10, ..Shape::default() }
}

fn frame(len: usize) -> Frame {
    let bytes: Vec<u8> = (0..len).map(|i| if i < 12 { 0 } else { i as u8 }).collect();
    Frame { time_ns: 5_000_000_007, ..Frame::new(bytes, 0x800, 0, 0) }
}

fn arrival(frame: &Frame) -> Arrival<'_> {
    let view = View::new(SockType::Raw, frame, Way::Host);
    Arrival { view, len: frame.bytes.len(), is_losing: false, header: 0, stamp_status: 0 }
}

#[test]
fn shapes_are_checked() {
    let check = |shape: Shape| shape.check(Version::V2, Side::Receive, 0);
    let good = shape(8192, 2, 2048);
    assert_eq!(check(good), Ok(()));
    for bad in [
        Shape { block_size: 0, ..good },
        Shape { block_size: 8200, ..good },
        Shape { frame_size: 48, ..good },
        Shape { frame_size: 2040, ..good },
        Shape { frame_size: 16384, ..good },
        Shape { nr_frames: 9, ..good },
        Shape { nr_blocks: usize::MAX, ..good },
    ] {
        assert_eq!(check(bad), Err(Errno::EINVAL), "{bad:?}");
    }
    assert_eq!(Shape { private: 9000, ..good }.check(Version::V3, Side::Receive, 0), Err(Errno::EINVAL));
    assert_eq!(good.check(Version::V3, Side::Send, 0), Err(Errno::EINVAL), "a time limit");
    assert_eq!(Shape::parse(&[0; 15], Version::V2), Err(Errno::EINVAL));
}

#[test]
fn frames_are_filled_until_the_reader_has_all() {
    let shape = shape(4096, 2, 1024);
    let memory = Arc::new(Memory::new(8192).unwrap());
    let mut ring = frames::Frames::new(memory.clone(), shape, Version::V2, 0);
    let packet = frame(60);
    assert!(!ring.is_readable() && ring.room() == Room::Normal);
    for nr in 0..8 {
        assert!(ring.put(&arrival(&packet)).is_stored, "{nr}");
    }
    assert!(!ring.put(&arrival(&packet)).is_stored && ring.room() == Room::None);
    // The second frame: length, kept length, places, seconds, nanoseconds.
    let word = |at: usize| memory.word(1024 + at);
    assert_eq!([word(0), word(4), word(8), word(16), word(20)], [1, 60, 60, 5, 7]);
    assert_eq!((word(12) & 0xffff, word(12) >> 16), (66, 80));
    let mut bytes = [0; 60];
    memory.read(1024 + 66, &mut bytes);
    assert_eq!(bytes[..], packet.bytes[..]);
    memory.set_status(0, 0);
    assert!(ring.put(&arrival(&packet)).is_stored);
}

#[test]
fn what_does_not_fit_into_a_frame_is_cut() {
    let memory = Arc::new(Memory::new(4096).unwrap());
    let mut ring = frames::Frames::new(memory.clone(), shape(4096, 1, 128), Version::V1, 0);
    let packet = frame(200);
    assert!(ring.put(&arrival(&packet)).is_stored);
    // Version 1 has a status of 64 bits, and microseconds.
    assert_eq!([memory.word(8), memory.word(12), memory.word(24)], [200, 128 - 66, 0]);
}

#[test]
fn blocks_are_given_out_when_full_or_late() {
    let memory = Arc::new(Memory::new(8192).unwrap());
    let mut ring = blocks::Blocks::new(memory.clone(), shape(4096, 2, 2048), 0);
    let packet = frame(1000);
    // 82 + 1000 bytes, padded: three in a block.
    let first = ring.put(&arrival(&packet), 0);
    assert_eq!((first.is_stored, first.is_readable, first.deadline_ns), (true, false, Some(10_000_000)));
    assert!(ring.put(&arrival(&packet), 0).is_stored && ring.put(&arrival(&packet), 0).is_stored);
    let fourth = ring.put(&arrival(&packet), 0);
    assert!(fourth.is_stored && fourth.is_readable && !fourth.froze && ring.is_readable());
    // Version, status, packets, first, length, number.
    assert_eq!([memory.word(0), memory.word(8), memory.word(12), memory.word(16)], [2, 1, 3, 48]);
    assert_eq!([memory.word(20), memory.word(24)], [48 + 3 * 1088, 1]);
    let next = memory.word(48) as usize;
    assert_eq!((next, memory.word(48 + next), memory.word(48 + 2 * next)), (1088, 1088, 0));
    assert!(!ring.expire(9_999_999).is_readable, "not yet");
    let late = ring.expire(10_000_000);
    assert!(late.is_readable && late.froze, "the first block is still the reader's");
    assert_eq!([memory.word(4096 + 8), memory.word(4096 + 12), memory.word(4096 + 24)], [1 | 32, 1, 2]);
    assert!(!ring.put(&arrival(&packet), 0).is_stored);
    memory.set_status(8, 0);
    assert!(ring.put(&arrival(&packet), 0).is_stored);
}

#[test]
fn memory_is_written_across_pages() {
    let memory = Memory::new(8192).unwrap();
    memory.write(4090, &[7; 12]);
    let mut back = [0; 12];
    memory.read(4090, &mut back);
    assert_eq!(back, [7; 12]);
    memory.write(8190, &[1; 100]);
    memory.read(8190, &mut back);
    assert_eq!(back[..3], [1, 1, 7]);
}
