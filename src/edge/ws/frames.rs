//! The JSON messages of a WebSocket connection.

use blyan_protocol::PublicError;
use serde::Serialize;
use serde_json::Value;

use crate::edge::chat::ChatBody;
use crate::edge::error::ErrorDetail;
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

impl ClientMessage {
    /// Reads one message.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let mut object = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(refused(None, "A message is a JSON object.")),
            Err(fault) => return Err(refused(None, format!("The message is not JSON: {fault}."))),
        };
        let id = usable_id(object.remove("id"))?;
        let kind = object.remove("type");
        match kind.as_ref().and_then(Value::as_str) {
            Some("start") => match serde_json::from_value(Value::Object(object)) {
                Ok(body) => Ok(Self::Start {
                    id,
                    body: Box::new(body),
                }),
                Err(fault) => Err(refused(
                    Some(id),
                    format!("start is not as expected: {fault}."),
                )),
            },
            Some("cancel") => Ok(Self::Cancel { id }),
            Some("ping") => Ok(Self::Ping { id }),
            _ => Err(refused(Some(id), "type must be start, cancel or ping.")),
        }
    }
}

fn usable_id(id: Option<Value>) -> Result<String, Refused> {
    match id {
        Some(Value::String(id)) if (1..=ID_BYTES_MAX).contains(&id.len()) => Ok(id),
        _ => Err(refused(
            None,
            format!("id must be a text of 1 to {ID_BYTES_MAX} bytes."),
        )),
    }
}

fn refused(id: Option<String>, message: impl Into<String>) -> Refused {
    Refused {
        id,
        message: message.into(),
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
