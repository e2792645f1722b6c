//! Messages byte for byte, and replies that nobody should send.

use proptest::prelude::*;

use crate::{Attributes, Change, Entries, Error, Lock, Qid, Reader, Request, Statfs, kind, reply, xattr_len};

fn message(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from((7 + body.len() as u32).to_le_bytes());
    bytes.push(kind);
    bytes.extend(tag.to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn requests_are_as_the_protocol_says() {
    let version = Request::Version { msize: 8192, version: b"9P2000.L" };
    let expected = b"\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\x009P2000.L";
    assert_eq!(version.encode(crate::NO_TAG).unwrap(), expected);
    let walk = Request::Walk { fid: 1, new_fid: 2, names: &[b"ab", b"c"] };
    let expected = b"\x18\0\0\0\x6e\x05\0\x01\0\0\0\x02\0\0\0\x02\0\x02\0ab\x01\0c";
    assert_eq!(walk.encode(5).unwrap(), expected);
    // The data of a write counts, though it is elsewhere.
    let write = Request::Write { fid: 1, offset: 2, count: 100 }.encode(1).unwrap();
    assert_eq!((write.len(), &write[..5]), (23, &b"\x7b\0\0\0\x76"[..]));
}

#[test]
fn what_stays_is_not_valid() {
    let change = Change { size: Some(9), mtime: Some((1, 2)), ..Change::default() };
    let bytes = Request::SetAttr { fid: 3, change }.encode(1).unwrap();
    assert_eq!(bytes.len(), 7 + 4 + 4 + 12 + 8 + 32);
    assert_eq!(bytes[11..15], (0x40u32 | 8 | 0x20 | 0x100).to_le_bytes());
    assert_eq!(bytes[19..27], [0xff; 8]);
}

#[test]
fn a_request_that_does_not_fit_is_none() {
    let long = vec![b'x'; 70_000];
    let name = Request::ReadLink { fid: 1 };
    assert!(name.encode(1).is_ok());
    assert_eq!(Request::Link { dir: 1, fid: 2, name: &long }.encode(1), Err(Error::TooLong));
    let names = [&b"x"[..]; 17];
    assert_eq!(Request::Walk { fid: 1, new_fid: 2, names: &names }.encode(1), Err(Error::TooLong));
    assert_eq!(Request::Write { fid: 1, offset: 0, count: u32::MAX }.encode(1), Err(Error::TooLong));
}

#[test]
fn replies_answer_their_request() {
    let good = message(kind::CLUNK + 1, 7, b"");
    assert!(reply(&good, kind::CLUNK, 7).unwrap().is_empty());
    assert!(matches!(reply(&good, kind::CLUNK, 8), Err(Error::Malformed(_))));
    assert!(matches!(reply(&good, kind::READ, 7), Err(Error::Malformed(_))));
    let refused = message(kind::RLERROR, 7, &2u32.to_le_bytes());
    assert_eq!(reply(&refused, kind::CLUNK, 7).unwrap_err(), Error::Refused(2));
    for len in 0..refused.len() {
        assert!(matches!(reply(&refused[..len], kind::CLUNK, 7), Err(Error::Malformed(_))));
    }
    // What lies behind the message is not of it.
    let mut more = good.clone();
    more.extend([1, 2, 3]);
    assert!(reply(&more, kind::CLUNK, 7).unwrap().is_empty());
    assert!(matches!(reply(&[6, 0, 0, 0, 121, 7, 0], kind::CLUNK, 7), Err(Error::Malformed(_))));
}

#[test]
fn counts_are_held_against_what_was_asked() {
    let bytes = 12u32.to_le_bytes();
    assert_eq!(Reader::new(&bytes).count(12), Ok(12));
    assert!(matches!(Reader::new(&bytes).count(11), Err(Error::Malformed(_))));
    let mut walk = vec![2, 0];
    walk.extend([0; 26]);
    assert_eq!(Reader::new(&walk).walked(2), Ok((2, Some(Qid::default()))));
    assert!(Reader::new(&walk).walked(1).is_err());
    assert!(Reader::new(&walk[..20]).walked(2).is_err());
    assert_eq!(xattr_len(&mut Reader::new(&(1u64 << 40).to_le_bytes())), Err(Error::TooLong));
}

#[test]
fn directories_are_taken_apart() {
    let mut bytes = Vec::new();
    for (next, name) in [(1u64, &b"."[..]), (9, b"a/b"), (12, b"file")] {
        bytes.extend([0; 13]);
        bytes.extend(next.to_le_bytes());
        bytes.push(8);
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name);
    }
    let entries: Vec<_> = Entries::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(
        entries.iter().map(|e| (e.next, e.is_sane())).collect::<Vec<_>>(),
        [(1, true), (9, false), (12, true)]
    );
    assert_eq!(Entries::new(&bytes[..bytes.len() - 1]).filter(Result::is_err).count(), 1);
}

/// A request of each shape, with these bytes as names.
fn requests<'a>(name: &'a [u8], names: &'a [&'a [u8]], number: u32) -> Vec<Request<'a>> {
    let (fid, dir, flags, offset) = (number, number, number, u64::from(number));
    let lock = Lock { kind: 1, start: offset, len: offset, proc_id: number, client: name };
    vec![
        Request::Version { msize: number, version: name },
        Request::Attach { fid, uname: name, aname: name, uid: number },
        Request::Flush { tag: number as u16 },
        Request::Walk { fid, new_fid: fid, names },
        Request::Create { fid, name, flags, mode: number, gid: number },
        Request::Read { fid, offset, count: number },
        Request::SetAttr { fid, change: Change { uid: Some(number), ..Change::default() } },
        Request::XattrCreate { fid, name, size: offset, flags },
        Request::Lock { fid, flags, lock },
        Request::GetLock { fid, lock },
        Request::RenameAt { old_dir: dir, old_name: name, new_dir: dir, new_name: name },
        Request::Symlink { dir, name, target: name, gid: number },
        Request::MakeNode { dir, name, mode: number, major: number, minor: number, gid: number },
    ]
}

proptest! {
    /// Whatever comes: no panic, and nothing is given that is not in the bytes.
    #[test]
    fn hostile_replies_are_told(bytes in proptest::collection::vec(any::<u8>(), 0..300), wanted in any::<u8>(), tag in any::<u16>()) {
        if let Ok(body) = reply(&bytes, wanted, tag) {
            prop_assert!(body.len() + 7 <= bytes.len());
        }
        let _ = Reader::new(&bytes).attributes();
        let _ = Reader::new(&bytes).statfs();
        let _ = Reader::new(&bytes).walked(16);
        let _ = Reader::new(&bytes).string();
        let total: usize = Entries::new(&bytes).flatten().map(|entry| entry.name.len() + 24).sum();
        prop_assert!(total <= bytes.len());
    }

    /// A true message with some bytes changed, as a fuzzer would make it.
    #[test]
    fn damaged_replies_are_told(at in 0usize..160, value in any::<u8>(), cut in 0usize..160) {
        let mut bytes = message(kind::GETATTR + 1, 3, &[0; 153]);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut);
        if let Ok(mut body) = reply(&bytes, kind::GETATTR, 3) {
            let _: Result<Attributes, Error> = body.attributes();
            let _: Result<Statfs, Error> = body.statfs();
        }
    }

    /// Each request tells its own length and type.
    #[test]
    fn requests_tell_their_length(name in proptest::collection::vec(any::<u8>(), 0..300), number in any::<u32>(), nr in 0usize..16) {
        let names: Vec<&[u8]> = vec![&name; nr];
        for request in requests(&name, &names, number) {
            let bytes = request.encode(9).unwrap();
            prop_assert_eq!(u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize, bytes.len());
            prop_assert_eq!((bytes[4], bytes[5]), (request.kind(), 9));
        }
    }
}
