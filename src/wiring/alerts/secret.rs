//! Secrets that stand alone in a file.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LEN_MAX: u64 = 4096;
const OTHERS: u32 = 0o077;

/// Why a secret cannot be had. Its text is never repeated.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{key}: {path} cannot be read: {source}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{key}: others can read {path}; chmod 600 it")]
    Open {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: String,
    },
    /// It is empty, more than one line, or not printable ASCII.
    #[error("{key}: {path} does not hold one line of printable characters")]
    Form {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: String,
    },
}

/// The secret in the file at `path`, without white space around it.
pub fn read(key: &'static str, path: &Path) -> Result<String, SecretError> {
    let shown = || path.display().to_string();
    let failed = |source| SecretError::File {
        key,
        path: shown(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(SecretError::Open { key, path: shown() });
    }
    let mut text = String::new();
    file.take(LEN_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let secret = text.trim();
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SecretError::Form { key, path: shown() });
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    #[test]
    fn a_secret_is_one_line_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(matches!(read("k", &path), Err(SecretError::File { .. })));
        write(&path, " https://example.org/x\n").unwrap();
        set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let refused = read("k", &path).unwrap_err();
        assert!(matches!(refused, SecretError::Open { .. }));
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read("k", &path).unwrap(), "https://example.org/x");
        for text in ["", " \n", "two words", "two\nlines", "\u{e9}"] {
            write(&path, text).unwrap();
            let refused = read("k", &path).unwrap_err();
            assert!(matches!(refused, SecretError::Form { .. }), "{text:?}");
        }
    }
}
