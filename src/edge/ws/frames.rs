//! The JSON messages of a WebSocket connection.

use std::fmt;

use blyan_protocol::{Message, PublicError};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::edge::chat::{ChatBody, StopTexts};
use crate::edge::error::{ErrorDetail, clipped};
use crate::edge::sse::json;
use crate::edge::stream::{Encode, StreamEvent};

/// Bytes of a client's stream id, at most.
const ID_BYTES_MAX: usize = 128;

/// What a client says.
#[derive(Debug)]
pub enum ClientMessage {
    /// Begin a stream.
    Start { id: String, body: Box<ChatBody> },
    /// End a stream.
    Cancel { id: String },
    /// Are you there?
    Ping { id: String },
}

/// A message that cannot be followed, with its id where it has a usable one.
#[derive(Debug)]
pub struct Refused {
    pub id: Option<String>,
    pub message: String,
}

/// Says what a message is about, whatever else is in it.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    id: Label,
    #[serde(default)]
    r#type: Label,
}

/// A short text; anything else is read over without being kept.
#[derive(Default)]
struct Label(Option<String>);

/// `start`: the fields of [`ChatBody`] beside those of [`Envelope`]. Flattened, they would be read into a tree first
/// that is many times as large as the message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "type")]
    _type: IgnoredAny,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
    stop: Option<StopTexts>,
    use_moe: Option<bool>,
    top_k_experts: Option<u32>,
}

impl From<Start> for ChatBody {
    fn from(start: Start) -> Self {
        Self {
            prompt: start.prompt,
            messages: start.messages,
            max_tokens: start.max_tokens,
            temperature: start.temperature,
            top_p: start.top_p,
            seed: start.seed,
            stop: start.stop,
            use_moe: start.use_moe,
            top_k_experts: start.top_k_experts,
        }
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

struct LabelVisitor;

impl<'de> Visitor<'de> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a short text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Label, E> {
        let usable = (1..=ID_BYTES_MAX).contains(&text.len());
        Ok(Label(usable.then(|| text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Label, E> {
        Ok(Label::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Label, E> {
        Ok(Label::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Label, E> {
        Ok(Label::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Label, E> {
        Ok(Label::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Label, E> {
        Ok(Label::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Label, A::Error> {
        IgnoredAny.visit_seq(list).map(|_| Label::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Label, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Label::default())
    }
}

impl ClientMessage {
    /// Reads one message.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if !text.trim_start().starts_with('{') {
            return Err(refused(None, "A message is a JSON object."));
        }
        let Envelope { id, r#type } = serde_json::from_str(text)
            .map_err(|fault| refused(None, format_args!("The message is not JSON: {fault}.")))?;
        let no_id = || {
            refused(
                None,
                format_args!("id must be a text of 1 to {ID_BYTES_MAX} bytes."),
            )
        };
        let id = id.0.ok_or_else(no_id)?;
        match r#type.0.as_deref() {
            Some("start") => Self::start(id, text),
            Some("cancel") => Ok(Self::Cancel { id }),
            Some("ping") => Ok(Self::Ping { id }),
            _ => Err(refused(Some(id), "type must be start, cancel or ping.")),
        }
    }

    fn start(id: String, text: &str) -> Result<Self, Refused> {
        match serde_json::from_str::<Start>(text) {
            Ok(start) => Ok(Self::Start {
                id,
                body: Box::new(start.into()),
            }),
            Err(fault) => Err(refused(
                Some(id),
                format_args!("start is not as expected: {fault}."),
            )),
        }
    }
}

fn refused(id: Option<String>, message: impl fmt::Display) -> Refused {
    Refused {
        id,
        message: clipped(message),
    }
}

#[derive(Serialize)]
struct NodeMessage<'a, T: Serialize> {
    r#type: &'static str,
    id: Option<&'a str>,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct ErrorRest<'a> {
    error: &'a ErrorDetail,
}

#[derive(Serialize)]
struct Nothing {}

fn message(r#type: &'static str, id: Option<&str>, rest: impl Serialize) -> String {
    json(&NodeMessage { r#type, id, rest })
}

/// `error`, with `id: null` where the client's message had no usable id.
pub fn error(id: Option<&str>, error: &PublicError) -> String {
    crate::edge::metrics::refused(error.code);
    message(
        "error",
        id,
        ErrorRest {
            error: &ErrorDetail::new(error, None),
        },
    )
}

/// `pong`
pub fn pong(id: &str) -> String {
    message("pong", Some(id), Nothing {})
}

/// Writes the events of the client's stream `id`.
pub struct StreamFrames {
    pub id: String,
}

impl Encode for StreamFrames {
    fn encode(&mut self, event: &StreamEvent) -> Option<String> {
        let id = Some(self.id.as_str());
        match event {
            StreamEvent::Start(start) => Some(message("stream_start", id, start)),
            StreamEvent::Token(token) => Some(message("token", id, token)),
            StreamEvent::End(end) => Some(message("stream_end", id, end)),
            StreamEvent::Error(error) => Some(message("error", id, ErrorRest { error })),
            // The connection has a heartbeat of its own.
            StreamEvent::Idle => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::edge::error::invalid;

    #[test]
    fn messages_without_a_usable_id_are_refused_with_none() {
        let long = format!(
            r#"{{"type":"ping","id":"{}"}}"#,
            "i".repeat(ID_BYTES_MAX + 1)
        );
        for text in [
            "",
            "no json",
            "[]",
            "{}",
            "1",
            r#"{"type":"ping","id":7}"#,
            r#"{"type":"ping","id":""}"#,
            &long,
        ] {
            let refused = ClientMessage::parse(text).unwrap_err();
            assert_eq!(refused.id, None, "{text}");
        }
    }

    #[test]
    fn other_faults_name_the_stream() {
        for text in [
            r#"{"type":"dance","id":"a"}"#,
            r#"{"id":"a"}"#,
            r#"{"type":"start","id":"a","prompt":"x","bogus":1}"#,
            r#"{"type":"start","id":"a","prompt":7}"#,
        ] {
            let refused = ClientMessage::parse(text).unwrap_err();
            assert_eq!(refused.id.as_deref(), Some("a"), "{text}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let refused = ClientMessage::parse(&"[".repeat(100_000)).unwrap_err();
        assert_eq!(refused.id, None);
    }

    #[test]
    fn start_takes_the_fields_of_chat() {
        let text = r#"{"type":"start","id":"a","prompt":"x","top_k_experts":12,"stop":"y"}"#;
        let Ok(ClientMessage::Start { id, body }) = ClientMessage::parse(text) else {
            panic!("start is not read");
        };
        assert_eq!((id.as_str(), body.top_k_experts), ("a", Some(12)));
    }

    #[test]
    fn an_error_without_id_says_null() {
        let text = error(None, &invalid("m"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["id"], Value::Null);
        assert!(value.as_object().unwrap().contains_key("id"));
        assert_eq!(value["error"]["code"], "invalid_request");
    }
}
