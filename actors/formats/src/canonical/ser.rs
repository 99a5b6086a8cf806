//! The encoder: a serde serializer that writes canonical bytes.

use std::borrow::Cow;
use std::io::Write as _;
use std::ops::Range;

use serde::Serialize;
use serde::ser::{self, Impossible};

use super::{CanonicalError, DEPTH_MAX, TEXT_LEN_MAX, is_plain, shape_error};

/// Room for the canonical form of most values: a signed block has some 800 bytes.
const LEN_EXPECTED: usize = 1024;

type Result<T> = std::result::Result<T, CanonicalError>;

/// The canonical JSON of a value.
///
/// # Errors
/// [`CanonicalError::Float`], [`CanonicalError::IntegerRange`], [`CanonicalError::DuplicateKey`],
/// [`CanonicalError::KeyNotText`], [`CanonicalError::TooDeep`]; [`CanonicalError::Shape`] if the value's own
/// `Serialize` fails.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(LEN_EXPECTED);
    value.serialize(Encoder {
        out: &mut out,
        depth: 0,
    })?;
    Ok(out)
}

impl ser::Error for CanonicalError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        shape_error(&message)
    }
}

/// Appends `text` as a JSON string.
fn write_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.push(b'"');
    let start = out.len();
    let plain = text.bytes().take_while(|byte| is_plain(*byte)).count();
    out.extend_from_slice(&text.as_bytes()[..plain]);
    for c in text[plain..].chars() {
        match c {
            '"' => out.extend(b"\\\""),
            '\\' => out.extend(b"\\\\"),
            '\u{8}' => out.extend(b"\\b"),
            '\u{c}' => out.extend(b"\\f"),
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            '\t' => out.extend(b"\\t"),
            ' '..='~' => out.push(c as u8),
            _ => write_utf16(out, c),
        }
    }
    if out.len() - start > TEXT_LEN_MAX {
        return Err(CanonicalError::TextTooLong);
    }
    out.push(b'"');
    Ok(())
}

fn write_utf16(out: &mut Vec<u8>, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.extend(format!("\\u{unit:04x}").bytes());
    }
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    depth: usize,
}

impl<'a> Encoder<'a> {
    fn write(self, text: impl std::fmt::Display) -> Result<()> {
        write!(self.out, "{text}").map_err(|error| shape_error(&error))
    }

    fn list(self) -> Result<ListEncoder<'a>> {
        let depth = deeper(self.depth)?;
        self.out.push(b'[');
        Ok(ListEncoder {
            out: self.out,
            depth,
            first: true,
            tagged: false,
        })
    }

    fn object(self, fields: usize) -> Result<ObjectEncoder<'a>> {
        let depth = deeper(self.depth)?;
        Ok(ObjectEncoder {
            start: self.out.len(),
            out: self.out,
            depth,
            entries: Vec::with_capacity(fields),
            key: None,
            tagged: false,
        })
    }

    /// Opens `{"variant":`, which the compound's end closes.
    fn tag(&mut self, variant: &str) -> Result<()> {
        self.depth = deeper(self.depth)?;
        self.out.push(b'{');
        write_text(self.out, variant)?;
        self.out.push(b':');
        Ok(())
    }
}

fn deeper(depth: usize) -> Result<usize> {
    if depth == DEPTH_MAX {
        Err(CanonicalError::TooDeep)
    } else {
        Ok(depth + 1)
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<()> {
            self.write(value)
        })*
    };
}

impl<'a> ser::Serializer for Encoder<'a> {
    type Ok = ();
    type Error = CanonicalError;
    type SerializeSeq = ListEncoder<'a>;
    type SerializeTuple = ListEncoder<'a>;
    type SerializeTupleStruct = ListEncoder<'a>;
    type SerializeTupleVariant = ListEncoder<'a>;
    type SerializeMap = ObjectEncoder<'a>;
    type SerializeStruct = ObjectEncoder<'a>;
    type SerializeStructVariant = ObjectEncoder<'a>;

    integers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_bool: bool
    );

    fn serialize_i128(self, value: i128) -> Result<()> {
        if value > i128::from(u64::MAX) || value < i128::from(i64::MIN) {
            return Err(CanonicalError::IntegerRange);
        }
        self.write(value)
    }

    fn serialize_u128(self, value: u128) -> Result<()> {
        if value > u128::from(u64::MAX) {
            return Err(CanonicalError::IntegerRange);
        }
        self.write(value)
    }

    fn serialize_f32(self, _: f32) -> Result<()> {
        Err(CanonicalError::Float)
    }

    fn serialize_f64(self, _: f64) -> Result<()> {
        Err(CanonicalError::Float)
    }

    fn serialize_char(self, value: char) -> Result<()> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<()> {
        write_text(self.out, value)
    }

    /// Texts of hashes and keys are plain, and most texts are theirs.
    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<()> {
        let start = self.out.len();
        write!(self.out, "\"{value}\"").map_err(|error| shape_error(&error))?;
        let written = &self.out[start + 1..self.out.len() - 1];
        if written.len() <= TEXT_LEN_MAX && written.iter().all(|byte| is_plain(*byte)) {
            return Ok(());
        }
        self.out.truncate(start);
        self.serialize_str(&value.to_string())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<()> {
        self.write("null")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<()> {
        self.write("null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.write("null")
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<()> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.tag(variant)?;
        value.serialize(Encoder {
            out: self.out,
            depth: self.depth,
        })?;
        self.out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<ListEncoder<'a>> {
        self.list()
    }

    fn serialize_tuple(self, _: usize) -> Result<ListEncoder<'a>> {
        self.list()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<ListEncoder<'a>> {
        self.list()
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<ListEncoder<'a>> {
        self.tag(variant)?;
        Ok(ListEncoder {
            tagged: true,
            ..self.list()?
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<ObjectEncoder<'a>> {
        self.object(0)
    }

    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<ObjectEncoder<'a>> {
        self.object(fields)
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        fields: usize,
    ) -> Result<ObjectEncoder<'a>> {
        self.tag(variant)?;
        Ok(ObjectEncoder {
            tagged: true,
            ..self.object(fields)?
        })
    }
}

struct ListEncoder<'a> {
    out: &'a mut Vec<u8>,
    depth: usize,
    first: bool,
    tagged: bool,
}

impl ListEncoder<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        value.serialize(Encoder {
            out: self.out,
            depth: self.depth,
        })
    }

    fn finish(self) -> Result<()> {
        self.out.extend(if self.tagged { &b"]}"[..] } else { b"]" });
        Ok(())
    }
}

macro_rules! list_impl {
    ($($trait:ident: $method:ident),*) => {
        $(impl ser::$trait for ListEncoder<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.item(value)
            }

            fn end(self) -> Result<()> {
                self.finish()
            }
        })*
    };
}

list_impl!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

/// Writes the entries of one object as they come, and sorts them at its end.
struct ObjectEncoder<'a> {
    out: &'a mut Vec<u8>,
    /// Where the object begins in `out`.
    start: usize,
    depth: usize,
    entries: Vec<Entry>,
    key: Option<Key>,
    tagged: bool,
}

type Key = Cow<'static, str>;

/// A key, and where it stands with its value, as offsets from the object's start.
struct Entry {
    key: Key,
    written: Range<usize>,
}

impl ObjectEncoder<'_> {
    fn entry<T: Serialize + ?Sized>(&mut self, key: Key, value: &T) -> Result<()> {
        let begin = self.out.len() - self.start;
        write_text(self.out, &key)?;
        self.out.push(b':');
        value.serialize(Encoder {
            out: self.out,
            depth: self.depth,
        })?;
        let written = begin..self.out.len() - self.start;
        self.entries.push(Entry { key, written });
        Ok(())
    }

    /// UTF-8 texts compare as their code points do.
    fn finish(mut self) -> Result<()> {
        self.entries.sort_by(|a, b| a.key.cmp(&b.key));
        let mut pairs = self.entries.windows(2);
        if let Some(twice) = pairs.find(|pair| pair[0].key == pair[1].key) {
            return Err(CanonicalError::DuplicateKey(twice[0].key.to_string()));
        }
        let unsorted = self.out.split_off(self.start);
        self.out.push(b'{');
        for (i, entry) in self.entries.into_iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(&unsorted[entry.written]);
        }
        self.out.extend(if self.tagged { &b"}}"[..] } else { b"}" });
        Ok(())
    }
}

impl ser::SerializeMap for ObjectEncoder<'_> {
    type Ok = ();
    type Error = CanonicalError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key = Some(Key::Owned(key.serialize(KeyEncoder)?));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let key = self.key.take().ok_or(CanonicalError::KeyNotText)?;
        self.entry(key, value)
    }

    fn end(self) -> Result<()> {
        self.finish()
    }
}

macro_rules! struct_impl {
    ($($trait:ident),*) => {
        $(impl ser::$trait for ObjectEncoder<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
                self.entry(Key::Borrowed(key), value)
            }

            fn end(self) -> Result<()> {
                self.finish()
            }
        })*
    };
}

struct_impl!(SerializeStruct, SerializeStructVariant);

/// Accepts texts only: Python would turn other keys into texts, and two spellings of one key must not meet.
struct KeyEncoder;

macro_rules! refuse_as_key {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, _: $type) -> Result<String> {
            Err(CanonicalError::KeyNotText)
        })*
    };
}

impl ser::Serializer for KeyEncoder {
    type Ok = String;
    type Error = CanonicalError;
    type SerializeSeq = Impossible<String, CanonicalError>;
    type SerializeTuple = Impossible<String, CanonicalError>;
    type SerializeTupleStruct = Impossible<String, CanonicalError>;
    type SerializeTupleVariant = Impossible<String, CanonicalError>;
    type SerializeMap = Impossible<String, CanonicalError>;
    type SerializeStruct = Impossible<String, CanonicalError>;
    type SerializeStructVariant = Impossible<String, CanonicalError>;

    refuse_as_key!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    );

    fn serialize_str(self, value: &str) -> Result<String> {
        Ok(value.to_owned())
    }

    fn serialize_char(self, value: char) -> Result<String> {
        Ok(value.to_string())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<String> {
        Ok(variant.to_owned())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<String> {
        value.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<String> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<String> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_unit(self) -> Result<String> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct> {
        Err(CanonicalError::KeyNotText)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        Err(CanonicalError::KeyNotText)
    }
}
