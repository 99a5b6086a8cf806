use super::cursor::Cursor;
use super::error::GgufError;

/// A metadata value. Integers and floats of all widths are widened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    #[must_use]
    pub const fn as_text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// An unsigned integer, or a signed one that is not negative.
    #[must_use]
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    #[must_use]
    pub const fn as_f32(&self) -> Option<f32> {
        if let Self::F32(number) = self {
            Some(*number)
        } else {
            None
        }
    }

    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(truth) = self {
            Some(*truth)
        } else {
            None
        }
    }

    #[must_use]
    pub const fn as_array(&self) -> Option<Array<'a>> {
        if let Self::Array(array) = self {
            Some(*array)
        } else {
            None
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        match cursor.u32("value type")? {
            TEXT => cursor.text("text").map(Self::Text),
            ARRAY => Array::read(cursor).map(Self::Array),
            code => Scalar::from_code(code)?.read(cursor),
        }
    }
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A fixed-size type of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    const fn from_code(code: u32) -> Result<Self, GgufError> {
        Ok(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return Err(GgufError::ValueType(code)),
        })
    }

    const fn len(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn read<'a>(self, cursor: &mut Cursor<'a>) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "number";
        Ok(match self {
            Self::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::I8 => Value::Signed(i8::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::I16 => Value::Signed(i16::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::U32 => Value::Unsigned(u32::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::I32 => Value::Signed(i32::from_le_bytes(cursor.array(WHAT)?).into()),
            Self::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
            Self::U64 => Value::Unsigned(u64::from_le_bytes(cursor.array(WHAT)?)),
            Self::I64 => Value::Signed(i64::from_le_bytes(cursor.array(WHAT)?)),
            Self::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
            Self::Bool => Value::Bool(read_bool(cursor)?),
        })
    }
}

fn read_bool(cursor: &mut Cursor<'_>) -> Result<bool, GgufError> {
    let at = cursor.position();
    match cursor.array("truth value")? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(GgufError::Bool { at }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Text,
    Scalar(Scalar),
}

/// A list of texts or numbers, still in the file; its elements were checked when the file was parsed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: Element,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The texts, if it is a list of texts.
    #[must_use]
    pub fn texts(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        let mut cursor = Cursor::new(self.bytes);
        let read = move |_| cursor.text("text").unwrap_or_default();
        (self.element == Element::Text).then(|| (0..self.len).map(read))
    }

    /// The values, if it is a list of numbers or truth values.
    #[must_use]
    pub fn values(&self) -> Option<impl Iterator<Item = Value<'a>> + use<'a>> {
        let Element::Scalar(scalar) = self.element else {
            return None;
        };
        let mut cursor = Cursor::new(self.bytes);
        Some((0..self.len).map_while(move |_| scalar.read(&mut cursor).ok()))
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let code = cursor.u32("element type")?;
        let count = cursor.u64("list length")?;
        match code {
            TEXT => Self::read_texts(cursor, count),
            ARRAY => Err(GgufError::NestedArray),
            _ => Self::read_scalars(cursor, Scalar::from_code(code)?, count),
        }
    }

    fn read_texts(cursor: &mut Cursor<'a>, count: u64) -> Result<Self, GgufError> {
        let len = cursor.count("list of texts", count, 8, u64::MAX)?;
        let mut ahead = Cursor::new(cursor.rest());
        for _ in 0..len {
            ahead.text("text")?;
        }
        let bytes = cursor.take(ahead.position() as u64, "list of texts")?;
        Ok(Self {
            element: Element::Text,
            len,
            bytes,
        })
    }

    fn read_scalars(
        cursor: &mut Cursor<'a>,
        scalar: Scalar,
        count: u64,
    ) -> Result<Self, GgufError> {
        let len = cursor.count("list", count, scalar.len(), u64::MAX)?;
        let at = cursor.position();
        let bytes = cursor.take(count * scalar.len(), "list")?;
        if let Some(index) = bytes
            .iter()
            .position(|byte| scalar == Scalar::Bool && *byte > 1)
        {
            return Err(GgufError::Bool { at: at + index });
        }
        Ok(Self {
            element: Element::Scalar(scalar),
            len,
            bytes,
        })
    }
}
