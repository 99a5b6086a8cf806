//! JSON messages on `WS /ws/chat`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::house::House;
use crate::websocket::{Attack, Then, assert_error, attack, fight, ping};
use crate::wire::{FIN, Heard, PING, Wire, filled, frame, start, text};

/// A text message that is refused without a usable id.
fn refused(what: &str, message: &str) -> Attack {
    attack(
        what,
        text(message),
        Then::Refused(Value::Null, "invalid_request"),
    )
}

/// A text message that is refused with the id `x`.
fn refused_x(what: &str, message: &str) -> Attack {
    attack(
        what,
        text(message),
        Then::Refused(json!("x"), "invalid_request"),
    )
}

#[test]
fn messages_of_another_shape_are_refused_and_the_connection_lives() {
    let mut house = House::new();
    let len = house.bound;
    let id = |id: &str| format!(r#"{{"type":"ping","id":{id}}}"#);
    let mut attacks: Vec<_> = [
        "",
        " ",
        "null",
        "true",
        "42",
        "-",
        "\"text\"",
        "[]",
        "{}",
        "{",
        "}",
        "{}{}",
        "{} x",
        "\u{feff}{}",
        "\0",
    ]
    .into_iter()
    .map(|message| refused(&format!("{message:?}"), message))
    .collect();
    for nested in ["[", "{\"a\":", "[{\"a\":"] {
        attacks.push(refused(
            &format!("{nested} without end"),
            &filled("", nested, "", len),
        ));
        let inside = filled(
            &format!(r#"{{"type":"start","id":"x","bogus":{nested}"#),
            nested,
            "",
            len,
        );
        attacks.push(refused(&format!("{nested} inside"), &inside));
        let prompt = filled(
            &format!(r#"{{"type":"start","id":"x","prompt":{nested}"#),
            nested,
            "",
            len,
        );
        attacks.push(refused(&format!("{nested} as prompt"), &prompt));
    }
    for wrong in ["7", "null", "true", "{}", "\"\"", "1e999", "\"\\ud800\""] {
        attacks.push(refused(&format!("id {wrong}"), &id(wrong)));
    }
    attacks.extend([
        refused("a long id", &id(&format!("\"{}\"", "i".repeat(129)))),
        refused(
            "an id of the bound",
            &filled(r#"{"type":"ping","id":""#, "i", "\"}", len),
        ),
        refused(
            "an id of numbers",
            &filled(r#"{"type":"ping","id":[1"#, ",1", "]}", len),
        ),
        refused("no id", r#"{"type":"ping"}"#),
        refused("two ids", r#"{"type":"ping","id":"x","id":"y"}"#),
        refused("a line end in a text", "{\"type\":\"ping\",\"id\":\"x\n\"}"),
        refused_x("no type", r#"{"id":"x"}"#),
        refused_x("another type", r#"{"id":"x","type":"dance"}"#),
        refused_x("a number as type", r#"{"id":"x","type":7}"#),
        refused_x(
            "numbers as type",
            &filled(r#"{"id":"x","type":[1"#, ",1", "]}", len),
        ),
        refused_x("an empty start", r#"{"type":"start","id":"x"}"#),
        attack(
            "a cancel of nothing",
            text(r#"{"type":"cancel","id":"x"}"#),
            Then::Refused(json!("x"), "not_found"),
        ),
    ]);
    fight(&mut house, attacks);
}

#[test]
fn starts_that_cannot_be_followed_are_refused_and_the_connection_lives() {
    let mut house = House::new();
    let messages = [
        "[]",
        "[7]",
        r#"[{"role":"user"}]"#,
        r#"[{"role":"robot","content":"a"}]"#,
        r#"[{"role":"user","content":"a","bogus":1}]"#,
        r#"[{"role":"user","content":["a"]}]"#,
    ];
    let alone = ["7", "null", r#"["a"]"#].map(|value| ("prompt", value));
    let alone = alone
        .into_iter()
        .chain(messages.map(|value| ("messages", value)));
    let beside = [
        ("prompt", "\"b\""),
        ("messages", r#"[{"role":"user","content":"a"}]"#),
        ("max_tokens", "-1"),
        ("max_tokens", "1.5"),
        ("max_tokens", "18446744073709551616"),
        ("max_tokens", "\"7\""),
        ("temperature", "\"hot\""),
        ("temperature", "1e999"),
        ("seed", "-1"),
        ("seed", "99999999999999999999999999"),
        ("stop", "7"),
        ("stop", "{}"),
        ("stop", r#"["a","b","c","d","e"]"#),
        ("use_moe", "1"),
        ("use_moe", r#"false,"top_k_experts":4"#),
        ("top_k_experts", "[]"),
        ("bogus", "1"),
        ("\\u0000", "1"),
    ];
    let refusal = |fields: String| refused_x(&fields, &start(&fields));
    let mut attacks: Vec<_> = alone
        .map(|(field, value)| refusal(format!(r#""{field}":{value}"#)))
        .collect();
    attacks
        .extend(beside.map(|(field, value)| refusal(format!(r#""prompt":"a","{field}":{value}"#))));
    for no_json in [r#""top_p":NaN"#, r#""prompt":"\x""#, r#""prompt":'a'"#] {
        attacks.push(refused(no_json, &start(no_json)));
    }
    fight(&mut house, attacks);
}

#[test]
fn lists_as_long_as_the_bound_cost_no_more_than_their_bytes() {
    let mut house = House::new();
    let len = house.bound;
    let open = |field: &str, unit: &str| format!(r#"{{"type":"start","id":"x","{field}":[{unit}"#);
    let list = |field: &str, unit: &str| filled(&open(field, unit), &format!(",{unit}"), "]}", len);
    let refusals = [
        ("bogus", "1"),
        ("bogus", "{}"),
        ("bogus", "\"\""),
        ("stop", "1"),
        ("stop", "\"\""),
        ("prompt", "1"),
        ("messages", "1"),
        ("messages", "{}"),
        ("seed", "[]"),
        ("use_moe", "null"),
    ];
    let mut attacks: Vec<_> = refusals
        .into_iter()
        .map(|(field, unit)| refused_x(&format!("a list of {unit} as {field}"), &list(field, unit)))
        .collect();
    let empty = list("messages", r#"{"role":"user","content":""}"#);
    attacks.push(attack("empty messages", text(&empty), Then::Streams));
    let digits = filled(
        r#"{"type":"start","id":"x","prompt":"a","seed":1"#,
        "1",
        "}",
        len,
    );
    attacks.push(refused_x("a number of many digits", &digits));
    for (what, open, close) in [
        ("a long field", r#""prompt":"a",""#, r#"":1}"#),
        (
            "a long text for a number",
            r#""prompt":"a","temperature":""#,
            r#""}"#,
        ),
        (
            "a long role",
            r#""messages":[{"content":"","role":""#,
            r#""}]}"#,
        ),
    ] {
        let open = format!(r#"{{"type":"start","id":"x",{open}"#);
        attacks.push(refused_x(what, &filled(&open, "\u{e9}", close, len)));
    }
    let fields: String = (0..len / 20)
        .map(|number| format!(r#","f{number}":0"#))
        .collect();
    attacks.push(refused_x(
        "many fields",
        &start(&format!(r#""prompt":"a"{fields}"#)),
    ));
    fight(&mut house, attacks);
}

#[test]
fn every_beginning_of_a_message_is_refused() {
    let mut house = House::new();
    let whole = start(
        r#""messages":[{"role":"user","content":"\u00e9"}],"max_tokens":3,"stop":["a"],"seed":7"#,
    );
    let beginnings: Vec<_> = (0..whole.len()).map(|end| text(&whole[..end])).collect();
    let sent = beginnings.iter().map(Vec::len).sum();
    house.bounded("beginnings", sent, |at: SocketAddr| {
        let mut wire = Wire::websocket(at);
        for (end, bytes) in beginnings.iter().enumerate() {
            wire.send(bytes);
            assert_error(&whole[..end], &wire.hear(), &Value::Null, "invalid_request");
        }
        wire.send(&text(&whole));
        assert!(matches!(wire.hear(), Heard::Json(said) if said["type"] == "stream_start"));
    });
}

#[test]
fn streams_beyond_the_bound_of_a_connection_and_double_ids_are_refused() {
    let mut house = House::new();
    let begin = |id: usize| {
        text(&format!(
            r#"{{"type":"start","id":"{id}","prompt":"silence"}}"#
        ))
    };
    let bytes: Vec<u8> = (0..2000)
        .map(|number| number % 1000)
        .flat_map(begin)
        .collect();
    house.bounded("many streams", bytes.len(), |at: SocketAddr| {
        let mut wire = Wire::websocket(at);
        wire.send(&bytes);
        wire.send(&frame(FIN | PING, b"done"));
        let (mut started, mut codes) = (0, std::collections::BTreeSet::new());
        loop {
            match wire.hear() {
                Heard::Json(said) if said["type"] == "stream_start" => started += 1,
                Heard::Json(said) => {
                    _ = codes.insert(said["error"]["code"].as_str().unwrap().to_owned())
                }
                Heard::Pong(_) => break,
                end => panic!("{end:?}"),
            }
        }
        assert!(started <= 16, "{started} streams");
        assert!(
            codes
                .iter()
                .all(|code| ["overloaded", "invalid_request"].contains(&code.as_str())),
            "{codes:?}"
        );
    });
    ping("after many streams", &mut Wire::websocket(house.at));
}
