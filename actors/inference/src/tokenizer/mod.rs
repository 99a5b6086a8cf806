//! Text to tokens and back, built from the architecture's own tokenizer fields.

mod bytes;
mod chat;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
mod transcript;

pub use bytes::Vocabulary;
pub use chat::ChatTokenizer;
pub use stop::{StopMatcher, Stopping};
pub use transcript::{Heard, Transcript};
