//! `WS /ws/chat`.

use std::collections::BTreeMap;
use std::pin::Pin;

use actix_ws::ProtocolError;
use awc::ws::{CloseCode, Frame, Message};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::{Value, json};

use crate::house::{House, PATIENCE, client};

struct Socket {
    out: Pin<Box<dyn Sink<Message, Error = ProtocolError>>>,
    frames: Pin<Box<dyn Stream<Item = Result<Frame, ProtocolError>>>>,
}

/// What came: a message, or the end with its code.
#[derive(Debug)]
enum Heard {
    Json(Value),
    Closed(Option<CloseCode>),
}

impl Socket {
    async fn to(house: &House) -> Self {
        let (_, framed) = client().ws(house.url("/ws/chat")).connect().await.unwrap();
        let (out, frames) = framed.split();
        Self {
            out: Box::pin(out),
            frames: Box::pin(frames),
        }
    }

    async fn say(&mut self, message: Value) {
        self.say_text(&message.to_string()).await;
    }

    async fn say_text(&mut self, text: &str) {
        self.out
            .send(Message::Text(text.to_owned().into()))
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Heard {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.frames.next())
                .await
                .expect("a message in time");
            match frame {
                Some(Ok(Frame::Text(text))) => {
                    return Heard::Json(serde_json::from_slice(&text).unwrap());
                }
                Some(Ok(Frame::Ping(data))) => self.out.send(Message::Pong(data)).await.unwrap(),
                Some(Ok(Frame::Close(reason))) => {
                    return Heard::Closed(reason.map(|reason| reason.code));
                }
                None | Some(Err(_)) => return Heard::Closed(None),
                Some(Ok(_)) => {}
            }
        }
    }

    async fn json(&mut self) -> Value {
        match self.hear().await {
            Heard::Json(value) => value,
            closed => panic!("{closed:?}"),
        }
    }

    /// The next message that is about this stream and of this kind.
    async fn wait_for(&mut self, id: &str, kind: &str) -> Value {
        loop {
            let message = self.json().await;
            if message["id"] == id && message["type"] == kind {
                return message;
            }
        }
    }
}

fn start(id: &str, prompt: &str) -> Value {
    json!({"type": "start", "id": id, "prompt": prompt})
}

#[actix_rt::test]
async fn streams_share_a_connection() {
    let house = House::new();
    let mut socket = Socket::to(&house).await;
    for id in ["a", "b", "c"] {
        socket.say(start(id, "hello")).await;
    }
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < 12 {
        let message = socket.json().await;
        seen.entry(message["id"].as_str().unwrap().to_owned())
            .or_default()
            .push(message);
    }
    for (id, messages) in seen {
        let kinds: Vec<_> = messages
            .iter()
            .map(|message| message["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["stream_start", "token", "token", "stream_end"],
            "{id}"
        );
        assert_eq!(
            (&messages[1]["token"], &messages[2]["token"]),
            (&json!("Hel"), &json!("lo"))
        );
        assert_eq!(
            (&messages[3]["total_cost"], &messages[3]["charged"]),
            (&json!("110"), &json!(false))
        );
    }
}

#[actix_rt::test]
async fn one_stream_is_cancelled_and_the_others_go_on() {
    let house = House::new();
    let mut socket = Socket::to(&house).await;
    socket.say(start("a", "silence")).await;
    socket.say(start("b", "silence")).await;
    socket.wait_for("b", "stream_start").await;
    socket.say(json!({"type": "cancel", "id": "a"})).await;
    let end = socket.wait_for("a", "stream_end").await;
    assert_eq!(end["finish_reason"], "cancelled");
    house.wait_for_cancels(1).await;
    socket.say(start("a", "hello")).await;
    socket.wait_for("a", "stream_end").await;
    socket.say(json!({"type": "cancel", "id": "b"})).await;
    socket.wait_for("b", "stream_end").await;
}

#[actix_rt::test]
async fn the_end_of_a_connection_cancels_its_streams() {
    let house = House::new();
    let mut socket = Socket::to(&house).await;
    for (number, prompt) in ["forever", "silence", "flood"].into_iter().enumerate() {
        socket.say(start(&number.to_string(), prompt)).await;
    }
    socket.wait_for("2", "stream_start").await;
    drop(socket);
    house.wait_for_cancels(3).await;
}

#[actix_rt::test]
async fn hostile_messages_get_an_error_and_the_connection_lives() {
    let house = House::new();
    let mut socket = Socket::to(&house).await;
    let long_id = json!({"type": "ping", "id": "i".repeat(5000)}).to_string();
    let table = [
        ("no json", Value::Null, "invalid_request"),
        ("", Value::Null, "invalid_request"),
        ("[]", Value::Null, "invalid_request"),
        ("{}", Value::Null, "invalid_request"),
        (
            r#"{"type": "ping", "id": 7}"#,
            Value::Null,
            "invalid_request",
        ),
        (long_id.as_str(), Value::Null, "invalid_request"),
        (
            r#"{"type": "dance", "id": "x"}"#,
            json!("x"),
            "invalid_request",
        ),
        (
            r#"{"type": "start", "id": "x"}"#,
            json!("x"),
            "invalid_request",
        ),
        (
            r#"{"type": "start", "id": "x", "prompt": "y", "bogus": 1}"#,
            json!("x"),
            "invalid_request",
        ),
        (
            r#"{"type": "start", "id": "x", "prompt": "corrupt"}"#,
            json!("x"),
            "expert_corrupt",
        ),
        (
            r#"{"type": "start", "id": "x", "prompt": "panics"}"#,
            json!("x"),
            "internal",
        ),
        (
            r#"{"type": "cancel", "id": "never"}"#,
            json!("never"),
            "not_found",
        ),
    ];
    for (text, id, code) in table {
        socket.say_text(text).await;
        let error = socket.json().await;
        assert_eq!(
            (&error["type"], &error["id"], &error["error"]["code"]),
            (&json!("error"), &id, &json!(code)),
            "{text}"
        );
        socket.say(json!({"type": "ping", "id": "p"})).await;
        assert_eq!(socket.json().await, json!({"type": "pong", "id": "p"}));
    }
}

#[actix_rt::test]
async fn an_id_is_used_by_one_stream_at_a_time_and_streams_are_bounded() {
    let house = House::with(&[("BLYAN__EDGE__WS_STREAMS_PER_CONNECTION_MAX", "2")]);
    let mut socket = Socket::to(&house).await;
    socket.say(start("a", "silence")).await;
    socket.wait_for("a", "stream_start").await;
    socket.say(start("a", "hello")).await;
    assert_eq!(
        socket.wait_for("a", "error").await["error"]["code"],
        "invalid_request"
    );
    socket.say(start("b", "silence")).await;
    socket.wait_for("b", "stream_start").await;
    socket.say(start("c", "hello")).await;
    let error = socket.wait_for("c", "error").await;
    assert_eq!(error["error"]["code"], "overloaded");
    assert!(error["error"]["retry_after_ms"].is_number());
}

#[actix_rt::test]
async fn a_message_above_the_bound_ends_the_connection_with_its_reason() {
    let house = House::with(&[("BLYAN__EDGE__BODY_BYTES_MAX", "1000")]);
    let mut socket = Socket::to(&house).await;
    socket.say(start("a", &"x".repeat(5000))).await;
    let error = socket.json().await;
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&Value::Null, &json!("payload_too_large"))
    );
    assert!(matches!(
        socket.hear().await,
        Heard::Closed(Some(CloseCode::Size))
    ));
}

#[actix_rt::test]
async fn a_connection_that_says_nothing_and_answers_no_ping_is_closed() {
    let house = House::with(&[
        ("BLYAN__EDGE__HEARTBEAT_MS", "10"),
        ("BLYAN__EDGE__WS_SILENCE_MS", "60"),
    ]);
    let mut socket = Socket::to(&house).await;
    loop {
        let frame = tokio::time::timeout(PATIENCE, socket.frames.next())
            .await
            .expect("an end");
        match frame {
            Some(Ok(Frame::Ping(_))) => {}
            Some(Ok(Frame::Close(_))) | None => break,
            other => panic!("{other:?}"),
        }
    }
}

#[actix_rt::test]
async fn a_client_that_does_not_read_is_closed_and_its_streams_cancelled() {
    let house = House::with(&[("BLYAN__EDGE__SLOW_READER_MS", "50")]);
    let mut socket = Socket::to(&house).await;
    socket.say(start("a", "flood")).await;
    socket.say(start("b", "flood")).await;
    house.wait_for_cancels(2).await;
}

#[actix_rt::test]
async fn every_stream_and_the_connection_hear_of_a_shutdown() {
    let house = House::new();
    let mut socket = Socket::to(&house).await;
    socket.say(start("a", "silence")).await;
    socket.say(start("b", "silence")).await;
    socket.wait_for("b", "stream_start").await;
    house.stopping.closing.cancel();
    house.stopping.cut.cancel();
    let mut told = Vec::new();
    let code = loop {
        match socket.hear().await {
            Heard::Json(message) if message["type"] == "error" => {
                assert_eq!(message["error"]["code"], "shutting_down");
                told.push(message["id"].as_str().unwrap().to_owned());
            }
            Heard::Json(_) => {}
            Heard::Closed(code) => break code,
        }
    };
    told.sort();
    assert_eq!(told, ["a", "b"]);
    assert_eq!(code, Some(CloseCode::Restart));
}

#[actix_rt::test]
async fn only_the_nodes_own_page_or_no_page_connects() {
    let house = House::new();
    let own = house.url("").trim_end_matches('/').to_owned();
    for (origin, allowed) in [
        (own.as_str(), true),
        ("http://evil.example", false),
        ("null", false),
    ] {
        let connected = client()
            .ws(house.url("/ws/chat"))
            .set_header("origin", origin)
            .connect()
            .await;
        assert_eq!(connected.is_ok(), allowed, "{origin}");
    }
    let foreign = client()
        .ws(house.url("/ws/chat"))
        .set_header("host", "evil.example")
        .connect()
        .await;
    assert!(foreign.is_err());
}
