//! Messages about ports (VIRTIO 1.2, 5.3.6.2).

/// Bytes of a message without what may follow it.
pub(crate) const LEN: usize = 8;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The device has this port.
    Add,
    /// It has it no more.
    Remove,
    /// It is a terminal.
    Console,
    /// The terminal has so many columns and rows.
    Resize(u16, u16),
    /// The host has it open, or not.
    Open(bool),
    /// What it is called.
    Name(alloc::string::String),
}

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The driver is there (or it is not).
    DeviceReady = 0,
    /// The port can be used, or it cannot.
    PortReady = 3,
    /// A program has it open, or not.
    PortOpen = 6,
}

const ADD: u16 = 1;
const REMOVE: u16 = 2;
const CONSOLE: u16 = 4;
const RESIZE: u16 = 5;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// Reads a message: which port, and what. `None`: it is too short, or says something unknown.
pub(crate) fn parse(bytes: &[u8]) -> Option<(u32, Event)> {
    let (head, rest) = bytes.split_first_chunk::<LEN>()?;
    let [a, b, c, d, event, event_high, value, _] = *head;
    let id = u32::from_le_bytes([a, b, c, d]);
    let event = match u16::from_le_bytes([event, event_high]) {
        ADD => Event::Add,
        REMOVE => Event::Remove,
        CONSOLE => Event::Console,
        RESIZE => {
            let [columns, columns_high, rows, rows_high] = *rest.first_chunk()?;
            Event::Resize(u16::from_le_bytes([columns, columns_high]), u16::from_le_bytes([rows, rows_high]))
        }
        OPEN => Event::Open(value != 0),
        NAME => {
            let name = rest.strip_suffix(&[0]).unwrap_or(rest);
            Event::Name(alloc::string::String::from_utf8_lossy(name).into_owned())
        }
        _ => return None,
    };
    Some((id, event))
}

/// The bytes of a message.
pub(crate) fn encode(id: u32, answer: Answer, value: bool) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..6].copy_from_slice(&(answer as u16).to_le_bytes());
    bytes[6] = value.into();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_specification_says() {
        assert_eq!(encode(0x0102, Answer::PortOpen, true), [2, 1, 0, 0, 6, 0, 1, 0]);
        assert_eq!(parse(&[3, 0, 0, 0, 1, 0, 1, 0]), Some((3, Event::Add)));
        assert_eq!(parse(&[3, 0, 0, 0, 6, 0, 0, 0]), Some((3, Event::Open(false))));
        assert_eq!(parse(&[0, 0, 0, 0, 5, 0, 0, 0, 80, 0, 25, 0]), Some((0, Event::Resize(80, 25))));
        let name = Event::Name("org.x".into());
        assert_eq!(parse(b"\x01\0\0\0\x07\0\x01\0org.x"), Some((1, name.clone())));
        assert_eq!(parse(b"\x01\0\0\0\x07\0\x01\0org.x\0"), Some((1, name)));
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        for bytes in [&b""[..], b"\x01\0\0\0\x07\0\x01", b"\0\0\0\0\x63\0\0\0", b"\0\0\0\0\x05\0\0\0\x50\0"] {
            assert_eq!(parse(bytes), None);
        }
    }
}
