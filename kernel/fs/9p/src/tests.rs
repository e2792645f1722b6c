//! Sessions with servers that live in the test: what they may say, and what they should not.

use std::sync::{Arc, Mutex};

use abi::{Errno, Result};
use p9_wire::{Request, kind};

use crate::channel::{self, Call, Channel, Refused};
use crate::client::{Client, Data};
use crate::fid::Fid;
use crate::pages;

/// Answers a request: the whole message, or `None` for a device that is gone.
type Serve = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>> + Send>;

/// A channel whose server answers at once.
struct Local {
    tag: Vec<u8>,
    serve: Mutex<Serve>,
}

impl Channel for Local {
    fn tag(&self) -> &[u8] {
        &self.tag
    }

    fn max_message(&self) -> u32 {
        65536
    }

    fn submit(&self, call: &Arc<Call>) -> core::result::Result<(), Refused> {
        let mut request = call.head().to_vec();
        for part in call.out() {
            let mut bytes = vec![0; part.len];
            part.frame.read(part.offset, &mut bytes);
            request.extend(bytes);
        }
        let Some(answer) = (self.serve.lock().unwrap())(&request) else { return Err(Refused::Gone) };
        let mut rest = &answer[..];
        for part in call.reply() {
            let (now, later) = rest.split_at(part.len.min(rest.len()));
            part.frame.write(part.offset, now);
            rest = later;
        }
        call.complete(answer.len() as u32);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

fn message(kind: u8, tag: &[u8], body: &[u8]) -> Vec<u8> {
    [&(7 + body.len() as u32).to_le_bytes()[..], &[kind], tag, body].concat()
}

/// The answer to a request for a version: `msize` and the protocol's name.
fn version(request: &[u8], msize: u32, name: &[u8]) -> Vec<u8> {
    let body = [&msize.to_le_bytes()[..], &(name.len() as u16).to_le_bytes(), name].concat();
    message(kind::VERSION + 1, &request[5..7], &body)
}

/// A session with a server that agrees, and serves the rest by `serve`.
fn session(tag: &str, mut serve: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Arc<Client> {
    let agree = move |request: &[u8]| match request[4] {
        kind::VERSION => Some(version(request, 8192, b"9P2000.L")),
        kind::CLUNK => Some(message(kind::CLUNK + 1, &request[5..7], b"")),
        _ => serve(request),
    };
    open(tag, agree).unwrap()
}

fn open(tag: &str, serve: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Result<Arc<Client>> {
    channel::add(Arc::new(Local { tag: tag.into(), serve: Mutex::new(Box::new(serve)) }));
    Client::new(channel::claim(tag.as_bytes())?, 16384)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

#[test]
fn a_session_needs_the_protocol_and_a_size() {
    let client = open("agreed", |request| Some(version(request, 8192, b"9P2000.L"))).unwrap();
    assert_eq!((client.msize(), client.payload()), (8192, 8192 - 24));
    assert_eq!(channel::claim(b"agreed").err(), Some(Errno::EBUSY));
    drop(client);
    assert!(channel::claim(b"agreed").is_ok());
    assert_eq!(channel::claim(b"none").err(), Some(Errno::ENOENT));
    let refused = |tag: &str, msize, name: &'static [u8]| {
        open(tag, move |request| Some(version(request, msize, name))).err()
    };
    assert_eq!(refused("other", 8192, b"9P2000.u"), Some(Errno::EREMOTEIO));
    assert_eq!(refused("large", 1 << 20, b"9P2000.L"), Some(Errno::EIO));
    assert_eq!(refused("small", 100, b"9P2000.L"), Some(Errno::EIO));
    assert_eq!(open("gone", |_| None).err(), Some(Errno::EIO));
}

#[test]
fn errors_are_the_servers_and_no_others() {
    let mut numbers = [2u32, 13, 512, 516, 0, u32::MAX, 61].into_iter();
    let client = session("errors", move |request| {
        let number = numbers.next()?;
        Some(message(kind::RLERROR, &request[5..7], &number.to_le_bytes()))
    });
    let ask = || client.call(&Request::GetAttr { fid: 1 }, Data::None).err();
    let expected =
        [Errno::ENOENT, Errno::EACCES, Errno::EIO, Errno::EIO, Errno::EIO, Errno::EIO, Errno::ENODATA];
    for errno in expected {
        assert_eq!(ask(), Some(errno));
    }
    // The device goes: this call, and all that follow.
    assert_eq!((ask(), ask()), (Some(Errno::EIO), Some(Errno::EIO)));
    assert!(client.is_dead());
}

#[test]
fn data_go_past_the_message() {
    let client = session("data", |request| {
        let (tag, offset, count) = (&request[5..7], request[11], word(request, 19));
        Some(match request[4] {
            kind::READ => {
                let data: Vec<u8> = (0..count.min(5000)).map(|at| at as u8 ^ offset).collect();
                let body = [&(data.len() as u32).to_le_bytes()[..], &data].concat();
                message(kind::READ + 1, tag, &body)
            }
            // What was written, summed.
            kind::WRITE => {
                let data = &request[23..];
                assert_eq!((data.len(), word(request, 0)), (count as usize, request.len() as u32));
                message(kind::WRITE + 1, tag, &count.to_le_bytes())
            }
            _ => return None,
        })
    });
    let fid = Fid::of(&client, 7);
    let parts = pages::buffer(8000).unwrap();
    assert_eq!(fid.read(3, &parts), Ok(5000));
    let mut bytes = vec![0; 5000];
    pages::copy_out(&parts, &mut bytes);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8 ^ 3));
    assert_eq!(fid.write(0, &parts, sched::Interruptible::Killable), Ok(8000));
}

#[test]
fn lies_about_data_are_refused() {
    for (told, size, sent) in [(6000u32, 0u32, 11usize), (100, 111, 50), (20, 11, 11), (9000, 9011, 9011)] {
        let client = session(&format!("lie {told} {size} {sent}"), move |request| {
            let mut answer = message(kind::READ + 1, &request[5..7], &told.to_le_bytes());
            if size > 0 {
                answer[..4].copy_from_slice(&size.to_le_bytes());
            }
            answer.resize(sent, 0);
            Some(answer)
        });
        assert_eq!(Fid::of(&client, 1).read(0, &pages::buffer(8000).unwrap()), Err(Errno::EIO), "{told}");
    }
}

/// Whatever comes, each call ends with a value or an error.
#[test]
fn hostile_answers_end_in_errors() {
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let client = session("hostile", move |request| {
        let len = (random() % 300) as usize;
        let mut answer: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        // Mostly a right head, so that the body is looked at.
        if random() % 8 > 0 && len >= 7 {
            answer[..4].copy_from_slice(&(len as u32).to_le_bytes());
            answer[4] = request[4] + 1;
            answer[5..7].copy_from_slice(&request[5..7]);
        }
        Some(answer)
    });
    let fid = Fid::of(&client, 3);
    let parts = pages::buffer(5000).unwrap();
    for _ in 0..2000 {
        let _ = fid.attributes();
        let _ = fid.walk(b"name").map(drop);
        let _ = fid.statfs();
        let _ = fid.read_link();
        let _ = fid.read(0, &parts);
        let _ = fid.read_dir(0, &parts).map(|count| assert!(count <= 5000));
        let _ = fid.write(0, &parts, sched::Interruptible::Killable).map(|count| assert!(count <= 5000));
    }
}

#[test]
fn long_messages_go_in_frames() {
    let client = session("long", |request| {
        let target = vec![b'x'; 5000];
        let body = [&(target.len() as u16).to_le_bytes()[..], &target].concat();
        match request[4] {
            kind::READLINK => Some(message(kind::READLINK + 1, &request[5..7], &body)),
            kind::SYMLINK => {
                assert_eq!(word(request, 0) as usize, request.len());
                Some(message(kind::SYMLINK + 1, &request[5..7], &[0; 13]))
            }
            _ => None,
        }
    });
    let fid = Fid::of(&client, 3);
    assert_eq!(fid.read_link().map(|target| target.len()), Ok(5000));
    let target = vec![b'y'; 4095];
    assert_eq!(fid.tell(&Request::Symlink { dir: 3, name: b"n", target: &target, gid: 0 }), Ok(()));
}
