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
    /// A file that names no key: nobody could chat.
    #[error("the key file {0} holds no key")]
    Empty(String),
}

type Digest = [u8; 32];

/// SHA-256 of every key that opens something. Comparing digests takes the same time whatever was sent.
#[derive(Clone)]
pub struct Keys {
    admin: Digest,
    api: Vec<Digest>,
}

impl Keys {
    /// Reads the configured keys, and the admin key of the data directory, which is made if there is none.
    pub fn load(config: &EdgeConfig, data_dir: &Path) -> Result<Self, KeyError> {
        let admin = load_or_make_admin_key(&data_dir.join(ADMIN_KEY_FILE))?;
        let mut api = parse_hashes("edge.api_keys", config.api_keys.iter().map(String::as_str))?;
        if let Some(path) = &config.api_keys_file {
            api.extend(hashes_of_file(path)?);
        }
        Ok(Self {
            admin: sha256(admin.as_bytes()),
            api,
        })
    }

    /// Whether the request brings the admin key.
    pub fn is_admin(&self, request: &HttpRequest) -> bool {
        presented(request).any(|key| bool::from(sha256(key.as_bytes()).ct_eq(&self.admin)))
    }

    /// Whether the request may chat: everyone where no API key is configured.
    pub fn may_chat(&self, request: &HttpRequest) -> bool {
        self.api.is_empty() || presented(request).any(|key| self.opens_chat(key))
    }

    fn opens_chat(&self, key: &str) -> bool {
        let digest = sha256(key.as_bytes());
        let known = self.api.iter().chain([&self.admin]);
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
    let lines = text.lines().map(str::trim);
    let hashes = parse_hashes(
        &name,
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')),
    )?;
    if hashes.is_empty() {
        return Err(KeyError::Empty(name));
    }
    Ok(hashes)
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
            admin: sha256(b"root"),
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
        assert!(keys.is_admin(&with("x-api-key", "root")));
        assert!(keys.is_admin(&with("authorization", "Bearer root")));
        assert!(!keys.is_admin(&with("x-api-key", "one")));
        assert!(!keys.is_admin(&with("x-api-key", "")));
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
