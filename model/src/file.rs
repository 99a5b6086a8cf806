//! A model file in memory, with its hash.

use std::path::{Path, PathBuf};

use blyan_formats::ContentHash;

use crate::ModelError;
use crate::recipe::{Source, read_bounded};
use crate::source::SOURCE_LEN_MAX;

/// A model file that was read once: what is hashed is what is used, whatever happens to the file afterwards.
pub struct SourceFile {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: ContentHash,
}

impl SourceFile {
    /// Reads and hashes a file.
    ///
    /// # Errors
    /// [`ModelError::Unreadable`], [`ModelError::TooLong`].
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = read_bounded(path, SOURCE_LEN_MAX)?;
        Ok(Self {
            path: path.into(),
            sha256: ContentHash::of(&bytes),
            bytes,
        })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a recipe says of this file.
    pub fn record(&self) -> Source {
        let file = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Source {
            file,
            len: self.bytes.len() as u64,
            sha256: self.sha256,
        }
    }

    /// Whether this is the file that a recipe was fitted to; its name does not matter.
    ///
    /// # Errors
    /// [`ModelError::OtherSource`].
    pub fn check_against(&self, expected: &Source) -> Result<(), ModelError> {
        if self.sha256 == expected.sha256 {
            return Ok(());
        }
        Err(ModelError::OtherSource {
            path: self.path.clone(),
            file: expected.file.clone(),
            expected: expected.sha256,
            found: self.sha256,
        })
    }
}
