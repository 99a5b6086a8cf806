//! The answer so far: tokens become whole characters, and stop texts end it.

use std::sync::Arc;

use crate::tokenizer::{StopMatcher, Stopping, Vocabulary};

/// What a token did to the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer goes on; this text can be shown.
    More(String),
    /// The model's end token or a stop text ended it; this is the last text.
    End(String),
}

/// Turns the tokens of one answer into text. Never shows half a character or a part of a stop text.
#[derive(Clone, Debug)]
pub struct Transcript {
    vocabulary: Arc<Vocabulary>,
    stops: StopMatcher,
    /// The beginning of a character whose rest has not come yet: at most 3 bytes.
    partial: Vec<u8>,
}

impl Transcript {
    /// An empty answer that ends before the first of `stops`.
    #[must_use]
    pub fn new(vocabulary: Arc<Vocabulary>, stops: Vec<String>) -> Self {
        Self {
            vocabulary,
            stops: StopMatcher::new(stops),
            partial: Vec::new(),
        }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: u32) -> Heard {
        if self.vocabulary.is_end(token) {
            return Heard::End(self.finish());
        }
        self.partial.extend_from_slice(self.vocabulary.bytes(token));
        let text = take_whole_characters(&mut self.partial);
        match self.stops.push(&text) {
            Stopping::Go(text) => Heard::More(text),
            Stopping::Stop(text) => Heard::End(text),
        }
    }

    /// What was held back, now that no token follows. A character that never became whole is left out.
    pub fn finish(&mut self) -> String {
        self.partial.clear();
        self.stops.finish()
    }
}

/// Removes the whole characters from the front. Bytes that can begin no character become U+FFFD, one for each maximal
/// part as in `String::from_utf8_lossy`; an unfinished character at the end stays.
fn take_whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut unfinished = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        if chunks.peek().is_none() && may_go_on(invalid) {
            unfinished = invalid.len();
        } else if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..bytes.len() - unfinished);
    text
}

/// Whether these bytes are the beginning of a character and lack nothing but its end.
fn may_go_on(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|why| why.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::testing::{END, bytewise};

    fn tell(bytes: &[u8], stops: &[&str]) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut transcript = Transcript::new(bytewise(), stops);
        let mut texts = Vec::new();
        for byte in bytes {
            match transcript.push(u32::from(*byte)) {
                Heard::More(text) => texts.push(text),
                Heard::End(text) => {
                    texts.push(text);
                    return (texts, true);
                }
            }
        }
        texts.push(transcript.finish());
        (texts, false)
    }

    #[test]
    fn a_character_appears_when_it_is_whole() {
        let (texts, _) = tell("aß😀".as_bytes(), &[]);
        assert_eq!(texts, ["a", "", "ß", "", "", "", "😀", ""]);
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_left_out() {
        let (texts, _) = tell(&"a😀".as_bytes()[..4], &[]);
        assert_eq!(texts.concat(), "a");
    }

    #[test]
    fn broken_bytes_do_not_hold_up_what_follows() {
        let (texts, _) = tell(b"\xff\xc3a\xf0\x9f\x98b", &[]);
        assert_eq!(
            texts.concat(),
            String::from_utf8_lossy(b"\xff\xc3a\xf0\x9f\x98b")
        );
    }

    #[test]
    fn a_stop_text_may_hold_wide_characters() {
        assert_eq!(
            tell("so→end".as_bytes(), &["→"]),
            (["s", "o", "", "", ""].map(String::from).to_vec(), true)
        );
    }

    #[test]
    fn the_end_token_releases_what_was_held() {
        let mut transcript = Transcript::new(bytewise(), vec!["abc".into()]);
        assert_eq!(transcript.push(u32::from(b'a')), Heard::More(String::new()));
        assert_eq!(transcript.push(END), Heard::End("a".into()));
    }

    proptest! {
        #[test]
        fn text_is_the_bytes_without_an_unfinished_end(bytes: Vec<u8>) {
            let (texts, _) = tell(&bytes, &[]);
            let whole = String::from_utf8_lossy(&bytes).into_owned();
            let mut told = texts.concat();
            if told != whole {
                told.push(char::REPLACEMENT_CHARACTER);
            }
            prop_assert_eq!(told, whole);
        }

        #[test]
        fn text_comes_through_unharmed(text in "\\PC{0,40}") {
            let (texts, _) = tell(text.as_bytes(), &[]);
            prop_assert_eq!(texts.concat(), text);
        }
    }
}
