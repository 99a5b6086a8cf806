//! A conversation in the model's chat template, as tokens.

use std::sync::Arc;

use blyan_formats::bodies::{ArchitectureBody, ChatTemplate, Tokenizer as TokenizerFields};
use blyan_protocol::{Message, Role};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use super::bytes::is_text;
use crate::error::InferenceError;
use crate::tokenizer::Vocabulary;

/// Tokenises conversations. Text never becomes a control token, whatever it says: the template's own control tokens
/// are put in by their ids, and the tokenizer underneath does not know them. Bytes that the vocabulary lacks (some
/// ASCII control characters in the default model's) are left out.
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    vocabulary: Arc<Vocabulary>,
    turn_start: u32,
    turn_end: u32,
    bos: Option<u32>,
    system_prompt: Option<String>,
}

impl ChatTokenizer {
    /// Builds the tokenizer of an architecture.
    ///
    /// # Errors
    /// [`InferenceError::Tokenizer`] when its fields do not fit together or lack the template's control tokens.
    pub fn new(architecture: &ArchitectureBody) -> Result<Self, InferenceError> {
        let ChatTemplate::Chatml = architecture.chat_template;
        let fields = &architecture.tokenizer;
        Ok(Self {
            tokenizer: build(fields)?,
            vocabulary: Arc::new(Vocabulary::new(fields)?),
            turn_start: control_token(fields, "<|im_start|>")?,
            turn_end: control_token(fields, "<|im_end|>")?,
            bos: fields.add_bos.then_some(fields.bos),
            system_prompt: architecture.system_prompt.clone(),
        })
    }

    /// The bytes of each token.
    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The prompt that asks the model for the assistant's next turn. Where the conversation does not begin with a
    /// system message, the architecture's own is put first.
    ///
    /// # Errors
    /// [`InferenceError::Encode`] when the tokenizer gives up on a text.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, InferenceError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let begins_with_system = messages.first().is_some_and(|one| one.role == Role::System);
        if let Some(prompt) = self.system_prompt.as_ref().filter(|_| !begins_with_system) {
            self.encode_turn(Role::System, prompt, &mut tokens)?;
        }
        for message in messages {
            self.encode_turn(message.role, &message.content, &mut tokens)?;
        }
        tokens.push(self.turn_start);
        tokens.extend(self.encode_text("assistant\n")?);
        Ok(tokens)
    }

    /// The tokens of a plain text, without any control token.
    ///
    /// # Errors
    /// [`InferenceError::Encode`] when the tokenizer gives up on the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, InferenceError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|why| InferenceError::Encode(why.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Role and text are one piece for the tokenizer, as in the model's training.
    fn encode_turn(
        &self,
        role: Role,
        text: &str,
        tokens: &mut Vec<u32>,
    ) -> Result<(), InferenceError> {
        tokens.push(self.turn_start);
        tokens.extend(self.encode_text(&format!("{}\n{text}", role_name(role)))?);
        tokens.push(self.turn_end);
        tokens.extend(self.encode_text("\n")?);
        Ok(())
    }
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// Each digit by itself, then GPT-2's byte level without a space in front.
fn build(fields: &TokenizerFields) -> Result<Tokenizer, InferenceError> {
    let refuse = |why: tokenizers::Error| InferenceError::Tokenizer(why.to_string());
    let model = BPE::builder().vocab_and_merges(text_tokens(fields), merges(fields)?);
    let mut tokenizer = Tokenizer::new(model.build().map_err(refuse)?);
    let digits = PreTokenizerWrapper::Digits(Digits::new(true));
    let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(fields.add_space_prefix, true, true));
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![digits, bytes])));
    Ok(tokenizer)
}

/// Without the control tokens, so that no merge can lead to one.
fn text_tokens(fields: &TokenizerFields) -> Vocab {
    let tokens = fields.vocab.iter().zip(&fields.token_types).enumerate();
    let text = tokens.filter(|(_, (_, kind))| is_text(**kind));
    text.map(|(id, (text, _))| (text.to_owned(), id as u32))
        .collect()
}

fn merges(fields: &TokenizerFields) -> Result<Vec<(String, String)>, InferenceError> {
    let split = |merge: &str| {
        let (left, right) = merge.split_once(' ')?;
        Some((left.to_owned(), right.to_owned()))
    };
    let all: Option<Vec<_>> = fields.merges.iter().map(split).collect();
    all.ok_or_else(|| InferenceError::Tokenizer("a merge is not two texts".to_owned()))
}

fn control_token(fields: &TokenizerFields, text: &str) -> Result<u32, InferenceError> {
    let known = fields
        .vocab
        .iter()
        .zip(&fields.token_types)
        .position(|(one, kind)| one == text && !is_text(*kind));
    let id = known.ok_or_else(|| InferenceError::Tokenizer(format!("no control token {text}")))?;
    Ok(id as u32)
}
