//! What comes in on a WebSocket: whole messages, bounded before memory is taken for them.

use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use actix_web::error::PayloadError;
use actix_web::web::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio_util::codec::Decoder;

/// Payload of a control frame, at most (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;
/// Bit of the opcode that control frames have.
const CONTROL: u8 = 0x08;
/// Flags, length and mask of a frame, at most.
const HEAD_BYTES_MAX: usize = 14;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes that should be UTF-8.
    Text(Bytes),
    /// A binary message, of which no more than its beginning was read.
    Binary,
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// The client closes the connection.
    Close,
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message is, or says that it will be, above the bound.
    TooLarge,
    /// Against RFC 6455.
    Protocol,
}

/// Reads messages of at most `bound` bytes. `actix_ws::MessageStream` takes in all of a frame before it looks at its
/// length, and keeps each fragment of a message on its own.
pub struct Incoming<P> {
    payload: P,
    codec: Codec,
    buffer: BytesMut,
    /// The text message of which fragments have come.
    text: Option<Vec<u8>>,
    bound: usize,
}

impl<P> Incoming<P>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    /// Messages of the frames in `payload`.
    pub fn new(payload: P, bound: usize) -> Self {
        Self {
            payload,
            codec: Codec::new().max_size(bound),
            buffer: BytesMut::new(),
            text: None,
            bound,
        }
    }

    /// The next message; `None` when the connection is over. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Message, Fault>> {
        loop {
            if let Some(message) = self.take().transpose() {
                return Some(message);
            }
            self.buffer
                .extend_from_slice(&self.payload.next().await?.ok()?);
        }
    }

    /// The next message of what has come.
    fn take(&mut self) -> Result<Option<Message>, Fault> {
        while let Some(frame) = self.frame()? {
            if let Some(message) = self.message(frame) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Result<Option<Frame>, Fault> {
        let Some(len) = payload_len(&self.buffer) else {
            return Ok(None);
        };
        self.check(self.buffer[0] & CONTROL != 0, len)?;
        let missing = (HEAD_BYTES_MAX + len as usize).saturating_sub(self.buffer.len());
        self.buffer.reserve(missing);
        self.codec
            .decode(&mut self.buffer)
            .map_err(|fault| match fault {
                ProtocolError::Overflow => Fault::TooLarge,
                _ => Fault::Protocol,
            })
    }

    fn check(&self, control: bool, len: u64) -> Result<(), Fault> {
        let room = self.bound - self.text.as_ref().map_or(0, Vec::len);
        match control {
            true if len > CONTROL_BYTES_MAX => Err(Fault::Protocol),
            false if len > room as u64 => Err(Fault::TooLarge),
            _ => Ok(()),
        }
    }

    /// The message that the frame is or completes.
    fn message(&mut self, frame: Frame) -> Option<Message> {
        match frame {
            Frame::Text(text) => Some(Message::Text(text)),
            Frame::Binary(_) | Frame::Continuation(Item::FirstBinary(_)) => Some(Message::Binary),
            Frame::Ping(data) => Some(Message::Ping(data)),
            Frame::Pong(_) => Some(Message::Pong),
            Frame::Close(_) => Some(Message::Close),
            Frame::Continuation(Item::FirstText(part) | Item::Continue(part)) => {
                self.text.get_or_insert_default().extend_from_slice(&part);
                None
            }
            Frame::Continuation(Item::Last(part)) => {
                let mut text = self.text.take().unwrap_or_default();
                text.extend_from_slice(&part);
                Some(Message::Text(text.into()))
            }
        }
    }
}

/// Bytes of payload of the frame that `head` begins, once it says so.
fn payload_len(head: &[u8]) -> Option<u64> {
    match head.get(1)? & 0x7f {
        126 => head
            .get(2..)?
            .first_chunk()
            .map(|len| u16::from_be_bytes(*len).into()),
        127 => head
            .get(2..)?
            .first_chunk()
            .map(|len| u64::from_be_bytes(*len)),
        short => Some(short.into()),
    }
}

#[cfg(test)]
mod tests {
    use actix_http::ws::{CloseReason, Message as Sent};
    use futures_util::{FutureExt, stream};
    use tokio_util::codec::Encoder;

    use super::*;

    const BOUND: usize = 300;

    fn wire(messages: Vec<Sent>) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        let mut codec = Codec::new().client_mode();
        for message in messages {
            codec.encode(message, &mut bytes).unwrap();
        }
        bytes.to_vec()
    }

    /// What is heard of these bytes when they come in pieces of `len`.
    fn heard(bytes: &[u8], len: usize) -> Vec<Result<Message, Fault>> {
        let pieces: Vec<_> = bytes
            .chunks(len)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let mut incoming = Incoming::new(stream::iter(pieces), BOUND);
        let mut heard = Vec::new();
        while let Some(next) = incoming.next().now_or_never().unwrap() {
            let over = next.is_err();
            heard.push(next);
            if over {
                break;
            }
        }
        heard
    }

    fn text(content: &str) -> Message {
        Message::Text(Bytes::copy_from_slice(content.as_bytes()))
    }

    #[test]
    fn messages_are_the_same_in_whatever_pieces_they_come() {
        let long = "a".repeat(BOUND);
        let bytes = wire(vec![
            Sent::Text("".into()),
            Sent::Text("hello".into()),
            Sent::Continuation(Item::FirstText("he".into())),
            Sent::Ping("between".into()),
            Sent::Continuation(Item::Continue("".into())),
            Sent::Continuation(Item::Last("llo".into())),
            Sent::Pong("".into()),
            Sent::Text(long.as_str().into()),
            Sent::Binary("b".into()),
            Sent::Close(Some(CloseReason::from(actix_ws::CloseCode::Away))),
        ]);
        let expected = [
            text(""),
            text("hello"),
            Message::Ping("between".into()),
            text("hello"),
            Message::Pong,
            text(&long),
            Message::Binary,
            Message::Close,
        ]
        .map(Ok);
        for len in 1..=bytes.len() {
            assert_eq!(heard(&bytes, len), expected, "pieces of {len}");
        }
    }

    #[test]
    fn a_message_above_the_bound_is_refused_when_it_is_announced() {
        let whole = wire(vec![Sent::Text("a".repeat(BOUND + 1).into())]);
        let half = "a".repeat(BOUND / 2 + 1);
        let parts = wire(vec![
            Sent::Continuation(Item::FirstText(half.clone().into())),
            Sent::Continuation(Item::Last(half.into())),
        ]);
        let endless = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for bytes in [&whole[..4], &whole, &parts, &endless] {
            assert_eq!(heard(bytes, 1).last(), Some(&Err(Fault::TooLarge)));
        }
    }

    #[test]
    fn what_no_client_may_send_is_a_fault() {
        let continuation = wire(vec![Sent::Text("x".into())]);
        let mut continuation = continuation;
        continuation[0] = 0x80;
        let unmasked = [0x81, 0x01, b'x'];
        let long_ping = [0x89, 0xfe, 0x00, 0x7e];
        let reserved = [0xc1, 0x81, 0, 0, 0, 0, b'x'];
        for bytes in [&continuation[..], &unmasked, &long_ping, &reserved] {
            assert_eq!(heard(bytes, 1), [Err(Fault::Protocol)]);
        }
    }
}
