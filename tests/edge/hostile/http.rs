//! JSON bodies, and HTTP that no client sends.

use std::net::SocketAddr;

use serde_json::Value;

use crate::house::House;
use crate::wire::{Wire, filled, noise, seeded};

const CHAT: &str = "/chat";
const JSON: &str = "content-type: application/json\r\n";
const OPENAI: &str = "/v1/chat/completions";

/// A request with the status that it must be answered with.
struct Attack {
    what: String,
    path: &'static str,
    headers: String,
    body: Vec<u8>,
    status: u16,
}

impl Attack {
    fn bytes(&self, at: SocketAddr) -> Vec<u8> {
        let Self { path, headers, .. } = self;
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n{headers}\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// A request that brings this body.
fn post(
    path: &'static str,
    what: impl Into<String>,
    body: impl AsRef<[u8]>,
    status: u16,
) -> Attack {
    let body = body.as_ref();
    let headers = format!("{JSON}content-length: {}\r\n", body.len());
    raw(path, what, headers, body, status)
}

fn raw(
    path: &'static str,
    what: impl Into<String>,
    headers: impl Into<String>,
    body: impl AsRef<[u8]>,
    status: u16,
) -> Attack {
    Attack {
        what: format!("{path}: {}", what.into()),
        path,
        headers: headers.into(),
        body: body.as_ref().to_owned(),
        status,
    }
}

fn fight(house: &mut House, attacks: Vec<Attack>) {
    let hello = post(CHAT, "hello", r#"{"prompt":"hello"}"#, 200).bytes(house.at);
    for attack in attacks {
        let (what, bytes) = (&attack.what, attack.bytes(house.at));
        let answer = house.bounded(what, bytes.len(), |at| {
            let mut wire = Wire::to(at);
            wire.send(&bytes);
            wire.rest()
        });
        check(what, &answer, attack.status);
        let mut next = Wire::to(house.at);
        next.send(&hello);
        check(&format!("after {what}"), &next.rest(), 200);
    }
}

fn check(what: &str, answer: &str, status: u16) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let found = head.get(9..12).and_then(|code| code.parse().ok());
    assert_eq!(found, Some(status), "{what}: {answer:.400}");
    // What is no HTTP never reaches a handler, and has no body.
    if status >= 400 && !body.is_empty() {
        let error: Value = serde_json::from_str(body)
            .unwrap_or_else(|fault| panic!("{what}: {fault}: {body:.400}"));
        let sentence = error["error"]["message"].as_str().unwrap();
        assert!((1..400).contains(&sentence.len()), "{what}: {sentence}");
        assert!(error["error"]["code"].is_string(), "{what}: {error}");
    }
}

#[test]
fn bodies_of_another_shape_are_refused() {
    let (mut house, mut rng) = (House::new(), seeded());
    let mut attacks = Vec::new();
    for path in [CHAT, "/chat/stream", OPENAI] {
        attacks.push(post(path, "64 KiB of noise", noise(&mut rng, 65_536), 400));
        attacks.push(post(path, "not UTF-8", b"{\"prompt\":\"\xff\"}", 400));
        for body in [
            "",
            " ",
            "null",
            "7",
            "\"a\"",
            "[]",
            "{}",
            "{}{}",
            "{\"prompt\":",
            "\u{feff}{}",
            r#"{"prompt":"\ud800"}"#,
        ] {
            attacks.push(post(path, body, body, 400));
        }
    }
    let whole = r#"{"messages":[{"role":"user","content":"\u00e9"}],"stop":["a"],"seed":7}"#;
    attacks.extend((0..whole.len()).map(|end| post(CHAT, &whole[..end], &whole[..end], 400)));
    for field in [
        r#""content":7"#,
        r#""content":{}"#,
        r#""content":[7]"#,
        r#""content":[{"type":"image_url","text":"a"}]"#,
        r#""content":[{"type":"text"}]"#,
        r#""content":[{"type":"text","text":7}]"#,
    ] {
        attacks.push(post(
            OPENAI,
            field,
            format!(r#"{{"messages":[{{"role":"user",{field}}}]}}"#),
            400,
        ));
    }
    for field in [
        r#""tools":7"#,
        r#""tools":[{}]"#,
        r#""functions":["a"]"#,
        r#""logit_bias":{"1":2}"#,
        r#""response_format":{"type":"json_object"}"#,
        r#""response_format":{"type":7}"#,
        r#""stop":["a",7]"#,
        r#""stream_options":7"#,
        r#""n":1e999"#,
    ] {
        attacks.push(post(
            OPENAI,
            field,
            format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{field}}}"#),
            400,
        ));
    }
    fight(&mut house, attacks);
}

#[test]
fn bodies_as_long_as_the_bound_cost_no_more_than_their_bytes() {
    let mut house = House::new();
    let len = house.bound;
    let mut attacks = Vec::new();
    for path in [CHAT, OPENAI] {
        for nested in ["[", r#"{"a":"#] {
            attacks.push(post(
                path,
                format!("{nested} without end"),
                filled("", nested, "", len),
                400,
            ));
            attacks.push(post(
                path,
                format!("{nested} inside"),
                filled(&format!(r#"{{"bogus":{nested}"#), nested, "", len),
                400,
            ));
        }
        for (field, unit) in [
            ("bogus", "1"),
            ("bogus", "{}"),
            ("stop", "1"),
            ("stop", "\"\""),
            ("messages", "1"),
        ] {
            let open = format!(r#"{{"{field}":[{unit}"#);
            attacks.push(post(
                path,
                format!("a list of {unit} as {field}"),
                filled(&open, &format!(",{unit}"), "]}", len),
                400,
            ));
        }
        let user = r#"{"role":"user","content":""}"#;
        let empty = filled(
            &format!(r#"{{"messages":[{user}"#),
            &format!(",{user}"),
            "]}",
            len,
        );
        attacks.push(post(path, "empty messages", empty, 200));
        let text = filled(
            r#"{"messages":[{"role":"user","content":"\n"#,
            "a",
            r#""}]}"#,
            len,
        );
        attacks.push(post(path, "a text of the bound with an escape", text, 200));
        attacks.push(post(
            path,
            "a body above the bound",
            filled("", " ", "", len + 1),
            413,
        ));
    }
    let beside = r#"{"messages":[{"role":"user","content":"a"}],"#;
    for (field, open, unit, close, status) in [
        ("tools", "[1", ",1", "]", 400),
        ("functions", "[[]", ",[]", "]", 400),
        ("logit_bias", r#"{"":1"#, r#","":1"#, "}", 400),
        (
            "response_format",
            r#"{"type":"text","a":[1"#,
            ",1",
            "]}",
            200,
        ),
        ("response_format", r#"{"type":[1"#, ",1", "]}", 400),
        ("metadata", "[1", ",1", "]", 200),
    ] {
        let open = format!(r#"{beside}"{field}":{open}"#);
        attacks.push(post(
            OPENAI,
            format!("a long {field}"),
            filled(&open, unit, &format!("{close}}}"), len),
            status,
        ));
    }
    for (what, part, status) in [
        ("a list of numbers as content", "1", 400),
        ("many parts", r#"{"type":"text","text":""}"#, 200),
    ] {
        let open = format!(r#"{{"messages":[{{"role":"user","content":[{part}"#);
        attacks.push(post(
            OPENAI,
            what,
            filled(&open, &format!(",{part}"), "]}]}", len),
            status,
        ));
    }
    let open = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a","bogus":[1"#;
    attacks.push(post(
        OPENAI,
        "a part with much beside it",
        filled(open, ",1", "]}]}]}", len),
        200,
    ));
    fight(&mut house, attacks);
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let mut house = House::new();
    let length = |value: &str| format!("{JSON}content-length: {value}\r\n");
    let chunked = format!("{JSON}transfer-encoding: chunked\r\n");
    let above = format!(
        "{:x}\r\n{}\r\n0\r\n\r\n",
        house.bound + 1,
        " ".repeat(house.bound + 1)
    );
    let header = |len: usize| format!("{JSON}x: {}\r\n", "a".repeat(len));
    let attacks = vec![
        raw(
            CHAT,
            "2^40 bytes announced",
            length("1099511627776"),
            b"{",
            413,
        ),
        raw(
            CHAT,
            "2^64 bytes announced",
            length("18446744073709551616"),
            b"{",
            400,
        ),
        raw(CHAT, "a negative length", length("-1"), b"{", 400),
        raw(
            CHAT,
            "two lengths",
            length("2") + "content-length: 3\r\n",
            b"{} ",
            400,
        ),
        raw(
            CHAT,
            "a length and chunks",
            length("2") + "transfer-encoding: chunked\r\n",
            b"0\r\n\r\n",
            400,
        ),
        raw(
            CHAT,
            "chunks above the bound",
            chunked.clone(),
            above.as_bytes(),
            413,
        ),
        raw(
            CHAT,
            "a chunk of 2^64 bytes",
            chunked.clone(),
            b"10000000000000000\r\n{",
            400,
        ),
        raw(
            CHAT,
            "a chunk without a size",
            chunked.clone(),
            b"xyz\r\n{",
            400,
        ),
        raw(CHAT, "no type", "content-length: 2\r\n", b"{}", 400),
        raw(
            CHAT,
            "another type",
            "content-type: text/plain\r\ncontent-length: 2\r\n",
            b"{}",
            400,
        ),
        raw(CHAT, "a long header", header(200_000), b"", 431),
        raw(CHAT, "many headers", "x: y\r\n".repeat(20_000), b"", 431),
    ];
    fight(&mut house, attacks);
}
