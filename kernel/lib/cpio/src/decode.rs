//! Decompression of a segment: gzip by `miniz_oxide`, zstd by `ruzstd`.
//!
//! A [`Decoder`] pulls compressed bytes from the raw input it is given at each call and stops exactly behind its
//! stream, so that the next segment can follow.

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::crc32::Crc32;
use crate::{Error, Input};

/// Turns a compressed stream into plain bytes.
pub trait Decoder {
    /// The plain bytes at the current position; empty at the end of the stream.
    fn fill(&mut self, raw: &mut dyn Input) -> Result<&[u8], Error>;

    /// Moves on by `len` bytes, at most what the last `fill` showed.
    fn consume(&mut self, len: usize);
}

/// The decoder for the stream whose first byte is `first`; `None` if no compression starts so.
///
/// The decoders check the rest of the magic number themselves.
pub(crate) fn for_first_byte(first: u8, raw: &mut dyn Input) -> Result<Option<Box<dyn Decoder>>, Error> {
    match first {
        0x1f => Ok(Some(Box::new(Gzip::start(raw)?))),
        0x28 => Ok(Some(Box::new(Zstd::start(raw)?))),
        b'B' => Err(Error::Unsupported("bzip2")),
        0xfd => Err(Error::Unsupported("xz")),
        0x5d => Err(Error::Unsupported("lzma")),
        0x89 => Err(Error::Unsupported("lzo")),
        0x02 | 0x04 => Err(Error::Unsupported("lz4")),
        _ => Ok(None),
    }
}

fn next_byte(raw: &mut dyn Input) -> Result<u8, Error> {
    let byte = *raw.fill()?.first().ok_or(Error::Truncated)?;
    raw.consume(1);
    Ok(byte)
}

fn next_u32(raw: &mut dyn Input) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    for byte in &mut bytes {
        *byte = next_byte(raw)?;
    }
    Ok(u32::from_le_bytes(bytes))
}

/// The window of DEFLATE (RFC 1951): back references reach no further.
const WINDOW: usize = 32 * 1024;

struct Gzip {
    inflate: Box<DecompressorOxide>,
    /// The last `WINDOW` plain bytes as a ring; `ready..end` of it waits to be consumed.
    window: Vec<u8>,
    ready: usize,
    end: usize,
    crc: Crc32,
    len: u32,
    done: bool,
}

impl Gzip {
    /// Reads the member header (RFC 1952, section 2.3).
    fn start(raw: &mut dyn Input) -> Result<Self, Error> {
        const FHCRC: u8 = 1 << 1;
        const FEXTRA: u8 = 1 << 2;
        const FNAME: u8 = 1 << 3;
        const FCOMMENT: u8 = 1 << 4;
        let mut head = [0; 10];
        for byte in &mut head {
            *byte = next_byte(raw)?;
        }
        if head[..3] != [0x1f, 0x8b, 8] {
            return Err(Error::Corrupt("gzip"));
        }
        let flags = head[3];
        if flags & FEXTRA != 0 {
            let len = u16::from_le_bytes([next_byte(raw)?, next_byte(raw)?]);
            for _ in 0..len {
                next_byte(raw)?;
            }
        }
        for string in [FNAME, FCOMMENT] {
            if flags & string != 0 {
                while next_byte(raw)? != 0 {}
            }
        }
        if flags & FHCRC != 0 {
            next_byte(raw)?;
            next_byte(raw)?;
        }
        let mut window = Vec::new();
        window.try_reserve_exact(WINDOW).map_err(|_| Error::NoMemory)?;
        window.resize(WINDOW, 0);
        let inflate = Box::new(DecompressorOxide::new());
        Ok(Self { inflate, window, ready: 0, end: 0, crc: Crc32::new(), len: 0, done: false })
    }

    /// Inflates until some bytes are ready or the stream has ended and its trailer was checked.
    fn inflate(&mut self, raw: &mut dyn Input) -> Result<(), Error> {
        while self.ready == self.end && !self.done {
            let start = if self.end == WINDOW { 0 } else { self.end };
            let input = raw.fill()?;
            if input.is_empty() {
                return Err(Error::Truncated);
            }
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, used, made) = decompress(&mut self.inflate, input, &mut self.window, start, flags);
            raw.consume(used);
            (self.ready, self.end) = (start, start + made);
            self.crc.update(&self.window[start..start + made]);
            self.len = self.len.wrapping_add(made as u32);
            match status {
                TINFLStatus::Done => {
                    self.done = true;
                    if (next_u32(raw)?, next_u32(raw)?) != (self.crc.value(), self.len) {
                        return Err(Error::Corrupt("gzip"));
                    }
                }
                TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
                _ => return Err(Error::Corrupt("gzip")),
            }
        }
        Ok(())
    }
}

impl Decoder for Gzip {
    fn fill(&mut self, raw: &mut dyn Input) -> Result<&[u8], Error> {
        if self.ready == self.end {
            self.inflate(raw)?;
        }
        Ok(&self.window[self.ready..self.end])
    }

    fn consume(&mut self, len: usize) {
        self.ready = (self.ready + len).min(self.end);
    }
}

/// The largest window that is accepted: what `zstd --ultra -22` uses.
const ZSTD_MAX_WINDOW: u64 = 128 << 20;
/// Plain bytes are made in portions of at least this many.
const ZSTD_PORTION: usize = 64 * 1024;

struct Zstd {
    frame: FrameDecoder,
    plain: Vec<u8>,
    ready: usize,
}

impl Zstd {
    fn start(raw: &mut dyn Input) -> Result<Self, Error> {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(ZSTD_MAX_WINDOW);
        frame.init(ZstdRead(raw)).map_err(|_| Error::Corrupt("zstd"))?;
        Ok(Self { frame, plain: Vec::new(), ready: 0 })
    }
}

impl Decoder for Zstd {
    fn fill(&mut self, raw: &mut dyn Input) -> Result<&[u8], Error> {
        while self.ready == self.plain.len() {
            if self.frame.is_finished() && self.frame.can_collect() == 0 {
                return Ok(&[]);
            }
            if !self.frame.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(ZSTD_PORTION);
                self.frame.decode_blocks(ZstdRead(raw), strategy).map_err(|_| Error::Corrupt("zstd"))?;
            }
            self.plain = self.frame.collect().unwrap_or_default();
            self.ready = 0;
        }
        Ok(&self.plain[self.ready..])
    }

    fn consume(&mut self, len: usize) {
        self.ready = (self.ready + len).min(self.plain.len());
    }
}

/// Shows an [`Input`] to `ruzstd`.
struct ZstdRead<'a>(&'a mut dyn Input);

impl ruzstd::io::Read for ZstdRead<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ruzstd::io::Error> {
        let bytes = self.0.fill().map_err(|_| ruzstd::io::Error::from(ruzstd::io::ErrorKind::Other))?;
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        self.0.consume(len);
        Ok(len)
    }
}
