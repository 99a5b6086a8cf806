//! `WS /ws/chat`.

use rand::Rng;
use serde_json::{Value, json};

use crate::house::House;
use crate::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, Heard, PING, PONG, TEXT, Wire, filled, fragments, frame,
    head, noise, seeded, start, text,
};

/// What must come of an input.
pub enum Then {
    /// An error about this stream; the connection lives.
    Refused(Value, &'static str),
    /// Nothing is wrong; the connection lives.
    Lives,
    /// A stream, from its start to its end; the connection lives.
    Streams,
    /// The error `payload_too_large`, then a close with 1009.
    TooLarge,
    /// A close with this code.
    Closed(u16),
    /// More is waited for; the end of the connection ends it.
    Waits,
    /// Errors and closes, in any order.
    Anything,
}

pub struct Attack {
    what: String,
    bytes: Vec<u8>,
    then: Then,
}

pub fn attack(what: impl Into<String>, bytes: Vec<u8>, then: Then) -> Attack {
    Attack {
        what: what.into(),
        bytes,
        then,
    }
}

pub fn fight(house: &mut House, attacks: Vec<Attack>) {
    for Attack { what, bytes, then } in attacks {
        house.bounded(&what, bytes.len(), |at| {
            let mut wire = Wire::websocket(at);
            wire.send(&bytes);
            expect(&what, wire, then);
        });
        let mut next = Wire::websocket(house.at);
        ping(&what, &mut next);
    }
}

fn expect(what: &str, mut wire: Wire, then: Then) {
    match then {
        Then::Refused(id, code) => {
            assert_error(what, &wire.hear(), &id, code);
            ping(what, &mut wire);
        }
        Then::Lives => ping(what, &mut wire),
        Then::Streams => {
            for kind in ["stream_start", "token", "token", "stream_end"] {
                let heard = wire.hear();
                assert!(
                    matches!(&heard, Heard::Json(said) if said["type"] == kind),
                    "{what}: {heard:?}"
                );
            }
            ping(what, &mut wire);
        }
        Then::TooLarge => match wire.hear() {
            // What was still on its way made the system reset the connection.
            Heard::Gone => {}
            heard => {
                assert_error(what, &heard, &Value::Null, "payload_too_large");
                let end = wire.hear();
                assert!(
                    matches!(end, Heard::Closed(1009) | Heard::Gone),
                    "{what}: {end:?}"
                );
            }
        },
        Then::Closed(code) => assert_eq!(wire.hear(), Heard::Closed(code), "{what}"),
        Then::Waits => {
            wire.finish();
            assert_eq!(wire.hear(), Heard::Gone, "{what}");
        }
        Then::Anything => {
            wire.finish();
            while !matches!(wire.hear(), Heard::Closed(_) | Heard::Gone) {}
        }
    }
}

pub fn assert_error(what: &str, heard: &Heard, id: &Value, code: &str) {
    let Heard::Json(said) = heard else {
        panic!("{what}: {heard:?}");
    };
    let found = (&said["type"], &said["id"], &said["error"]["code"]);
    assert_eq!(found, (&json!("error"), id, &json!(code)), "{what}: {said}");
    let sentence = said["error"]["message"].as_str().unwrap();
    assert!((1..400).contains(&sentence.len()), "{what}: {sentence}");
}

pub fn ping(what: &str, wire: &mut Wire) {
    wire.send(&text(r#"{"type":"ping","id":"p"}"#));
    assert_eq!(
        wire.hear(),
        Heard::Json(json!({"type": "pong", "id": "p"})),
        "{what}"
    );
}

#[test]
fn noise_is_refused() {
    let (mut house, mut rng) = (House::new(), seeded());
    let mut attacks = vec![
        attack(
            "64 KiB of noise as binary",
            frame(FIN | BINARY, &noise(&mut rng, 65_536)),
            Then::Closed(1003),
        ),
        attack(
            "64 KiB of noise as text",
            frame(FIN | TEXT, &noise(&mut rng, 65_536)),
            Then::Closed(1007),
        ),
    ];
    for number in 0..20 {
        let len = rng.random_range(1..65_536);
        attacks.push(attack(
            format!("raw noise {number}"),
            noise(&mut rng, len),
            Then::Anything,
        ));
    }
    for number in 0..20 {
        let mut bytes = text(&start(r#""prompt":"hello","max_tokens":3"#));
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        attacks.push(attack(
            format!("flipped bit {number}"),
            bytes,
            Then::Anything,
        ));
    }
    fight(&mut house, attacks);
}

#[test]
fn broken_frames_end_the_connection() {
    let mut house = House::new();
    let bound = house.bound as u64;
    let mut unmasked = text("{}");
    unmasked[1] &= 0x7f;
    let mut attacks = vec![
        attack("unmasked", unmasked, Then::Closed(1002)),
        attack(
            "a continuation of nothing",
            frame(FIN | CONTINUATION, b"{}"),
            Then::Closed(1002),
        ),
        attack(
            "a text inside a text",
            [frame(TEXT, b"{"), text("{}")].concat(),
            Then::Closed(1002),
        ),
        attack(
            "a binary inside a text",
            [frame(TEXT, b"{"), frame(FIN | BINARY, b"")].concat(),
            Then::Closed(1002),
        ),
        attack(
            "a second beginning",
            [frame(TEXT, b"{"), frame(TEXT, b"{")].concat(),
            Then::Closed(1002),
        ),
        attack(
            "a long ping",
            frame(FIN | PING, &[0; 126]),
            Then::Closed(1002),
        ),
        attack(
            "a long pong",
            frame(FIN | PONG, &[0; 126]),
            Then::Closed(1002),
        ),
        attack(
            "a long close",
            frame(FIN | CLOSE, &[3; 126]),
            Then::Closed(1002),
        ),
        attack("a ping in fragments", frame(PING, b"p"), Then::Closed(1002)),
        attack(
            "binary in fragments",
            [frame(BINARY, b"p"), frame(FIN | CONTINUATION, b"q")].concat(),
            Then::Closed(1003),
        ),
        attack(
            "text that is not UTF-8",
            frame(FIN | TEXT, b"{\"type\":\"\xff\"}"),
            Then::Closed(1007),
        ),
        attack(
            "not UTF-8 in fragments",
            fragments(b"{\"\xf0\x9f\x98", 3),
            Then::Closed(1007),
        ),
        attack(
            "more than the bound is announced",
            head(FIN | TEXT, bound + 1),
            Then::TooLarge,
        ),
        attack(
            "4 GiB are announced",
            head(FIN | TEXT, 1 << 32),
            Then::TooLarge,
        ),
        attack(
            "2^63 - 1 bytes are announced",
            head(FIN | TEXT, i64::MAX as u64),
            Then::TooLarge,
        ),
        attack(
            "2^64 - 1 bytes are announced",
            head(FIN | BINARY, u64::MAX),
            Then::TooLarge,
        ),
        attack(
            "a ping of 2^40 bytes is announced",
            head(FIN | PING, 1 << 40),
            Then::Closed(1002),
        ),
        attack(
            "fragments that are announced beyond the bound",
            [frame(TEXT, &[b' '; 100]), head(CONTINUATION, bound - 99)].concat(),
            Then::TooLarge,
        ),
        attack(
            "the bound is announced",
            head(FIN | TEXT, bound),
            Then::Waits,
        ),
        attack("half a head", vec![FIN | TEXT], Then::Waits),
        attack(
            "a head without its length",
            vec![FIN | TEXT, 0xff, 0, 0],
            Then::Waits,
        ),
        attack("half a message", text("{}")[..7].to_vec(), Then::Waits),
        attack("fragments without an end", frame(TEXT, b"{}"), Then::Waits),
        attack(
            "a close with half a code",
            frame(FIN | CLOSE, &[3]),
            Then::Anything,
        ),
        attack(
            "a close with no such code",
            frame(FIN | CLOSE, &999_u16.to_be_bytes()),
            Then::Anything,
        ),
        attack(
            "a close with noise",
            frame(FIN | CLOSE, b"\x03\xe8\xff\xfe"),
            Then::Anything,
        ),
    ];
    for bit in [0x10, 0x20, 0x40] {
        attacks.push(attack(
            format!("reserved bit {bit:#x}"),
            frame(FIN | bit | TEXT, b"{}"),
            Then::Closed(1002),
        ));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        attacks.push(attack(
            format!("opcode {opcode}"),
            frame(FIN | opcode, b"{}"),
            Then::Closed(1002),
        ));
    }
    fight(&mut house, attacks);
}

#[test]
fn sizes_are_bounded_before_memory_is_taken() {
    let mut house = House::new();
    let bound = house.bound;
    let prompt_of = |len| filled(r#"{"type":"start","id":"x","prompt":""#, "a", r#""}"#, len);
    let escapes_of = |len| {
        filled(
            r#"{"type":"start","id":"x","prompt":"\n"#,
            "\\u00e9",
            r#""}"#,
            len,
        )
    };
    let many_pings = frame(FIN | PING, b"").repeat(5000);
    let empty = frame(CONTINUATION, b"").repeat(50_000);
    let empty_fragments = [frame(TEXT, b""), empty, frame(FIN | CONTINUATION, b"")].concat();
    let endless = [frame(TEXT, b""), frame(CONTINUATION, b" ").repeat(bound)].concat();
    let attacks = vec![
        attack(
            "a prompt of the bound",
            text(&prompt_of(bound)),
            Then::Streams,
        ),
        attack(
            "a prompt of the bound with an escape",
            text(&prompt_of(bound).replacen("aa", "\\n", 1)),
            Then::Streams,
        ),
        attack(
            "a prompt of escapes",
            text(&escapes_of(bound)),
            Then::Streams,
        ),
        attack(
            "a prompt above the bound",
            text(&prompt_of(bound + 1)),
            Then::TooLarge,
        ),
        attack(
            "a prompt far above the bound",
            text(&prompt_of(8 * bound)),
            Then::TooLarge,
        ),
        attack(
            "fragments above the bound",
            fragments(prompt_of(2 * bound).as_bytes(), 1000),
            Then::TooLarge,
        ),
        attack(
            "a prompt of the bound in two",
            fragments(prompt_of(bound).as_bytes(), bound / 2),
            Then::Streams,
        ),
        attack(
            "empty fragments",
            empty_fragments,
            Then::Refused(Value::Null, "invalid_request"),
        ),
        attack(
            "fragments of one byte up to the bound",
            fragments(prompt_of(bound).as_bytes(), 1),
            Then::Streams,
        ),
        attack("fragments of one byte without an end", endless, Then::Waits),
        attack(
            "5,000 empty pings and no wish for a pong",
            many_pings,
            Then::Anything,
        ),
        attack(
            "pongs that nobody asked for",
            frame(FIN | PONG, b"x").repeat(5000),
            Then::Lives,
        ),
        attack(
            "many small messages",
            text(r#"{"type":"cancel","id":"x"}"#).repeat(2000),
            Then::Anything,
        ),
        attack(
            "spaces up to the bound",
            text(&filled("", " ", "", bound)),
            Then::Refused(Value::Null, "invalid_request"),
        ),
    ];
    fight(&mut house, attacks);
}
