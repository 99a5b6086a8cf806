//! The admin key and the API keys.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use actix_web::HttpRequest;
use actix_web::http::header;
use blyan_formats::hash::sha256;
use rand::TryRngCore;
use rand::rngs::OsRng;
use subtle::{Choice, ConstantTimeEq};

use crate::config::EdgeConfig;

const ADMIN_KEY_FILE: &str = "admin.key";
const ADMIN_KEY_BYTES: usize = 32;
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// Whoever brings the key of the data directory.
const OWNER: &str = "owner";
const NAME_LEN_MAX: usize = 64;

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file cannot be read or written.
    #[error("the key file {path} cannot be used: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A line that is no SHA-256 in hex.
    #[error("{origin}: a key is the 64 hex digits of its SHA-256")]
    NotAHash {
        /// Where it stands.
        origin: String,
    },
    /// A line of the admins' file that is not a name and a hash.
    #[error(
        "{0}: a line is the admin's name, a space, and the 64 hex digits of the key's SHA-256; each name once, and not {OWNER}"
    )]
    NotAnAdmin(String),
    /// A file that names no key: nobody could chat.
    #[error("the key file {0} holds no key")]
    Empty(String),
}

type Digest = [u8; 32];

/// SHA-256 of every key that opens something. Comparing digests takes the same time whatever was sent.
#[derive(Clone)]
pub struct Keys {
    /// With their names; the owner is the first.
    admins: Vec<(String, Digest)>,
    api: Vec<Digest>,
}

impl Keys {
    /// Reads the configured keys, and the admin key of the data directory, which is made if there is none.
    pub fn load(config: &EdgeConfig, data_dir: &Path) -> Result<Self, KeyError> {
        let owner = load_or_make_admin_key(&data_dir.join(ADMIN_KEY_FILE))?;
        let mut admins = vec![(OWNER.to_owned(), sha256(owner.as_bytes()))];
        if let Some(path) = &config.admin_keys_file {
            admins.extend(admins_of_file(path)?);
        }
        let mut api = parse_hashes("edge.api_keys", config.api_keys.iter().map(String::as_str))?;
        if let Some(path) = &config.api_keys_file {
            api.extend(hashes_of_file(path)?);
        }
        Ok(Self { admins, api })
    }

    /// The name of the admin whose key the request brings.
    pub fn admin(&self, request: &HttpRequest) -> Option<&str> {
        let mut found = None;
        for digest in presented(request).map(|key| sha256(key.as_bytes())) {
            // All are looked at, whichever it is.
            for (name, key) in &self.admins {
                if bool::from(key.ct_eq(&digest)) {
                    found = found.or(Some(name.as_str()));
                }
            }
        }
        found
    }

    /// Whether the request may chat: everyone where no API key is configured.
    pub fn may_chat(&self, request: &HttpRequest) -> bool {
        self.api.is_empty() || presented(request).any(|key| self.opens_chat(key))
    }

    fn opens_chat(&self, key: &str) -> bool {
        let digest = sha256(key.as_bytes());
        let admins = self.admins.iter().map(|(_, key)| key);
        let known = self.api.iter().chain(admins);
        let found = known.fold(Choice::from(0), |found, key| found | key.ct_eq(&digest));
        found.into()
    }
}

/// The admin key of a data directory, for commands that ask its node; `None` where there is none to be read.
pub fn admin_key(data_dir: &Path) -> Option<String> {
    let text = read_bounded(&data_dir.join(ADMIN_KEY_FILE)).ok()?;
    let key = text.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// The keys that a request sends, as `X-API-Key` or as `Authorization: Bearer`.
fn presented(request: &HttpRequest) -> impl Iterator<Item = &str> {
    let text = |name: &str| request.headers().get(name)?.to_str().ok();
    let bearer = text(header::AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    text("x-api-key").into_iter().chain(bearer)
}

fn load_or_make_admin_key(path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::File {
        path: path.display().to_string(),
        source,
    };
    match read_bounded(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(KeyError::Empty(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_admin_key(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Written beside and renamed, so that a crash leaves no half a key.
fn make_admin_key(path: &Path) -> io::Result<String> {
    let mut random = [0; ADMIN_KEY_BYTES];
    OsRng
        .try_fill_bytes(&mut random)
        .map_err(io::Error::other)?;
    let key = hex::encode(random);
    let staged = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    Ok(key)
}

fn hashes_of_file(path: &Path) -> Result<Vec<Digest>, KeyError> {
    let name = path.display().to_string();
    let text = read_bounded(path).map_err(|source| KeyError::File {
        path: name.clone(),
        source,
    })?;
    let hashes = parse_hashes(&name, key_lines(&text))?;
    if hashes.is_empty() {
        return Err(KeyError::Empty(name));
    }
    Ok(hashes)
}

/// `NAME HASH` on each line.
fn admins_of_file(path: &Path) -> Result<Vec<(String, Digest)>, KeyError> {
    let origin = path.display().to_string();
    let text = read_bounded(path).map_err(|source| KeyError::File {
        path: origin.clone(),
        source,
    })?;
    let mut admins: Vec<(String, Digest)> = Vec::new();
    for line in key_lines(&text) {
        let (name, hash) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| KeyError::NotAnAdmin(origin.clone()))?;
        let known = name == OWNER || admins.iter().any(|(other, _)| other == name);
        if known || !is_name(name) {
            return Err(KeyError::NotAnAdmin(origin));
        }
        let keys = parse_hashes(&origin, [hash.trim()].into_iter())?;
        admins.extend(keys.into_iter().map(|key| (name.to_owned(), key)));
    }
    if admins.is_empty() {
        return Err(KeyError::Empty(origin));
    }
    Ok(admins)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// Without empty lines and comments.
fn key_lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn parse_hashes<'a>(
    origin: &str,
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<Digest>, KeyError> {
    texts
        .map(|text| {
            let mut digest = [0; 32];
            // The text itself is not repeated: someone may have put the key there instead of its hash.
            hex::decode_to_slice(text, &mut digest).map_err(|_| KeyError::NotAHash {
                origin: origin.to_owned(),
            })?;
            Ok(digest)
        })
        .collect()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(KEY_FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use actix_web::test::TestRequest;

    use super::*;

    fn keys(api: &[&str]) -> Keys {
        Keys {
            admins: vec![
                (OWNER.to_owned(), sha256(b"root")),
                ("night-shift".to_owned(), sha256(b"night")),
            ],
            api: api.iter().map(|key| sha256(key.as_bytes())).collect(),
        }
    }

    fn with(name: &'static str, value: &str) -> HttpRequest {
        TestRequest::default()
            .insert_header((name, value))
            .to_http_request()
    }

    #[test]
    fn without_keys_everyone_chats_and_unknown_bearers_are_ignored() {
        assert!(keys(&[]).may_chat(&TestRequest::default().to_http_request()));
        assert!(keys(&[]).may_chat(&with("authorization", "Bearer sk-none")));
    }

    #[test]
    fn with_keys_only_theirs_and_the_admins_chat() {
        let keys = keys(&["one", "two"]);
        assert!(!keys.may_chat(&TestRequest::default().to_http_request()));
        assert!(!keys.may_chat(&with("authorization", "Bearer three")));
        assert!(!keys.may_chat(&with("authorization", "Basic one")));
        assert!(keys.may_chat(&with("authorization", "bearer two")));
        assert!(keys.may_chat(&with("x-api-key", "one")));
        assert!(keys.may_chat(&with("x-api-key", "root")));
    }

    #[test]
    fn an_api_key_is_no_admin_key() {
        let keys = keys(&["one"]);
        assert_eq!(keys.admin(&with("x-api-key", "root")), Some(OWNER));
        assert_eq!(
            keys.admin(&with("authorization", "Bearer night")),
            Some("night-shift")
        );
        assert_eq!(keys.admin(&with("x-api-key", "one")), None);
        assert_eq!(keys.admin(&with("x-api-key", "")), None);
    }

    #[test]
    fn admins_have_a_name_and_a_hash_each_and_no_name_is_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admins");
        let hash = hex::encode(sha256(b"secret"));
        std::fs::write(&path, format!("# ours\nnight-shift {hash}\nada\t{hash}\n")).unwrap();
        let names: Vec<_> = admins_of_file(&path)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["night-shift", "ada"]);
        let long = "x".repeat(65);
        for text in [
            hash.clone(),
            format!("owner {hash}"),
            format!("ada {hash}\nada {hash}"),
            format!("a,b {hash}"),
            format!("{long} {hash}"),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = admins_of_file(&path).unwrap_err();
            assert!(matches!(refused, KeyError::NotAnAdmin(_)), "{refused}");
        }
        std::fs::write(&path, "ada secret").unwrap();
        let refused = admins_of_file(&path).unwrap_err().to_string();
        assert!(!refused.contains("secret"), "{refused}");
        std::fs::write(&path, "# none").unwrap();
        assert!(matches!(admins_of_file(&path), Err(KeyError::Empty(_))));
    }

    #[test]
    fn the_admin_key_is_made_once_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ADMIN_KEY_FILE);
        let made = load_or_make_admin_key(&path).unwrap();
        assert_eq!(made.len(), 2 * ADMIN_KEY_BYTES);
        assert_eq!(load_or_make_admin_key(&path).unwrap(), made);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_may_have_comments_and_must_hold_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(
            &path,
            format!("# ours\n\n{}\n", hex::encode(sha256(b"one"))),
        )
        .unwrap();
        assert_eq!(hashes_of_file(&path).unwrap(), [sha256(b"one")]);
        std::fs::write(&path, "my secret\n").unwrap();
        let error = hashes_of_file(&path).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        std::fs::write(&path, "# none\n").unwrap();
        assert!(matches!(hashes_of_file(&path), Err(KeyError::Empty(_))));
    }
}
