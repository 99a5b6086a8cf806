//! A miner's key on disk: 32 secret bytes, sealed under a passphrase.
//!
//! One line of canonical JSON. The passphrase becomes a key by Argon2id with the parameters of the head; the secret is
//! sealed under that key by XChaCha20-Poly1305 with the head as associated data, so that nothing of the file can be
//! changed without being noticed. `docs/decisions/0035-miner-key.md` says why these.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use blyan_formats::{NodeKey, PublicKey, from_canonical, to_canonical};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Length of a key file in bytes, at most.
const FILE_LEN_MAX: u64 = 4096;
const SECRET_LEN: usize = 32;
const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 24;
/// What a file may ask of the machine that opens it.
const COST_MAX: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 16,
    lanes: 16,
};

/// Why a key file cannot be made or opened. No text holds anything of the secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{path}: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// There is a file already.
    #[error("{0} exists already, and a key is never overwritten: choose another file")]
    Taken(PathBuf),
    /// Others than its owner can get at it.
    #[error(
        "{path} may be read by others (mode {mode:o}): chmod 600 {path}, and think of who may have read it"
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key file of this version.
    #[error("{path} is not a miner's key file: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The seal does not open. Which of the two it is cannot be told apart.
    #[error("{0} does not open: the passphrase is wrong, or the file was changed")]
    Sealed(PathBuf),
    /// The system gives no randomness.
    #[error("no randomness from the system: {0}")]
    Randomness(String),
}

/// What an attempt to open the file costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// The second recommended choice of RFC 9106, part 4: 64 MiB, three passes, four lanes.
    pub const RECOMMENDED: Self = Self {
        memory_kib: 64 << 10,
        passes: 3,
        lanes: 4,
    };

    fn check(self) -> Result<Params, String> {
        let most = COST_MAX;
        if self.memory_kib > most.memory_kib || self.passes > most.passes || self.lanes > most.lanes
        {
            return Err("opening it would cost more than this version pays".to_owned());
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(SECRET_LEN))
            .map_err(|why| why.to_string())
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "blyan-miner-key/1")]
    V1,
}

/// Everything but the sealed secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: Format,
    public_key: PublicKey,
    argon2id: Cost,
    #[serde(with = "lower_hex")]
    salt: [u8; SALT_LEN],
    #[serde(with = "lower_hex")]
    nonce: [u8; NONCE_LEN],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    head: Head,
    /// Secret and tag under the passphrase's key.
    #[serde(with = "lower_hex")]
    xchacha20poly1305: Vec<u8>,
}

/// Bytes as lower-case hex: one value has one text.
mod lower_hex {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<Vec<u8>>,
    {
        let text = String::deserialize(from)?;
        let bytes = hex::decode(&text).map_err(D::Error::custom)?;
        if hex::encode(&bytes) != text {
            return Err(D::Error::custom("hex is written in lower case"));
        }
        let wrong_len = |_| D::Error::custom("some bytes too many or too few");
        T::try_from(bytes).map_err(wrong_len)
    }
}

/// Makes a key, writes it to a new file of mode 0600 and returns its public half. A kill at any moment leaves a whole
/// file or none.
///
/// # Errors
/// [`KeyFileError::Taken`] where there is a file; [`KeyFileError::Io`], [`KeyFileError::Randomness`].
pub fn create(path: &Path, passphrase: &[u8], cost: Cost) -> Result<PublicKey, KeyFileError> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(KeyFileError::Taken(path.to_owned()));
    }
    let (secret, key) = new_secret()?;
    let head = Head {
        format: Format::V1,
        public_key: key.public_key(),
        argon2id: cost,
        salt: random()?,
        nonce: random()?,
    };
    let malformed = |why: String| KeyFileError::Malformed {
        path: path.to_owned(),
        why,
    };
    let (cipher, head_bytes) = cipher(&head, passphrase).map_err(malformed)?;
    let message = Payload {
        msg: &secret[..],
        aad: &head_bytes,
    };
    let sealed = cipher.encrypt(&XNonce::from(head.nonce), message);
    let file = KeyFile {
        head,
        xchacha20poly1305: sealed.map_err(|why| malformed(why.to_string()))?,
    };
    let mut line = to_canonical(&file).map_err(|why| malformed(why.to_string()))?;
    line.push(b'\n');
    put(path, &line)?;
    Ok(key.public_key())
}

/// Opens a key file.
///
/// # Errors
/// As [`public_key`]; [`KeyFileError::Sealed`] for a wrong passphrase and for a file that was changed.
pub fn open(path: &Path, passphrase: &[u8]) -> Result<NodeKey, KeyFileError> {
    let file = read(path)?;
    let sealed = || KeyFileError::Sealed(path.to_owned());
    let (cipher, head_bytes) = cipher(&file.head, passphrase).map_err(|_| sealed())?;
    let message = Payload {
        msg: &file.xchacha20poly1305,
        aad: &head_bytes,
    };
    let secret = cipher.decrypt(&XNonce::from(file.head.nonce), message);
    let secret = Zeroizing::new(secret.map_err(|_| sealed())?);
    let secret: Zeroizing<[u8; SECRET_LEN]> =
        Zeroizing::new(secret[..].try_into().map_err(|_| sealed())?);
    let key = NodeKey::from_secret_bytes(*secret).map_err(|_| sealed())?;
    if key.public_key() != file.head.public_key {
        return Err(sealed());
    }
    Ok(key)
}

/// The public half of a key file, as the file says: only [`open`] can know.
///
/// # Errors
/// [`KeyFileError::Io`], [`KeyFileError::Permissions`], [`KeyFileError::Malformed`].
pub fn public_key(path: &Path) -> Result<PublicKey, KeyFileError> {
    Ok(read(path)?.head.public_key)
}

fn read(path: &Path) -> Result<KeyFile, KeyFileError> {
    let bytes = read_private(path, FILE_LEN_MAX)?;
    let malformed = |why: String| KeyFileError::Malformed {
        path: path.to_owned(),
        why,
    };
    let line = bytes.strip_suffix(b"\n");
    let line = line.ok_or_else(|| malformed("it does not end with a line end".to_owned()))?;
    let file: KeyFile = from_canonical(line).map_err(|why| malformed(why.to_string()))?;
    file.head.argon2id.check().map_err(malformed)?;
    Ok(file)
}

/// A file that nobody but its owner can read, of at most `len_max` bytes.
///
/// # Errors
/// [`KeyFileError::Io`], [`KeyFileError::Permissions`], [`KeyFileError::Malformed`] if it is longer.
pub fn read_private(path: &Path, len_max: u64) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |why| io_error(path, why);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    let room = usize::try_from(len_max)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    // All the room at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(len_max + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > len_max {
        return Err(KeyFileError::Malformed {
            path: path.to_owned(),
            why: format!("it has more than {len_max} bytes"),
        });
    }
    Ok(bytes)
}

/// The cipher under the passphrase's key, and the head's bytes.
fn cipher(head: &Head, passphrase: &[u8]) -> Result<(XChaCha20Poly1305, Vec<u8>), String> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, head.argon2id.check()?);
    let mut key = Zeroizing::new([0; SECRET_LEN]);
    argon2
        .hash_password_into(passphrase, &head.salt, &mut key[..])
        .map_err(|why| why.to_string())?;
    let head = to_canonical(head).map_err(|why| why.to_string())?;
    Ok((XChaCha20Poly1305::new((&*key).into()), head))
}

fn new_secret() -> Result<(Zeroizing<[u8; SECRET_LEN]>, NodeKey), KeyFileError> {
    loop {
        let secret = Zeroizing::new(random()?);
        // All but one in 2^128 are secrets of the curve.
        if let Ok(key) = NodeKey::from_secret_bytes(*secret) {
            return Ok((secret, key));
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], KeyFileError> {
    let mut bytes = [0; N];
    let filled = OsRng.try_fill_bytes(&mut bytes);
    filled.map_err(|why| KeyFileError::Randomness(why.to_string()))?;
    Ok(bytes)
}

fn put(path: &Path, line: &[u8]) -> Result<(), KeyFileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        // Of mode 0600 from the first byte on.
        let mut staged = tempfile::NamedTempFile::new_in(folder)?;
        staged.write_all(line)?;
        staged.as_file().sync_all()?;
        staged.persist_noclobber(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|why| match why.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Taken(path.to_owned()),
        _ => io_error(path, why),
    })
}

fn io_error(path: &Path, why: io::Error) -> KeyFileError {
    KeyFileError::Io {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cheap as Argon2 allows.
    const CHEAP: Cost = Cost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    struct Made {
        folder: tempfile::TempDir,
        public: PublicKey,
    }

    impl Made {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("keys").join("miner.key");
            let public = create(&path, b"a passphrase", CHEAP).unwrap();
            Self { folder, public }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("keys").join("miner.key")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        /// The same file with one text for another.
        fn replaced(&self, from: &str, to: &str) {
            let text = self.text();
            assert!(text.contains(from), "{text}");
            fs::write(self.path(), text.replacen(from, to, 1)).unwrap();
        }
    }

    #[test]
    fn a_key_opens_with_its_passphrase_alone() {
        let made = Made::new();
        let key = open(&made.path(), b"a passphrase").unwrap();
        assert_eq!(key.public_key(), made.public);
        assert_eq!(public_key(&made.path()).unwrap(), made.public);
        for wrong in [&b""[..], b"a passphrasf", b"a passphrase\n"] {
            let refused = open(&made.path(), wrong).unwrap_err();
            assert!(matches!(refused, KeyFileError::Sealed(_)), "{refused}");
        }
    }

    #[test]
    fn the_file_is_private_and_never_overwritten() {
        let made = Made::new();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&made.path()), 0o600);
        assert_eq!(mode(made.path().parent().unwrap()), 0o700);
        let before = made.text();
        let taken = create(&made.path(), b"another", CHEAP).unwrap_err();
        assert!(matches!(taken, KeyFileError::Taken(_)), "{taken}");
        assert_eq!(made.text(), before);

        fs::set_permissions(made.path(), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = open(&made.path(), b"a passphrase").unwrap_err();
        assert!(
            matches!(refused, KeyFileError::Permissions { mode: 0o640, .. }),
            "{refused}"
        );
    }

    #[test]
    fn two_keys_share_nothing() {
        let (one, two) = (Made::new(), Made::new());
        assert_ne!(one.public, two.public);
        let [one, two] = [one, two].map(|made| read(&made.path()).unwrap());
        assert_ne!(one.head.salt, two.head.salt);
        assert_ne!(one.head.nonce, two.head.nonce);
    }

    #[test]
    fn every_changed_digit_is_noticed() {
        let made = Made::new();
        let whole = made.text();
        let digits = whole.char_indices().filter(|(_, c)| c.is_ascii_hexdigit());
        let (mut sealed, mut malformed) = (0, 0);
        for (at, digit) in digits {
            let other = if digit == '1' { "2" } else { "1" };
            let mut changed = whole.clone();
            changed.replace_range(at..=at, other);
            fs::write(made.path(), changed).unwrap();
            match open(&made.path(), b"a passphrase").unwrap_err() {
                KeyFileError::Sealed(_) => sealed += 1,
                KeyFileError::Malformed { .. } => malformed += 1,
                other => panic!("byte {at}: {other}"),
            }
        }
        // Salt, nonce, secret and tag are 88 bytes, and half of all abscissas are points of the curve.
        assert!(sealed > 170 && malformed > 20, "{sealed} {malformed}");
    }

    #[test]
    fn a_head_cannot_be_exchanged() {
        let made = Made::new();
        let stranger = NodeKey::generate().public_key().to_string();
        made.replaced(&made.public.to_string(), &stranger);
        let refused = open(&made.path(), b"a passphrase").unwrap_err();
        assert!(matches!(refused, KeyFileError::Sealed(_)), "{refused}");
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory() {
        let made = Made::new();
        made.replaced("\"memory_kib\":8", "\"memory_kib\":4294967295");
        let refused = open(&made.path(), b"a passphrase").unwrap_err();
        assert!(refused.to_string().contains("would cost more"), "{refused}");
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let made = Made::new();
        let whole = made.text();
        let half = &whole[..whole.len() / 2];
        let long = format!("{whole}{}", " ".repeat(5000));
        let spaced = whole.replace(":", ": ");
        for content in ["", "\n", half, &long, &spaced, whole.trim_end()] {
            fs::write(made.path(), content).unwrap();
            let refused = open(&made.path(), b"a passphrase").unwrap_err();
            assert!(
                matches!(refused, KeyFileError::Malformed { .. }),
                "{content:?}: {refused}"
            );
        }
    }

    #[test]
    fn the_secret_is_not_in_the_file() {
        let made = Made::new();
        let key = open(&made.path(), b"a passphrase").unwrap();
        // The node's own key file holds its secret as it is.
        let plain = made.folder.path().join("plain.key");
        key.save(&plain).unwrap();
        let secret = fs::read_to_string(plain).unwrap();
        assert!(!made.text().contains(secret.trim()));
    }
}
