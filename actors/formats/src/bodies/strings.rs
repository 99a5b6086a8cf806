use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Memory is reserved in steps of this many bytes, so that a hostile list never takes much more than its own length.
const GROWTH: usize = 128 * 1024;

/// Most bytes of all texts together.
const BYTES_MAX: usize = 16 << 20;

/// A list of texts in one buffer: 4 bytes of overhead a text, where a `Vec<String>` has 24 and an allocation. A JSON
/// list of empty texts therefore cannot blow up in memory. At most 16 MiB of text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringTable {
    text: String,
    ends: Vec<u32>,
}

impl StringTable {
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Appends a text; false, and no change, if the table would hold more than 16 MiB.
    #[must_use]
    pub fn push(&mut self, text: &str) -> bool {
        let end = self.text.len() + text.len();
        if end > BYTES_MAX {
            return false;
        }
        if end > self.text.capacity() {
            self.text.reserve_exact(text.len() + GROWTH);
        }
        if self.ends.len() == self.ends.capacity() {
            self.ends.reserve_exact(GROWTH / size_of::<u32>());
        }
        self.text.push_str(text);
        self.ends.push(end as u32);
        true
    }
}

impl fmt::Debug for StringTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StringTable({} texts, {} bytes)",
            self.len(),
            self.text.len()
        )
    }
}

impl Serialize for StringTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.len()))?;
        for text in self.iter() {
            list.serialize_element(text)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for StringTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TableVisitor)
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = StringTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StringTable, A::Error> {
        let mut table = StringTable::default();
        while let Some(text) = list.next_element::<String>()? {
            if !table.push(&text) {
                return Err(A::Error::custom("more than 16 MiB of text"));
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_texts_apart() {
        let mut table = StringTable::default();
        for text in ["", "a", "", "öß", "Ġ t"] {
            assert!(table.push(text));
        }
        assert_eq!(table.iter().collect::<Vec<_>>(), ["", "a", "", "öß", "Ġ t"]);
        assert_eq!(table.get(5), None);
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<StringTable>(&json).unwrap(), table);
    }

    #[test]
    fn is_bounded() {
        let mut table = StringTable::default();
        assert!(table.push(&"x".repeat(BYTES_MAX)));
        assert!(!table.push("x"));
        assert!(table.push(""));
        assert_eq!(table.len(), 2);
    }
}
