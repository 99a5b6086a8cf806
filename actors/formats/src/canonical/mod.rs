//! The one canonical JSON of everything that is hashed or signed (CHAIN-21 to 23).
//!
//! Byte for byte what Python's `json.dumps(value, sort_keys=True, separators=(",", ":"))` writes: keys in code point
//! order, no white space, everything outside of printable ASCII as lower-case `\uXXXX` (surrogate pairs above U+FFFF)
//! except for `\b \f \n \r \t \" \\`. Narrower than Python: floats are refused (so are NaN and
//! infinity), integers lie within `i64` or `u64`, no key stands twice, and two bounds keep a hostile input cheap:
//! [`DEPTH_MAX`] and [`TEXT_LEN_MAX`].

mod scan;
mod ser;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use ser::to_canonical;

/// Deepest nesting of lists and objects.
pub const DEPTH_MAX: usize = 32;

/// Longest text or key as it is written between its quotes, in bytes.
pub const TEXT_LEN_MAX: usize = 64 * 1024;

/// Longest input of [`from_canonical`], in bytes.
pub const CANONICAL_LEN_MAX: usize = 16 << 20;

/// Longest input that is decoded before it is scanned, in bytes: whatever it is, it cannot make a decoder take much.
const UNSCANNED_LEN_MAX: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("floats have no canonical form; use integers or decimal texts")]
    Float,
    #[error("integers must lie within i64 or u64")]
    IntegerRange,
    #[error("keys of objects must be texts")]
    KeyNotText,
    #[error("key {0:?} stands twice in one object")]
    DuplicateKey(String),
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("a text is longer than {TEXT_LEN_MAX} bytes")]
    TextTooLong,
    #[error("{len} bytes, more than {len_max}")]
    TooLong { len: usize, len_max: usize },
    #[error("not canonical JSON at byte {at}: {what}")]
    Syntax { at: usize, what: &'static str },
    #[error("value does not fit: {0}")]
    Shape(String),
    #[error("this is not the canonical form of the value that it holds")]
    NotCanonical,
}

/// Whether a character of a text stands for itself.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Longest part of a decoder's message that is kept, in characters: it may quote the input.
const MESSAGE_LEN_MAX: usize = 200;

fn shape_error(message: &impl std::fmt::Display) -> CanonicalError {
    CanonicalError::Shape(message.to_string().chars().take(MESSAGE_LEN_MAX).collect())
}

/// Reads a value from its canonical JSON of at most [`CANONICAL_LEN_MAX`] bytes; see [`from_canonical_bounded`].
///
/// # Errors
/// As [`from_canonical_bounded`].
pub fn from_canonical<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CanonicalError> {
    from_canonical_bounded(bytes, CANONICAL_LEN_MAX)
}

/// Reads a value from its canonical JSON and refuses all other bytes, so that one value has one hash. A long text is
/// scanned in place first, so nothing is allocated for one that is no canonical JSON.
///
/// # Errors
/// [`CanonicalError::TooLong`], [`CanonicalError::Syntax`] and its kin from the scan, [`CanonicalError::Shape`] if the
/// value is no `T`, [`CanonicalError::NotCanonical`] if `T` would write itself differently (for instance a `null` for
/// an absent field).
pub fn from_canonical_bounded<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    len_max: usize,
) -> Result<T, CanonicalError> {
    if bytes.len() > len_max {
        return Err(CanonicalError::TooLong {
            len: bytes.len(),
            len_max,
        });
    }
    // What `T` itself would write is canonical without a scan.
    if bytes.len() <= UNSCANNED_LEN_MAX
        && let Ok(value) = serde_json::from_slice::<T>(bytes)
        && to_canonical(&value).is_ok_and(|written| written == bytes)
    {
        return Ok(value);
    }
    read_scanned(bytes)
}

fn read_scanned<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CanonicalError> {
    scan::check_canonical(bytes)?;
    let value: T = serde_json::from_slice(bytes).map_err(|error| shape_error(&error))?;
    if to_canonical(&value)? != bytes {
        return Err(CanonicalError::NotCanonical);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;

    fn text_of(value: &impl Serialize) -> String {
        String::from_utf8(to_canonical(value).unwrap()).unwrap()
    }

    /// Reads it both ways, as a short text and as a long one.
    fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
        bytes: &[u8],
    ) -> Result<T, CanonicalError> {
        let read = from_canonical(bytes);
        assert_eq!(read, read_scanned(bytes));
        read
    }

    fn refusal(text: &str) -> CanonicalError {
        read::<Value>(text.as_bytes()).expect_err(text)
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        Newtype(u8),
        Pair(i8, String),
        Fields { b: bool, a: Option<char> },
    }

    #[derive(Serialize)]
    struct Nothing;

    #[derive(Serialize)]
    struct Wrapped(u8);

    struct Bytes(&'static [u8]);

    impl Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_bytes(self.0)
        }
    }

    #[test]
    fn every_shape_of_serde_has_a_form() {
        assert_eq!(text_of(&Shape::Unit), r#""Unit""#);
        assert_eq!(text_of(&Shape::Newtype(7)), r#"{"Newtype":7}"#);
        assert_eq!(
            text_of(&Shape::Pair(-1, "x".into())),
            r#"{"Pair":[-1,"x"]}"#
        );
        assert_eq!(
            text_of(&Shape::Fields {
                b: true,
                a: Some('ß')
            }),
            r#"{"Fields":{"a":"\u00df","b":true}}"#
        );
        assert_eq!(text_of(&()), "null");
        assert_eq!(text_of(&None::<u8>), "null");
        assert_eq!(text_of(&Nothing), "null");
        assert_eq!(text_of(&Wrapped(7)), "7");
        assert_eq!(text_of(&Bytes(b"\0a")), "[0,97]");
        assert_eq!(text_of(&(1, [2_u8; 2])), "[1,[2,2]]");
        assert_eq!(
            text_of(&HashMap::from([("b", 1), ("a", 2)])),
            r#"{"a":2,"b":1}"#
        );
        assert_eq!(text_of(&i128::from(u64::MAX)), "18446744073709551615");
    }

    #[test]
    fn shapes_are_read_back() {
        for shape in [
            Shape::Unit,
            Shape::Newtype(0),
            Shape::Pair(i8::MIN, "\u{1f600}\u{7f}".into()),
        ] {
            assert_eq!(
                read::<Shape>(&to_canonical(&shape).unwrap()).unwrap(),
                shape
            );
        }
    }

    #[test]
    fn floats_are_refused() {
        assert_eq!(to_canonical(&1.0_f64), Err(CanonicalError::Float));
        assert_eq!(to_canonical(&f32::NAN), Err(CanonicalError::Float));
        assert_eq!(
            to_canonical(&json!({"a": [0.5]})),
            Err(CanonicalError::Float)
        );
        assert_eq!(refusal("1.0"), CanonicalError::Float);
        assert_eq!(refusal("[1e3]"), CanonicalError::Float);
        assert!(matches!(refusal("NaN"), CanonicalError::Syntax { .. }));
        assert!(matches!(
            refusal("-Infinity"),
            CanonicalError::Syntax { .. }
        ));
    }

    #[test]
    fn integers_stay_within_64_bits() {
        for number in ["-9223372036854775808", "18446744073709551615", "0", "-1"] {
            assert_eq!(text_of(&read::<Value>(number.as_bytes()).unwrap()), number);
        }
        assert_eq!(
            refusal("18446744073709551616"),
            CanonicalError::IntegerRange
        );
        assert_eq!(
            refusal("-9223372036854775809"),
            CanonicalError::IntegerRange
        );
        assert_eq!(to_canonical(&i128::MIN), Err(CanonicalError::IntegerRange));
        assert_eq!(to_canonical(&u128::MAX), Err(CanonicalError::IntegerRange));
    }

    #[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
    struct Name(&'static str);

    #[test]
    fn keys_are_texts_and_stand_once() {
        assert_eq!(
            to_canonical(&BTreeMap::from([(1, 2)])),
            Err(CanonicalError::KeyNotText)
        );
        assert_eq!(
            to_canonical(&BTreeMap::from([(Some("a"), 2)])).unwrap(),
            br#"{"a":2}"#
        );
        assert_eq!(
            to_canonical(&BTreeMap::from([(None::<&str>, 2)])),
            Err(CanonicalError::KeyNotText)
        );
        assert_eq!(
            to_canonical(&BTreeMap::from([(Name("a"), 2)])).unwrap(),
            br#"{"a":2}"#
        );
        assert_eq!(
            refusal(r#"{"a":1,"a":2}"#),
            CanonicalError::DuplicateKey("a".into())
        );

        #[derive(Serialize)]
        struct Twice {
            a: u8,
            #[serde(flatten)]
            more: BTreeMap<String, u8>,
        }
        let twice = Twice {
            a: 1,
            more: BTreeMap::from([("a".into(), 2)]),
        };
        assert_eq!(
            to_canonical(&twice),
            Err(CanonicalError::DuplicateKey("a".into()))
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "[1, 2]",
            "{\"a\": 1}",
            "01",
            "-0",
            "-",
            "+1",
            "[1,]",
            "{,}",
            "[",
            "{",
            "\"",
            "tru",
            "nulll",
            "{\"b\":1,\"a\":1}",
            "\"\u{e9}\"",
            "\"\\u00E9\"",
            "\"\\u0041\"",
            "\"\\u000a\"",
            "\"\\/\"",
            "\"\n\"",
            "\"\\ud800\"",
            "\"\\ud800x\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\u12\"",
            "\"\\x\"",
            "{1:2}",
            "1 2",
            "'a'",
        ] {
            assert!(
                matches!(refusal(text), CanonicalError::Syntax { .. }),
                "{text}: {}",
                refusal(text)
            );
        }
    }

    #[test]
    fn keys_are_ordered_by_code_point_not_by_utf16() {
        let value = json!({"\u{ffff}": 1, "\u{10000}": 2, "~": 3, "": 4});
        assert_eq!(
            text_of(&value),
            r#"{"":4,"~":3,"\uffff":1,"\ud800\udc00":2}"#
        );
        assert!(read::<Value>(br#"{"\ud800\udc00":2,"\uffff":1}"#).is_err());
    }

    #[test]
    fn sizes_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read::<Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(refusal(&nested(DEPTH_MAX + 1)), CanonicalError::TooDeep);
        let too_deep: Value = serde_json::from_str(&nested(DEPTH_MAX + 1)).unwrap();
        assert_eq!(to_canonical(&too_deep), Err(CanonicalError::TooDeep));

        assert!(read::<String>(&to_canonical(&"x".repeat(TEXT_LEN_MAX)).unwrap()).is_ok());
        assert_eq!(
            to_canonical(&"x".repeat(TEXT_LEN_MAX + 1)),
            Err(CanonicalError::TextTooLong)
        );
        assert_eq!(
            refusal(&format!("\"{}\"", "x".repeat(TEXT_LEN_MAX + 1))),
            CanonicalError::TextTooLong
        );
        let result = from_canonical_bounded::<Value>(b"[1]", 2);
        assert_eq!(result, Err(CanonicalError::TooLong { len: 3, len_max: 2 }));
    }

    #[test]
    fn a_value_that_would_write_itself_differently_is_refused() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Lenient {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            a: Option<u8>,
        }
        assert_eq!(read::<Lenient>(b"{}"), Ok(Lenient { a: None }));
        assert_eq!(
            read::<Lenient>(br#"{"a":null}"#),
            Err(CanonicalError::NotCanonical)
        );
        assert_eq!(
            read::<Lenient>(br#"{"b":1}"#),
            Err(CanonicalError::NotCanonical)
        );
        assert!(matches!(
            read::<Lenient>(br#"{"a":"1"}"#),
            Err(CanonicalError::Shape(_))
        ));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in any_value()) {
            let bytes = to_canonical(&value).unwrap();
            prop_assert!(bytes.iter().all(|b| (b' '..=b'~').contains(b)));
            prop_assert_eq!(&read::<Value>(&bytes).unwrap(), &value);
            prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
        }

        #[test]
        fn accepted_bytes_are_the_only_spelling(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = read::<Value>(&bytes) {
                prop_assert_eq!(to_canonical(&value).unwrap(), bytes);
            }
        }

        #[test]
        fn a_changed_byte_is_refused_or_another_value(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = to_canonical(&value).unwrap();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert_ne!(read::<Value>(&bytes).ok(), Some(value));
        }
    }
}
