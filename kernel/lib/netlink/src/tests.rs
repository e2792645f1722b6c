//! Tests: what was written is read back, and nothing that is read can lead outside.

use proptest::prelude::*;

use super::*;

fn header(kind: u16) -> Header {
    Header { len: 0, kind, flags: MULTI, seq: 7, port: 9 }
}

#[test]
fn a_message_is_read_back() {
    let bytes = Builder::new(header(20))
        .put(&[1, 2, 3, 4])
        .word(1, 0xdead_beef)
        .text(2, b"lo")
        .nest(3, |inner| {
            inner.byte(1, 5).half(2, 6);
        })
        .finish();
    let message = messages(&bytes).next().unwrap();
    assert_eq!(message.header, Header { len: bytes.len() as u32, ..header(20) });
    let (fixed, rest) = message.body.split_at(4);
    assert_eq!(fixed, [1, 2, 3, 4]);
    let all: Vec<_> = attributes(rest).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0].as_u32(), Some(0xdead_beef));
    assert_eq!((all[1].data, all[1].as_str()), (&b"lo\0"[..], &b"lo"[..]));
    assert_eq!(all[2].nested().map(|inner| inner.kind).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(all[2].nested().find(2).and_then(|inner| inner.as_u16()), Some(6));
}

#[test]
fn the_last_of_equal_attributes_counts() {
    let bytes = Builder::new(header(1)).word(4, 1).word(4, 2).finish();
    assert_eq!(attributes(&bytes[HEADER_LEN..]).find(4).unwrap().as_u32(), Some(2));
}

#[test]
fn what_is_too_large_is_left_out() {
    let large = vec![0; MAX_ATTRIBUTE + 1];
    let bytes = Builder::new(header(1)).attribute(1, &large).finish();
    assert_eq!(bytes.len(), HEADER_LEN);
    let nested = Builder::new(header(1))
        .nest(1, |inner| {
            inner.attribute(1, &large[..40_000]).attribute(2, &large[..40_000]);
        })
        .finish();
    assert_eq!(nested.len(), HEADER_LEN);
    assert!(Builder::new(header(1)).attribute(1, &large[..MAX_ATTRIBUTE]).finish().len() > MAX_ATTRIBUTE);
}

#[test]
fn messages_end_at_the_first_bad_length() {
    let one = Builder::new(header(1)).put(&[1, 2, 3]).finish();
    assert_eq!(one.len(), 19);
    // Without its padding it is the last one.
    assert_eq!(messages(&one).count(), 1);
    let mut two = one.clone();
    two.push(0);
    two.extend_from_slice(&one);
    assert_eq!(messages(&two).count(), 2);
    assert_eq!(messages(&two[..two.len() - 1]).count(), 1);
    for len in [0, 15, 1000, u32::MAX] {
        let bytes = Header { len, ..header(1) }.to_bytes();
        assert_eq!(messages(&bytes).count(), 0, "{len}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut total = 0;
        for message in messages(&bytes) {
            total += message.body.len() + HEADER_LEN;
            prop_assert_eq!(message.body.len() + HEADER_LEN, message.header.len as usize);
            for attribute in attributes(message.body) {
                prop_assert!(attribute.data.len() <= message.body.len());
                attribute.nested().for_each(drop);
            }
        }
        prop_assert!(total <= bytes.len());
        prop_assert!(attributes(&bytes).map(|a| a.data.len() + ATTRIBUTE_LEN).sum::<usize>() <= bytes.len());
    }

    #[test]
    fn short_lengths_are_read_to_an_end(lens in prop::collection::vec(0u8..40, 0..60)) {
        // Bytes that often make good lengths.
        let bytes: Vec<u8> = lens.iter().flat_map(|&len| [len, 0, 1, 0]).collect();
        let found: usize = attributes(&bytes).map(|a| (a.data.len() + ATTRIBUTE_LEN).next_multiple_of(ALIGN)).sum();
        prop_assert!(found <= bytes.len().next_multiple_of(ALIGN) + ALIGN);
    }

    #[test]
    fn attributes_are_read_back(
        parts in prop::collection::vec((0u16..=TYPE_MASK, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut builder = Builder::new(header(30));
        for (kind, data) in &parts {
            builder.attribute(*kind, data);
        }
        let bytes = builder.finish();
        let message = messages(&bytes).next().unwrap();
        let found: Vec<_> = attributes(message.body).map(|a| (a.kind, a.data.to_vec())).collect();
        prop_assert_eq!(found, parts);
    }
}
