//! secp256k1 keys and signatures: the node's own key, public keys (33 bytes, compressed), signatures (64 bytes).

use secp256k1::{Message, SECP256K1, SecretKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use crate::hash::{BlockHash, parse_lower_hex, write_hex};

/// Length of a compressed public key in bytes.
pub const PUBLIC_KEY_LEN: usize = 33;

/// Length of a compact signature in bytes: r, then s, big-endian.
pub const SIGNATURE_LEN: usize = 64;

/// A key file holds 64 hex digits and a line end.
const KEY_FILE_LEN: u64 = 65;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("key file: {0}")]
    Io(#[from] io::Error),
    #[error("key file may be read by others (mode {mode:o}); it must be 600")]
    Permissions { mode: u32 },
    #[error(
        "key file must hold 64 lower-case hexadecimal digits and a line end, a secp256k1 secret key"
    )]
    Malformed,
    #[error("not a compressed secp256k1 public key (66 lower-case hexadecimal digits)")]
    PublicKey,
    #[error("not a signature (128 lower-case hexadecimal digits)")]
    Signature,
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    #[error("r or s is out of range")]
    OutOfRange,
    #[error("s is in the upper half; only the low form is accepted")]
    HighS,
    #[error("signature does not match key and hash")]
    Mismatch,
}

/// Bytes of an uncompressed point.
pub const POINT_LEN: usize = 65;

/// A compressed public key that is a point of the curve. Ordered by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(secp256k1::PublicKey);

thread_local! {
    /// The key that was read last: blocks that follow each other mostly have one signer, and finding the point of a
    /// compressed key costs more than all the rest of reading a header.
    static LATEST_POINT: Cell<Option<([u8; PUBLIC_KEY_LEN], PublicKey)>> = const { Cell::new(None) };
}

impl PublicKey {
    /// # Errors
    /// [`KeyError::PublicKey`] if the bytes are not a compressed point.
    pub fn from_bytes(bytes: &[u8; PUBLIC_KEY_LEN]) -> Result<Self, KeyError> {
        let latest = LATEST_POINT.get();
        if let Some((_, known)) = latest.filter(|(of, _)| of == bytes) {
            return Ok(known);
        }
        let point = secp256k1::PublicKey::from_byte_array_compressed(*bytes);
        let key = point.map(Self).map_err(|_| KeyError::PublicKey)?;
        LATEST_POINT.set(Some((*bytes, key)));
        Ok(key)
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.0.serialize()
    }

    /// The point as 0x04 and its two coordinates, big-endian.
    #[must_use]
    pub fn to_uncompressed(&self) -> [u8; POINT_LEN] {
        self.0.serialize_uncompressed()
    }

    /// Checks an ECDSA signature over a block hash. The high form of s is refused, so that a third party cannot make
    /// a second valid signature from a first one.
    ///
    /// # Errors
    /// The first [`SignatureFault`] that applies.
    pub fn verify(&self, hash: BlockHash, signature: &Signature) -> Result<(), SignatureFault> {
        let parsed = secp256k1::ecdsa::Signature::from_compact(&signature.0)
            .map_err(|_| SignatureFault::OutOfRange)?;
        let mut low = parsed;
        low.normalize_s();
        if low != parsed {
            return Err(SignatureFault::HighS);
        }
        SECP256K1
            .verify_ecdsa(Message::from_digest(*hash.as_bytes()), &parsed, &self.0)
            .map_err(|_| SignatureFault::Mismatch)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.to_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&parse_lower_hex(text).ok_or(KeyError::PublicKey)?)
    }
}

/// A compact ECDSA signature. Any 64 bytes can be held; [`PublicKey::verify`] decides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; SIGNATURE_LEN]);

impl Signature {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SIGNATURE_LEN]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_LEN] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_lower_hex(text).map(Self).ok_or(KeyError::Signature)
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
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

serde_as_text!(PublicKey);
serde_as_text!(Signature);

/// A secret key. It is never printed, and its memory is overwritten when it is dropped.
pub struct NodeKey(SecretKey);

impl NodeKey {
    /// A new key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(SecretKey::new(&mut secp256k1::rand::rng()))
    }

    /// # Errors
    /// [`KeyError::Malformed`] if the bytes are zero or not below the order of the curve.
    pub fn from_secret_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        SecretKey::from_byte_array(bytes)
            .map(Self)
            .map_err(|_| KeyError::Malformed)
    }

    /// Reads a key file: 64 lower-case hex digits and a line end.
    ///
    /// # Errors
    /// [`KeyError::Permissions`] if group or others may access it, [`KeyError::Malformed`] for any other content.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Permissions { mode });
        }
        let mut bytes = Vec::new();
        file.take(KEY_FILE_LEN + 1).read_to_end(&mut bytes)?;
        let text = bytes
            .strip_suffix(b"\n")
            .and_then(|line| std::str::from_utf8(line).ok());
        Self::from_secret_bytes(text.and_then(parse_lower_hex).ok_or(KeyError::Malformed)?)
    }

    /// Writes the key to a new file of mode 0600 and syncs the file and its folder. An existing file is left alone,
    /// and a kill at any moment leaves a whole key or none.
    ///
    /// # Errors
    /// [`KeyError::Io`], with `AlreadyExists` if the path is taken.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut staged = path.as_os_str().to_owned();
        staged.push(".part");
        let staged = Path::new(&staged);
        // What a kill between the two left behind was never a key.
        if let Err(error) = fs::remove_file(staged)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(staged)?;
        file.write_all(format!("{}\n", hex::encode(self.0.secret_bytes())).as_bytes())?;
        file.sync_all()?;
        // A link, as a rename would replace a key that is there.
        let linked = fs::hard_link(staged, path);
        fs::remove_file(staged)?;
        linked?;
        Ok(File::open(folder)?.sync_all()?)
    }

    /// Loads the key, or generates and saves one where there is no file.
    ///
    /// # Errors
    /// As [`NodeKey::load`] and [`NodeKey::save`].
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate();
                key.save(path)?;
                Ok(key)
            }
            loaded => loaded,
        }
    }

    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key(SECP256K1))
    }

    /// Deterministic ECDSA (RFC 6979) with low s: one key and one hash give one signature.
    #[must_use]
    pub fn sign(&self, hash: BlockHash) -> Signature {
        Signature(
            SECP256K1
                .sign_ecdsa(Message::from_digest(*hash.as_bytes()), &self.0)
                .serialize_compact(),
        )
    }
}

impl Drop for NodeKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(secret of {})", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> BlockHash {
        BlockHash::from_bytes([7; 32])
    }

    #[test]
    fn signatures_are_deterministic_and_fit_one_key_and_one_hash() {
        let key = NodeKey::generate();
        let signature = key.sign(hash());
        assert_eq!(signature, key.sign(hash()));
        assert_eq!(key.public_key().verify(hash(), &signature), Ok(()));
        let other = BlockHash::from_bytes([8; 32]);
        assert_eq!(
            key.public_key().verify(other, &signature),
            Err(SignatureFault::Mismatch)
        );
        let stranger = NodeKey::generate().public_key();
        assert_eq!(
            stranger.verify(hash(), &signature),
            Err(SignatureFault::Mismatch)
        );
    }

    /// Order of the group minus s, big-endian: the other valid s of the same signature.
    fn negate_s(signature: &Signature) -> Signature {
        let order = secp256k1::constants::CURVE_ORDER;
        let mut bytes = *signature.as_bytes();
        let mut borrow = 0;
        for i in (0..32).rev() {
            let difference = i16::from(order[i]) - i16::from(bytes[32 + i]) - borrow;
            borrow = i16::from(difference < 0);
            bytes[32 + i] = difference.rem_euclid(256) as u8;
        }
        Signature::from_bytes(bytes)
    }

    #[test]
    fn the_high_form_of_s_is_refused() {
        let key = NodeKey::generate();
        let high = negate_s(&key.sign(hash()));
        assert_eq!(
            key.public_key().verify(hash(), &high),
            Err(SignatureFault::HighS)
        );
        assert_eq!(negate_s(&high), key.sign(hash()));
        let zero = Signature::from_bytes([0; 64]);
        assert!(key.public_key().verify(hash(), &zero).is_err());
        let out_of_range = Signature::from_bytes([0xff; 64]);
        assert_eq!(
            key.public_key().verify(hash(), &out_of_range),
            Err(SignatureFault::OutOfRange)
        );
    }

    #[test]
    fn texts_round_trip() {
        let key = NodeKey::generate().public_key();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert!(key.to_string().to_uppercase().parse::<PublicKey>().is_err());
        assert!(
            "02".repeat(33)
                .parse::<PublicKey>()
                .is_ok_and(|k| k.to_bytes() == [2; 33])
        );
        assert!(
            "05".repeat(33).parse::<PublicKey>().is_err(),
            "not a compressed point"
        );
        assert!("".parse::<Signature>().is_err());
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            NodeKey::load_or_create(&path).unwrap().public_key(),
            key.public_key()
        );
        let taken = NodeKey::generate().save(&path).unwrap_err();
        assert!(
            matches!(taken, KeyError::Io(error) if error.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!(NodeKey::load(&path).unwrap().public_key(), key.public_key());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            NodeKey::load(&path),
            Err(KeyError::Permissions { mode: 0o640 })
        ));
    }

    #[test]
    fn a_damaged_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let zero = format!("{}\n", "0".repeat(64));
        let no_line_end = "1".repeat(64);
        let long = format!("{}\n", "1".repeat(1000));
        for (i, content) in ["", "xyz\n", &zero, &no_line_end, &long]
            .into_iter()
            .enumerate()
        {
            let path = folder.path().join(i.to_string());
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(NodeKey::load(&path), Err(KeyError::Malformed)),
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let key = NodeKey::from_secret_bytes([0x5a; 32]).unwrap();
        let printed = format!("{key:?}");
        assert!(!printed.contains("5a5a"), "{printed}");
        assert!(printed.contains(&key.public_key().to_string()));
    }
}
