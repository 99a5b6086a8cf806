//! What each token stands for in bytes.

use std::collections::BTreeSet;

use blyan_formats::bodies::Tokenizer;

use crate::error::InferenceError;

/// GGUF's token types that this crate must tell apart.
const NORMAL: u8 = 1;
const UNUSED: u8 = 5;
const BYTE: u8 = 6;
const CONTROL: u8 = 3;
const USER_DEFINED: u8 = 4;

/// Control tokens that end an answer whatever the architecture's end token is.
const ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// The bytes of each token. Control tokens have none: they are never part of an answer's text.
#[derive(Debug)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<u32>,
    end_tokens: BTreeSet<u32>,
}

impl Vocabulary {
    /// Reads the tokens of a byte-level vocabulary.
    ///
    /// # Errors
    /// [`InferenceError::Tokenizer`] for a token with a character outside of GPT-2's byte alphabet.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, InferenceError> {
        let mut vocabulary = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            end_tokens: BTreeSet::from([tokenizer.eos]),
        };
        for (id, text) in tokenizer.vocab.iter().enumerate() {
            let kind = tokenizer.token_types.get(id).copied().unwrap_or(UNUSED);
            vocabulary.push(id, text, kind)?;
        }
        Ok(vocabulary)
    }

    fn push(&mut self, id: usize, text: &str, kind: u8) -> Result<(), InferenceError> {
        match kind {
            NORMAL | BYTE => self
                .bytes
                .extend(plain_bytes(text).map_err(|c| outside(id, c))?),
            USER_DEFINED => self.bytes.extend(text.as_bytes()),
            CONTROL if ENDS.contains(&text) => {
                self.end_tokens.insert(id as u32);
            }
            _ => {}
        }
        self.ends.push(self.bytes.len() as u32);
        Ok(())
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no token at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The token's bytes; nothing for control tokens and ids beyond the vocabulary.
    #[must_use]
    pub fn bytes(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let end = self.ends.get(token).copied();
        let start = token
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied();
        end.and_then(|end| self.bytes.get(start.unwrap_or(0) as usize..end as usize))
            .unwrap_or(&[])
    }

    /// Whether the token ends an answer.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.end_tokens.contains(&token)
    }
}

/// Whether a token can come out of text: it is neither a control token nor unused.
pub(super) fn is_text(kind: u8) -> bool {
    matches!(kind, NORMAL | USER_DEFINED | BYTE)
}

fn outside(id: usize, c: char) -> InferenceError {
    InferenceError::Tokenizer(format!("token {id} holds {c:?}, which stands for no byte"))
}

/// The bytes that a text in GPT-2's alphabet stands for, or the first character outside of it.
fn plain_bytes(text: &str) -> Result<Vec<u8>, char> {
    text.chars().map(|c| byte_of(c).ok_or(c)).collect()
}

/// GPT-2 writes a printable Latin-1 byte as itself, and the 68 others in order as U+0100 and up (Radford et al.,
/// `bytes_to_unicode` of the GPT-2 release).
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen: Vec<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(byte_of)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        for (c, byte) in [
            ('Ġ', b' '),
            ('Ċ', b'\n'),
            ('ĉ', b'\t'),
            ('a', b'a'),
            ('Ń', 0xad),
        ] {
            assert_eq!(byte_of(c), Some(byte), "{c:?}");
        }
    }
}
