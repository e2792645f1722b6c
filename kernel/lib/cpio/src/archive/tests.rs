//! Archives are built by hand here, so that each rule of the format can be broken on purpose.

use super::*;
use crate::SliceInput;

fn member(magic: &str, name: &str, mode: u32, nlink: u32, check: u32, data: &[u8]) -> Vec<u8> {
    let mut out = magic.as_bytes().to_vec();
    let fields = [7, mode, 1, 2, nlink, 99, data.len() as u32, 0, 5, 4, 3, name.len() as u32 + 1, check];
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in members {
        out.extend(member("070701", name, 0o100_644, 1, 0, data));
    }
    out.extend(member("070701", "TRAILER!!!", 0, 1, 0, b""));
    out
}

/// All members with their data; trailers show as ("--", []).
fn list(bytes: &[u8], chunk: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut reader = Archive::new(SliceInput::new(bytes, chunk));
    let mut found = Vec::new();
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Trailer => found.push(("--".into(), vec![])),
            Item::Member(header, name) => {
                let name = String::from_utf8_lossy(name).into_owned();
                let mut data = Vec::new();
                assert!(reader.read_data(&mut data, usize::MAX)?);
                assert_eq!(data.len(), header.size as usize);
                found.push((name, data));
            }
        }
    }
    Ok(found)
}

fn expect(members: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    members.iter().map(|(name, data)| (name.to_string(), data.to_vec())).collect()
}

const TWO: &[(&str, &[u8])] = &[("init", b"#!/bin/sh\n"), ("etc/motd", b"hello")];
const TWO_AND_TRAILER: &[(&str, &[u8])] = &[("init", b"#!/bin/sh\n"), ("etc/motd", b"hello"), ("--", b"")];

#[test]
fn members_come_in_order_for_every_chunk_size() {
    for chunk in [1, 2, 3, 7, 64, 4096] {
        assert_eq!(list(&archive(TWO), chunk).unwrap(), expect(TWO_AND_TRAILER));
    }
}

#[test]
fn archives_follow_each_other_with_padding_between() {
    let mut bytes = archive(TWO);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive(&[("second", b"2")]));
    bytes.resize(bytes.len() + 1000, 0);
    let names: Vec<_> = list(&bytes, 100).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["init", "etc/motd", "--", "second", "--"]);
}

#[test]
fn header_fields_arrive_in_their_places() {
    let bytes = member("070701", "x", 0o60_600, 2, 0, b"");
    let mut reader = Archive::new(SliceInput::new(&bytes, 4096));
    let Some(Item::Member(header, b"x")) = reader.next_item().unwrap() else { panic!("no member") };
    assert_eq!((header.ino, header.mode, header.uid, header.gid), (7, 0o60_600, 1, 2));
    assert_eq!((header.nlink, header.mtime, header.dev, header.rdev), (2, 99, (0, 5), (4, 3)));
    assert_eq!(header.link_key(), Some(LinkKey { dev: (0, 5), ino: 7 }));
}

#[test]
fn a_name_may_be_padded_so_that_data_starts_on_a_page() {
    let name = format!("data{}", "\0".repeat(4096 - 110 - 5));
    let bytes = member("070701", &name, 0o100_644, 1, 0, b"at 4096");
    assert_eq!(&bytes[4096..4103], b"at 4096");
    assert_eq!(list(&bytes, 4096).unwrap(), expect(&[("data", b"at 4096")]));
}

#[test]
fn unread_data_is_skipped() {
    let bytes = archive(TWO);
    let mut reader = Archive::new(SliceInput::new(&bytes, 5));
    let mut names = Vec::new();
    while let Some(Item::Member(_, name)) = reader.next_item().unwrap() {
        names.push(name.to_vec());
    }
    assert_eq!(names, [b"init".to_vec(), b"etc/motd".to_vec()]);
}

#[test]
fn members_with_names_beyond_path_max_are_skipped() {
    let mut bytes = member("070701", &"n".repeat(5000), 0o100_644, 1, 0, b"lost");
    bytes.extend(archive(TWO));
    assert_eq!(list(&bytes, 4096).unwrap(), expect(TWO_AND_TRAILER));
}

#[test]
fn crc_members_are_checked() {
    let sum = b"data".iter().map(|&b| u32::from(b)).sum();
    let good = member("070702", "f", 0o100_644, 1, sum, b"data");
    assert_eq!(list(&good, 3).unwrap(), expect(&[("f", b"data")]));
    let bad = member("070702", "f", 0o100_644, 1, sum + 1, b"data");
    assert_eq!(list(&bad, 3), Err(Error::BadChecksum));
}

#[test]
fn garbage_and_bad_headers_are_errors() {
    let mut bytes = archive(TWO);
    let end = bytes.len() as u64;
    bytes.extend(b"what is this");
    assert_eq!(list(&bytes, 4096), Err(Error::Garbage { offset: end }));
    let mut bytes = archive(TWO);
    bytes[10] = b'x';
    assert_eq!(list(&bytes, 4096), Err(Error::BadHeader { offset: 0 }));
    let old = [&b"070707"[..], &[b'x'; 104]].concat();
    assert_eq!(list(&old, 4096), Err(Error::BadHeader { offset: 0 }));
    assert_eq!(list(&[0xfd, b'7', b'z', b'X', b'Z', 0], 4096), Err(Error::Unsupported("xz")));
}

#[test]
fn every_truncation_is_an_error_or_a_prefix() {
    let bytes = archive(TWO);
    let all = expect(TWO_AND_TRAILER);
    for len in 0..bytes.len() {
        match list(&bytes[..len], 64) {
            Ok(found) => assert!(all.starts_with(&found), "{len}"),
            Err(error) => assert_eq!(error, Error::Truncated, "{len}"),
        }
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut crc = crate::crc32::Crc32::new();
    crc.update(plain);
    let mut out = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    out.extend(b"name.cpio\0");
    out.extend(miniz_oxide::deflate::compress_to_vec(plain, 6));
    out.extend(crc.value().to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    out
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_segments_mix_with_plain_ones() {
    let big: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let mut bytes = archive(&[("early", b"1")]);
    bytes.extend(gzip(&archive(&[("gz", &big)])));
    bytes.extend([0; 7]);
    bytes.extend(zstd(&archive(&[("zst", &big)])));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    for chunk in [1, 1000, 4096, 1 << 20] {
        let want =
            expect(&[("early", b"1"), ("--", b""), ("gz", &big), ("--", b""), ("zst", &big), ("--", b"")]);
        assert!(list(&bytes, chunk).unwrap() == want);
    }
}

#[test]
fn damaged_gzip_is_an_error() {
    let good = gzip(&archive(TWO));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        // Header bytes that say nothing (time, name) may change; anything else must not go unnoticed.
        match list(&bytes, 64) {
            Ok(found) => assert!(found == expect(TWO_AND_TRAILER) || found.is_empty(), "byte {at}"),
            Err(_) => continue,
        }
    }
    assert_eq!(list(&good[..good.len() - 3], 64), Err(Error::Truncated));
}

#[test]
fn random_damage_never_panics() {
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let plain = archive(TWO);
    let sources = [plain.clone(), gzip(&plain), zstd(&plain)];
    for round in 0..3000 {
        let mut bytes = sources[round % 3].clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(random() % (bytes.len() + 1));
        let _ = list(&bytes, 1 + random() % 200);
    }
}
