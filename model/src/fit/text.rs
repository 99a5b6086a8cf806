//! Text as stretches of tokens.

use std::path::Path;

use blyan_formats::ContentHash;
use blyan_formats::bodies::ArchitectureBody;
use blyan_inference::tokenizer::ChatTokenizer;

use crate::ModelError;
use crate::recipe::{TextRecord, read_bounded};

/// Longest text file in bytes.
const TEXT_LEN_MAX: u64 = 64 << 20;

/// A text file.
#[derive(Clone, Debug)]
pub struct Text {
    file: String,
    sha256: ContentHash,
    text: String,
}

impl Text {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ModelError::Unreadable`], also if it is not UTF-8; [`ModelError::TooLong`].
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = read_bounded(path, TEXT_LEN_MAX)?;
        let sha256 = ContentHash::of(&bytes);
        let text = String::from_utf8(bytes).map_err(|why| ModelError::Unreadable {
            path: path.into(),
            why: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
        })?;
        Ok(Self {
            file: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            sha256,
            text,
        })
    }

    /// What a recipe says of it.
    pub fn record(&self) -> TextRecord {
        TextRecord {
            file: self.file.clone(),
            sha256: self.sha256,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.file
    }
}

/// The tokens of a text, as the model of an architecture reads it.
///
/// # Errors
/// [`ModelError::Tokenizer`].
pub fn tokenise(architecture: &ArchitectureBody, text: &Text) -> Result<Vec<u32>, ModelError> {
    Ok(ChatTokenizer::new(architecture)?.encode_text(&text.text)?)
}

/// Stretches of `window` tokens, `tokens` in all: as many of each text, at equal distances over its length.
pub(super) fn windows(
    architecture: &ArchitectureBody,
    texts: &[Text],
    tokens: usize,
    window: usize,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let each = tokens / window / texts.len().max(1);
    let mut windows = Vec::new();
    let mut found = 0;
    for text in texts {
        let tokens = tokenise(architecture, text)?;
        found += tokens.len();
        windows.extend(spread(&tokens, window, each));
    }
    let enough = each > 0 && windows.len() == each * texts.len();
    if enough {
        Ok(windows)
    } else {
        Err(ModelError::TooFewTokens {
            found,
            needed: tokens,
        })
    }
}

/// `count` stretches that do not overlap; fewer if there are not enough tokens.
fn spread(tokens: &[u32], window: usize, count: usize) -> Vec<Vec<u32>> {
    let all: Vec<&[u32]> = tokens.chunks_exact(window).collect();
    let count = count.min(all.len());
    (0..count)
        .map(|number| all[number * all.len() / count].to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_spread_and_do_not_overlap() {
        let tokens: Vec<u32> = (0..103).collect();
        let stretches = spread(&tokens, 10, 4);
        let firsts: Vec<u32> = stretches.iter().map(|stretch| stretch[0]).collect();
        assert_eq!(firsts, [0, 20, 50, 70]);
        assert!(stretches.iter().all(|stretch| stretch.len() == 10));
        assert_eq!(spread(&tokens, 10, 40).len(), 10);
        assert!(spread(&tokens[..9], 10, 4).is_empty());
    }

    #[test]
    fn a_text_that_is_no_text_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
        assert!(matches!(
            Text::read(file.path()),
            Err(ModelError::Unreadable { .. })
        ));
    }
}
