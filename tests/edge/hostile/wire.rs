//! Bytes on the wire, as no client library would send them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;

/// Longer than anything here takes; a test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A client's frame: `first` is FIN, reserved bits and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len() as u64);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// The beginning of a frame that says that its payload has `len` bytes.
pub fn head(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(0x80 | len as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A whole text message.
pub fn text(message: &str) -> Vec<u8> {
    frame(FIN | TEXT, message.as_bytes())
}

/// A text message in fragments of `len` bytes.
pub fn fragments(message: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = frame(TEXT, b"");
    for part in message.chunks(len) {
        bytes.extend(frame(CONTINUATION, part));
    }
    bytes.extend(frame(FIN | CONTINUATION, b""));
    bytes
}

/// What a node said on a WebSocket.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Json(Value),
    Pong(Vec<u8>),
    Closed(u16),
    /// The end of the connection without a word.
    Gone,
}

/// A connection on which every byte is the test's own.
pub struct Wire(TcpStream);

impl Wire {
    pub fn to(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// After the handshake.
    pub fn websocket(at: SocketAddr) -> Self {
        let mut wire = Self::to(at);
        let ask = format!(
            "GET /ws/chat HTTP/1.1\r\nhost: {at}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.send(ask.as_bytes());
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(wire.byte().expect("an answer to the handshake"));
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        wire
    }

    /// Sends what the node takes; it may have closed before the last byte.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Everything to the connection's end.
    pub fn rest(mut self) -> String {
        let mut all = Vec::new();
        // A reset after the answer is an end as well.
        let _ = self.0.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// The node's next message; its pings are passed over.
    pub fn hear(&mut self) -> Heard {
        loop {
            match self.frame() {
                None => return Heard::Gone,
                Some((TEXT, payload)) => {
                    return Heard::Json(serde_json::from_slice(&payload).unwrap());
                }
                Some((PONG, payload)) => return Heard::Pong(payload),
                Some((CLOSE, payload)) => {
                    return Heard::Closed(
                        payload
                            .first_chunk()
                            .map_or(0, |code| u16::from_be_bytes(*code)),
                    );
                }
                Some((PING, _)) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.byte()?;
        let len = match self.byte()? {
            126 => u16::from_be_bytes(self.bytes()?).into(),
            127 => u64::from_be_bytes(self.bytes()?),
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some((first & 0x0f, payload))
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        match self.0.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no answer in time")
            }
            Err(_) => None,
        }
    }
}

/// Random numbers that a failing run lets repeat.
pub fn seeded() -> StdRng {
    let seed = std::env::var("BLYAN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("BLYAN_SEED={seed} repeats this");
    StdRng::seed_from_u64(seed)
}

pub fn noise(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// `unit` repeated to about `len` bytes between `open` and `close`.
pub fn filled(open: &str, unit: &str, close: &str, len: usize) -> String {
    let count = (len - open.len() - close.len()) / unit.len();
    format!("{open}{}{close}", unit.repeat(count))
}

/// A `start` of stream `x` with this beside it.
pub fn start(fields: &str) -> String {
    format!(r#"{{"type":"start","id":"x",{fields}}}"#)
}
