//! Canonical JSON: one spelling for each value, the one that serde_json reads as the same value.

use blyan_formats::canonical::{from_canonical, to_canonical};
use serde_json::{Value, json};

use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "canonical",
    run,
    seeds,
};

/// The tree of an object with one key takes some 640 bytes; `{"":0},` are seven.
const GROWTH: usize = 128;

fn run(input: &[u8]) {
    let read = heap::bounded(input, GROWTH, from_canonical::<Value>);
    let second: Option<Value> = serde_json::from_slice(input).ok();
    match read {
        Ok(value) => {
            assert_eq!(to_canonical(&value).as_deref(), Ok(input));
            assert_eq!(second, Some(value));
        }
        Err(_) => {
            if let Some(value) = second {
                another_spelling(input, &value);
            }
        }
    }
}

/// What was refused and yet is JSON has another canonical form, or none.
fn another_spelling(input: &[u8], value: &Value) {
    let Ok(canonical) = to_canonical(value) else {
        return;
    };
    assert_ne!(canonical, input, "the canonical form was refused");
    assert_eq!(from_canonical::<Value>(&canonical).as_ref(), Ok(value));
}

fn seeds() -> Vec<Vec<u8>> {
    let values = [
        json!(null),
        json!([true, false, 0, -1, u64::MAX, i64::MIN]),
        json!({"a": {"b": [], "c": {}}, "": "\u{8}\u{c}\n\r\t\"\\/\u{7f}"}),
        json!({"\u{e9}": "\u{1f600}", "\u{ffff}": "\u{10000}"}),
        json!([[[[[[[["deep"]]]]]]]]),
    ];
    let mut seeds: Vec<_> = values
        .iter()
        .map(|value| to_canonical(value).expect("no float"))
        .collect();
    let others = [
        " {\"a\" : 1.5e3}",
        "\"\\ud83d\\u0041\"",
        "{\"a\":1,\"a\":2}",
    ];
    seeds.extend(others.map(|text| text.as_bytes().to_vec()));
    seeds
}
