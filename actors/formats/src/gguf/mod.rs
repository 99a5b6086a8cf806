//! A bounded reader of GGUF version 3 over a memory map.
//!
//! Every count and length is checked against the bytes that are left before anything is allocated for it; texts, lists
//! and tensors stay in the map. Heap: one entry for each metadata key and tensor, both capped, below 2 MiB in all and
//! never more than the file's length + 1 MiB. Format: `docs/gguf.md` of the ggml project.

mod cursor;
mod error;
mod tensor;
mod value;

use cursor::Cursor;
pub use error::GgufError;
pub use tensor::{GgufTensor, TensorKind};
pub use value::{Array, Value};

/// First bytes of the file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The only accepted version.
pub const VERSION: u32 = 3;

/// Most metadata keys.
pub const METADATA_MAX: u64 = 4096;

/// Most tensors.
pub const TENSORS_MAX: u64 = 8192;

const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 64 * 1024;

/// A parsed file: metadata and typed tensor views.
#[derive(Debug)]
pub struct Gguf<'a> {
    metadata: Vec<(&'a str, Value<'a>)>,
    tensors: Vec<GgufTensor<'a>>,
    /// Indices of `tensors`, by name.
    by_name: Vec<u32>,
}

impl<'a> Gguf<'a> {
    /// Reads all of the metadata and the tensor table, and checks that every tensor lies inside of the file, apart from
    /// the others.
    ///
    /// # Errors
    /// [`GgufError`]; hostile bytes never panic.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<4>("magic")? != MAGIC {
            return Err(GgufError::Magic);
        }
        let version = cursor.u32("version")?;
        if version != VERSION {
            return Err(GgufError::Version(version));
        }
        let tensor_count = cursor.u64("tensor count")?;
        let key_count = cursor.u64("metadata count")?;
        let metadata = read_metadata(&mut cursor, key_count)?;
        let alignment = alignment_of(&metadata)?;
        let tensors = read_tensors(cursor, tensor_count, alignment)?;
        let by_name = sorted_names(&tensors)?;
        Ok(Self {
            metadata,
            tensors,
            by_name,
        })
    }

    /// A metadata value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let index = self
            .metadata
            .binary_search_by(|(name, _)| (*name).cmp(key))
            .ok()?;
        Some(&self.metadata[index].1)
    }

    /// All metadata, sorted by key.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&'a str, &Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, value))
    }

    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn text(&self, key: &'static str) -> Result<&'a str, GgufError> {
        self.typed(key, Value::as_text)
    }

    /// An unsigned integer of any width.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn unsigned(&self, key: &'static str) -> Result<u64, GgufError> {
        self.typed(key, Value::as_unsigned)
    }

    /// An unsigned integer that fits in 32 bits.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn u32(&self, key: &'static str) -> Result<u32, GgufError> {
        self.typed(key, |value| {
            value
                .as_unsigned()
                .and_then(|number| u32::try_from(number).ok())
        })
    }

    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn f32(&self, key: &'static str) -> Result<f32, GgufError> {
        self.typed(key, Value::as_f32)
    }

    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn bool(&self, key: &'static str) -> Result<bool, GgufError> {
        self.typed(key, Value::as_bool)
    }

    /// # Errors
    /// [`GgufError::MissingKey`], [`GgufError::KeyType`].
    pub fn array(&self, key: &'static str) -> Result<Array<'a>, GgufError> {
        self.typed(key, Value::as_array)
    }

    fn typed<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self.get(key).ok_or(GgufError::MissingKey(key))?;
        read(value).ok_or(GgufError::KeyType(key))
    }

    /// All tensors, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[GgufTensor<'a>] {
        &self.tensors
    }

    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&GgufTensor<'a>, GgufError> {
        let found = self
            .by_name
            .binary_search_by(|i| self.tensors[*i as usize].name().cmp(name));
        let position = found.map_err(|_| GgufError::MissingTensor(error::quote(name)))?;
        Ok(&self.tensors[self.by_name[position] as usize])
    }
}

/// The smallest entry is an empty key, a type and one byte.
const METADATA_ENTRY_MIN: u64 = 8 + 4 + 1;

fn read_metadata<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
) -> Result<Vec<(&'a str, Value<'a>)>, GgufError> {
    let count = cursor.count("metadata", count, METADATA_ENTRY_MIN, METADATA_MAX)?;
    let mut metadata = Vec::with_capacity(count);
    for _ in 0..count {
        let key = cursor.text("metadata key")?;
        metadata.push((key, Value::read(cursor)?));
    }
    metadata.sort_unstable_by_key(|(key, _)| *key);
    match metadata.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(GgufError::Duplicate(error::quote(pair[0].0))),
        None => Ok(metadata),
    }
}

fn alignment_of(metadata: &[(&str, Value<'_>)]) -> Result<u64, GgufError> {
    let Some((_, value)) = metadata.iter().find(|(key, _)| *key == ALIGNMENT_KEY) else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    let alignment = value
        .as_unsigned()
        .ok_or(GgufError::KeyType(ALIGNMENT_KEY))?;
    let usable = alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&alignment);
    if usable {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment(alignment))
    }
}

fn read_tensors(
    mut cursor: Cursor<'_>,
    count: u64,
    alignment: u64,
) -> Result<Vec<GgufTensor<'_>>, GgufError> {
    let count = cursor.count("tensors", count, tensor::ENTRY_LEN_MIN, TENSORS_MAX)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(tensor::Entry::read(&mut cursor)?);
    }
    let data = cursor.aligned_rest(alignment);
    let tensors = entries
        .into_iter()
        .map(|entry| entry.view(data, alignment))
        .collect::<Result<Vec<_>, _>>()?;
    check_apart(&tensors)?;
    Ok(tensors)
}

fn check_apart(tensors: &[GgufTensor<'_>]) -> Result<(), GgufError> {
    let mut ranges: Vec<_> = tensors
        .iter()
        .map(|tensor| (tensor.address_range(), tensor.name()))
        .collect();
    ranges.sort_unstable_by_key(|(range, _)| range.start);
    match ranges
        .windows(2)
        .find(|pair| pair[0].0.end > pair[1].0.start)
    {
        Some(pair) => Err(GgufError::TensorRange(error::quote(pair[1].1))),
        None => Ok(()),
    }
}

fn sorted_names(tensors: &[GgufTensor<'_>]) -> Result<Vec<u32>, GgufError> {
    let name = |index: &u32| tensors[*index as usize].name();
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    by_name.sort_unstable_by_key(name);
    match by_name
        .windows(2)
        .find(|pair| name(&pair[0]) == name(&pair[1]))
    {
        Some(pair) => Err(GgufError::Duplicate(error::quote(name(&pair[0])))),
        None => Ok(by_name),
    }
}
