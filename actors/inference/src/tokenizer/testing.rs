//! A vocabulary for unit tests: 256 tokens of one byte each, then an end token.

use std::sync::Arc;

use blyan_formats::bodies::{StringTable, Tokenizer, TokenizerKind};

use super::Vocabulary;

/// The end token of [`bytewise`].
pub(crate) const END: u32 = 256;

pub(crate) fn bytewise() -> Arc<Vocabulary> {
    let mut vocab = StringTable::default();
    for byte in 0..=255_u8 {
        assert!(vocab.push(&byte_text(byte)));
    }
    assert!(vocab.push("<|im_end|>"));
    let mut token_types = vec![1; 256];
    token_types.push(3);
    let fields = Tokenizer {
        kind: TokenizerKind::Gpt2Smollm,
        vocab,
        merges: StringTable::default(),
        token_types,
        bos: END,
        eos: END,
        unknown: END,
        padding: END,
        add_bos: false,
        add_space_prefix: false,
    };
    Arc::new(Vocabulary::new(&fields).unwrap())
}

fn byte_text(byte: u8) -> String {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..byte).filter(|other| !printable(*other)).count() as u32;
    let code = if printable(byte) {
        u32::from(byte)
    } else {
        0x100 + others
    };
    char::from_u32(code).unwrap().to_string()
}
