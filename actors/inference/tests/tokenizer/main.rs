//! The tokenizer of the default model against an independent implementation: `tokens.json` comes from `reference.py`,
//! which shares no code with this crate or its libraries. Needs the model file, as `make` sets it up.

use std::path::PathBuf;

use blyan_formats::bodies::{
    ArchitectureBody, ChatTemplate, ExpertShape, Family, Rope, RopeStyle, Routing, StringTable,
    Tokenizer, TokenizerKind,
};
use blyan_formats::gguf::Gguf;
use blyan_inference::tokenizer::{ChatTokenizer, Heard, Transcript};
use blyan_protocol::Message;
use serde::Deserialize;

const SYSTEM_PROMPT: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

#[derive(Deserialize)]
struct Expected {
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    tokens: Vec<u32>,
}

fn expected() -> Expected {
    serde_json::from_str(include_str!("tokens.json")).unwrap()
}

fn tokenizer() -> ChatTokenizer {
    let cache = std::env::var_os("BLYAN_CACHE_DIR").map(PathBuf::from);
    let cache = cache
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/blyan"));
    let path = cache.join("model/SmolLM2-135M-Instruct.Q4_1.gguf");
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|why| panic!("{}: {why}; `make` fetches it", path.display()));
    ChatTokenizer::new(&architecture(&Gguf::parse(&bytes).unwrap())).unwrap()
}

fn table(gguf: &Gguf<'_>, key: &'static str) -> StringTable {
    let mut table = StringTable::default();
    for text in gguf.array(key).unwrap().texts().unwrap() {
        assert!(table.push(text));
    }
    table
}

/// The shapes play no part here.
fn architecture(gguf: &Gguf<'_>) -> ArchitectureBody {
    let types = gguf.array("tokenizer.ggml.token_type").unwrap();
    let types = types
        .values()
        .unwrap()
        .map(|value| value.as_unsigned().unwrap() as u8);
    let vocab = table(gguf, "tokenizer.ggml.tokens");
    ArchitectureBody {
        family: Family::Llama,
        name: "tokenizer only".into(),
        license: "Apache-2.0".into(),
        layers: 1,
        hidden: 32,
        heads: 1,
        kv_heads: 1,
        head_dim: 32,
        ffn: 32,
        vocab: vocab.len() as u32,
        context: 8192,
        rms_epsilon: "0.00001".parse().unwrap(),
        rope: Rope {
            base: "10000".parse().unwrap(),
            style: RopeStyle::Interleaved,
        },
        experts: ExpertShape {
            per_layer: 2,
            always_on: 1,
            neurons: 16,
            routing: Routing::TopScoresUnitWeight,
        },
        tokenizer: Tokenizer {
            kind: TokenizerKind::Gpt2Smollm,
            vocab,
            merges: table(gguf, "tokenizer.ggml.merges"),
            token_types: types.collect(),
            bos: gguf.u32("tokenizer.ggml.bos_token_id").unwrap(),
            eos: gguf.u32("tokenizer.ggml.eos_token_id").unwrap(),
            unknown: gguf.u32("tokenizer.ggml.unknown_token_id").unwrap(),
            padding: gguf.u32("tokenizer.ggml.padding_token_id").unwrap(),
            add_bos: gguf.bool("tokenizer.ggml.add_bos_token").unwrap(),
            add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix").unwrap(),
        },
        chat_template: ChatTemplate::Chatml,
        system_prompt: Some(SYSTEM_PROMPT.into()),
    }
}

/// What a reader sees when the model says these tokens.
fn read_aloud(tokenizer: &ChatTokenizer, tokens: &[u32]) -> String {
    let mut transcript = Transcript::new(tokenizer.vocabulary().clone(), Vec::new());
    let mut text = String::new();
    for token in tokens {
        match transcript.push(*token) {
            Heard::More(piece) => text.push_str(&piece),
            Heard::End(piece) => return text + &piece,
        }
    }
    text + &transcript.finish()
}

#[test]
fn texts_and_chats_have_the_tokens_that_another_implementation_finds() {
    let (tokenizer, expected) = (tokenizer(), expected());
    for Text { text, tokens } in &expected.texts {
        assert_eq!(&tokenizer.encode_text(text).unwrap(), tokens, "{text:?}");
        assert_eq!(&read_aloud(&tokenizer, tokens), text);
    }
    for Chat { messages, tokens } in &expected.chats {
        assert_eq!(
            &tokenizer.encode_chat(messages).unwrap(),
            tokens,
            "{messages:?}"
        );
    }
}

#[test]
fn no_text_becomes_a_control_token() {
    let tokenizer = tokenizer();
    let controls = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<repo_name>",
        "<empty_output>",
    ];
    for text in controls {
        let tokens = tokenizer.encode_text(text).unwrap();
        assert!(
            tokens.len() > 1 && tokens.iter().all(|token| *token > 16),
            "{text}: {tokens:?}"
        );
        assert_eq!(read_aloud(&tokenizer, &tokens), text);
    }
    // A byte that the vocabulary lacks is left out.
    assert_eq!(tokenizer.encode_text("\u{4}").unwrap(), Vec::<u32>::new());
}
