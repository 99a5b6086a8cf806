//! SHA-256 newtypes, written as 64 lower-case hex digits, and hashing under a domain.
//!
//! A domain is an ASCII text followed by one zero byte; it keeps the hash of one kind of object from ever being
//! the hash of another.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// Length of a SHA-256 in bytes.
pub const HASH_LEN: usize = 32;

/// Domain of a block hash, see [`crate::block`].
pub const BLOCK_DOMAIN: &[u8] = b"blyan/block/v1\0";

/// Domain of the leaves and nodes of a TensorBlock's tree, see [`crate::merkle`].
pub const TENSORBLOCK_DOMAIN: &[u8] = b"blyan/tensorblock/v1\0";

/// A text that is not 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hexadecimal digits")]
pub struct HashParseError;

/// The value of each lower-case hex digit; 0xff for every other character.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Parses exactly `2 * N` lower-case hex digits. Half of a header is hashes, and crates that decode hex take both cases.
pub(crate) fn parse_lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut seen = 0;
    let bytes = std::array::from_fn(|at| {
        let [high, low] = pairs[at].map(|digit| DIGITS[usize::from(digit)]);
        seen |= high | low;
        high << 4 | low
    });
    (seen < 16).then_some(bytes)
}

/// SHA-256 of `domain`, then of each part, without separators: at most one part may have a variable length.
#[must_use]
pub fn domain_hash(domain: &[u8], parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = Sha256::new_with_prefix(domain);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Plain SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; HASH_LEN] {
    Sha256::digest(bytes).into()
}

macro_rules! hash_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; HASH_LEN]);

        impl $name {
            #[must_use]
            pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
                Self(bytes)
            }

            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::hash::write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = HashParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_lower_hex(text).map(Self).ok_or(HashParseError)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::hash::deserialize_text(deserializer)
            }
        }
    };
}

/// Writes bytes as lower-case hex digits.
pub(crate) fn write_hex<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    bytes: &[u8; N],
) -> fmt::Result {
    let mut digits = [[0; 2]; N];
    hex::encode_to_slice(bytes, digits.as_flattened_mut()).map_err(|_| fmt::Error)?;
    f.write_str(std::str::from_utf8(digits.as_flattened()).map_err(|_| fmt::Error)?)
}

/// Parses a text of any serde format where it stands.
pub(crate) fn deserialize_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(TextVisitor(PhantomData))
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

hash_newtype! {
    /// Hash of a block header under [`BLOCK_DOMAIN`]; the id of the block.
    BlockHash
}
hash_newtype! {
    /// What `payload_hash` holds: the Merkle root of a TensorBlock, else the plain SHA-256 of the payload.
    PayloadHash
}
hash_newtype! {
    /// Names a network: the hash of its genesis block.
    NetworkId
}
hash_newtype! {
    /// Plain SHA-256 of some bytes that are no payload: a derived file, a source file, a recipe.
    ContentHash
}

impl PayloadHash {
    /// Hash of a payload that is no TensorBlock: plain SHA-256.
    #[must_use]
    pub fn of_bytes(payload: &[u8]) -> Self {
        Self(sha256(payload))
    }
}

impl ContentHash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }
}

impl NetworkId {
    /// What the genesis header itself carries, since it cannot hold its own hash.
    pub const NONE: Self = Self([0; HASH_LEN]);

    /// The network that starts with this genesis block.
    #[must_use]
    pub const fn of_genesis(genesis: BlockHash) -> Self {
        Self(genesis.0)
    }

    /// The hash of the genesis block that this id names.
    #[must_use]
    pub const fn genesis(&self) -> BlockHash {
        BlockHash(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_other_spellings() {
        let hash = ContentHash::of(b"abc");
        let text = hash.to_string();
        assert_eq!(
            text,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(text.parse(), Ok(hash));
        assert_eq!(
            text.to_uppercase().parse::<ContentHash>(),
            Err(HashParseError)
        );
        assert_eq!(text[1..].parse::<ContentHash>(), Err(HashParseError));
        assert_eq!(
            format!("{text}00").parse::<ContentHash>(),
            Err(HashParseError)
        );
    }

    #[test]
    fn json_is_the_hex_text() {
        let hash = BlockHash::from_bytes([0xab; 32]);
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json, format!("\"{hash}\""));
        assert_eq!(serde_json::from_str::<BlockHash>(&json).unwrap(), hash);
        assert!(serde_json::from_str::<BlockHash>("\"00\"").is_err());
    }

    #[test]
    fn domains_separate() {
        assert_ne!(
            domain_hash(BLOCK_DOMAIN, &[b"x"]),
            domain_hash(TENSORBLOCK_DOMAIN, &[b"x"])
        );
        assert_ne!(domain_hash(BLOCK_DOMAIN, &[b"x"]), sha256(b"x"));
    }
}
