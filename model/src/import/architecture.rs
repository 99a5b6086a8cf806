//! The architecture payload, from a model file's metadata.

use blyan_formats::bodies::{
    ArchitectureBody, ChatTemplate, ExpertShape, Family, Rope, RopeStyle, StringTable, Tokenizer,
    TokenizerKind,
};
use blyan_formats::gguf::{Gguf, Value};

use crate::ModelError;
use crate::recipe::{ModelRecord, Recipe};
use crate::source::{SourceModel, SourceShape};

/// What every ChatML template says of a message, and what it says where no system message is given.
const CHATML_MESSAGE: &str =
    "'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'";
const CHATML_SYSTEM_START: &str = "messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n";
const CHATML_SYSTEM_END: &str = "<|im_end|>";

/// Describes a model file that is split into `experts`.
///
/// # Errors
/// [`ModelError::Gguf`] for what the metadata lacks, [`ModelError::Unsupported`] for what the chain cannot
/// describe.
pub fn describe(
    source: &SourceModel<'_>,
    model: &ModelRecord,
    experts: ExpertShape,
) -> Result<ArchitectureBody, ModelError> {
    let shape = source.shape();
    let number = |value: usize| narrow(value, "a shape");
    let (template, system_prompt) = chat_template(source.gguf())?;
    Ok(ArchitectureBody {
        family: Family::Llama,
        name: model.name.clone(),
        license: model.license.clone(),
        layers: narrow(shape.layers, "the number of layers")?,
        hidden: number(shape.hidden)?,
        heads: number(shape.heads)?,
        kv_heads: number(shape.kv_heads)?,
        head_dim: number(shape.head_dim())?,
        ffn: number(shape.ffn)?,
        vocab: number(shape.vocab)?,
        context: number(shape.context)?,
        rms_epsilon: SourceShape::decimal(shape.rms_epsilon)?,
        // GGUF stores the query and key rows of this family so that neighbours turn together.
        rope: Rope {
            base: SourceShape::decimal(shape.rope_base)?,
            style: RopeStyle::Interleaved,
        },
        experts,
        tokenizer: tokenizer(source.gguf())?,
        chat_template: template,
        system_prompt,
    })
}

fn narrow<T: TryFrom<usize>>(value: usize, what: &str) -> Result<T, ModelError> {
    T::try_from(value).map_err(|_| ModelError::Unsupported(format!("{what} is {value}")))
}

/// Refuses a recipe of other shapes than the model's.
pub(super) fn check_recipe(shape: &SourceShape, recipe: &Recipe) -> Result<(), ModelError> {
    let neurons = recipe.experts.neurons as usize * usize::from(recipe.experts.per_layer);
    let weights = usize::from(recipe.experts.routed()) * (shape.hidden + 1);
    let fits = recipe.layers.len() == shape.layers
        && neurons == shape.ffn
        && recipe
            .layers
            .iter()
            .all(|layer| layer.router.0.len() == weights);
    if fits {
        Ok(())
    } else {
        Err(ModelError::Recipe(
            "its shapes are not those of the model".into(),
        ))
    }
}

fn tokenizer(gguf: &Gguf<'_>) -> Result<Tokenizer, ModelError> {
    let kind = (
        gguf.text("tokenizer.ggml.model")?,
        gguf.text("tokenizer.ggml.pre")?,
    );
    if kind != ("gpt2", "smollm") {
        return Err(ModelError::Unsupported(format!(
            "its tokenizer is {} with {}, not gpt2 with smollm",
            kind.0, kind.1
        )));
    }
    Ok(Tokenizer {
        kind: TokenizerKind::Gpt2Smollm,
        vocab: texts(gguf, "tokenizer.ggml.tokens")?,
        merges: texts(gguf, "tokenizer.ggml.merges")?,
        token_types: token_types(gguf)?,
        bos: gguf.u32("tokenizer.ggml.bos_token_id")?,
        eos: gguf.u32("tokenizer.ggml.eos_token_id")?,
        unknown: gguf.u32("tokenizer.ggml.unknown_token_id")?,
        padding: gguf.u32("tokenizer.ggml.padding_token_id")?,
        add_bos: gguf.bool("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?,
    })
}

fn texts(gguf: &Gguf<'_>, key: &'static str) -> Result<StringTable, ModelError> {
    let unusable = |why: &str| ModelError::Unsupported(format!("{key} {why}"));
    let list = gguf
        .array(key)?
        .texts()
        .ok_or_else(|| unusable("is no list of texts"))?;
    let mut table = StringTable::default();
    for text in list {
        if !table.push(text) {
            return Err(unusable("is longer than 16 MiB"));
        }
    }
    Ok(table)
}

fn token_types(gguf: &Gguf<'_>) -> Result<Vec<u8>, ModelError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let unusable = || ModelError::Unsupported(format!("{KEY} is no list of small numbers"));
    let values = gguf.array(KEY)?.values().ok_or_else(unusable)?;
    values
        .map(|value| {
            value
                .as_unsigned()
                .and_then(|t| u8::try_from(t).ok())
                .ok_or_else(unusable)
        })
        .collect()
}

/// The template, and the system message that it puts first where a chat has none.
fn chat_template(gguf: &Gguf<'_>) -> Result<(ChatTemplate, Option<String>), ModelError> {
    let template = gguf
        .get("tokenizer.chat_template")
        .and_then(Value::as_text)
        .unwrap_or_default();
    if !template.contains(CHATML_MESSAGE) {
        return Err(ModelError::Unsupported(
            "its chat template is not ChatML".into(),
        ));
    }
    let system = template
        .split_once(CHATML_SYSTEM_START)
        .and_then(|(_, rest)| rest.split_once(CHATML_SYSTEM_END));
    Ok((
        ChatTemplate::Chatml,
        system
            .map(|(text, _)| text.to_owned())
            .filter(|text| !text.is_empty()),
    ))
}
