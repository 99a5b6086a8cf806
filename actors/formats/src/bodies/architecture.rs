use serde::{Deserialize, Serialize};

use super::{BodyError, Decimal, Payload, StringTable, require};
use crate::name::{LayerPart, TensorName};

const LAYERS_MAX: u16 = 1024;
const WIDTH_MAX: u32 = 65_536;
const VOCAB_MAX: u32 = 1 << 20;
const CONTEXT_MAX: u32 = 1 << 20;
const MERGES_MAX: usize = 1 << 20;
const TEXT_LEN_MAX: usize = 4096;
/// Highest token type of GGUF.
const TOKEN_TYPE_MAX: u8 = 6;

/// Payload of an architecture block: everything about a model but its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchitectureBody {
    pub family: Family,
    /// For people, for instance `SmolLM2-135M-Instruct`.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub license: String,
    pub layers: u16,
    /// H, the width of the residual stream; a multiple of 32.
    pub hidden: u32,
    pub heads: u32,
    /// Divides `heads`.
    pub kv_heads: u32,
    /// `heads` x `head_dim` = H.
    pub head_dim: u32,
    /// F x experts a layer: neurons of one layer's feed-forward part.
    pub ffn: u32,
    /// Rows of the embedding, which is also the output head.
    pub vocab: u32,
    /// Longest sequence in tokens.
    pub context: u32,
    /// Added to the mean square in every norm.
    pub rms_epsilon: Decimal,
    pub rope: Rope,
    pub experts: ExpertShape,
    pub tokenizer: Tokenizer,
    pub chat_template: ChatTemplate,
    /// System message put first where a chat has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
}

/// The computation between the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// RMS norm, grouped-query attention with rotary embedding, SwiGLU; embedding tied to the head.
    Llama,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    pub base: Decimal,
    pub style: RopeStyle,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// 2i and 2i+1.
    Interleaved,
    /// i and i + half.
    Halves,
}

/// How a layer's feed-forward part is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertShape {
    /// E.
    pub per_layer: u16,
    /// Experts 0 to `always_on` - 1 take part in every token; the others are routed.
    pub always_on: u16,
    /// F, neurons of one expert; E x F = `ffn`.
    pub neurons: u32,
    pub routing: Routing,
}

/// How experts are chosen and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// The routed experts with the highest linear score (weights and a bias) take part; outputs are summed with
    /// weight 1, so that all experts together are the dense layer.
    TopScoresUnitWeight,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    pub kind: TokenizerKind,
    /// Text of each token id, in the kind's own alphabet.
    pub vocab: StringTable,
    /// `left right`, best first.
    pub merges: StringTable,
    /// GGUF's type of each token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<u8>,
    pub bos: u32,
    pub eos: u32,
    pub unknown: u32,
    pub padding: u32,
    pub add_bos: bool,
    pub add_space_prefix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// Byte-level BPE after GPT-2 with each digit split off: GGUF's model `gpt2`, pre-tokenizer `smollm`.
    Gpt2Smollm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// `<|im_start|>role\ntext<|im_end|>\n`.
    Chatml,
}

const LAYER_PARTS: [LayerPart; 5] = [
    LayerPart::AttnNorm,
    LayerPart::AttnQkv,
    LayerPart::AttnOutput,
    LayerPart::FfnNorm,
    LayerPart::Router,
];

impl ArchitectureBody {
    /// Every tensor of a model of this architecture, in the order of [`TensorName`].
    pub fn tensor_names(&self) -> impl Iterator<Item = TensorName> {
        let experts = self.experts.per_layer;
        let layers = (0..self.layers).flat_map(move |layer| {
            let parts = LAYER_PARTS
                .into_iter()
                .chain((0..experts).map(LayerPart::Expert));
            parts.map(move |part| TensorName::layer_part(layer, part))
        });
        std::iter::once(TensorName::Embedding)
            .chain(layers)
            .chain(std::iter::once(TensorName::OutputNorm))
    }

    /// Rows and columns of a tensor: expert [3F, H], router [routed, H + 1] with the bias last, norms [1, H], query,
    /// key and value rows [(heads + 2 KV heads) x head dim, H], attention output [H, H], embedding [vocab, H]. None
    /// if the architecture has no such tensor.
    #[must_use]
    pub fn tensor_shape(&self, name: &TensorName) -> Option<(u64, u64)> {
        let hidden = u64::from(self.hidden);
        let TensorName::Layer { layer, part } = *name else {
            return Some((
                if *name == TensorName::Embedding {
                    self.vocab.into()
                } else {
                    1
                },
                hidden,
            ));
        };
        if layer >= self.layers {
            return None;
        }
        match part {
            LayerPart::AttnNorm | LayerPart::FfnNorm => Some((1, hidden)),
            LayerPart::AttnOutput => Some((hidden, hidden)),
            LayerPart::AttnQkv => Some((u64::from(self.qkv_rows()), hidden)),
            LayerPart::Router => Some((self.experts.routed().into(), hidden + 1)),
            LayerPart::Expert(expert) => (expert < self.experts.per_layer)
                .then(|| (3 * u64::from(self.experts.neurons), hidden)),
        }
    }

    /// Rows of `attn_qkv`: queries, then keys, then values.
    #[must_use]
    pub const fn qkv_rows(&self) -> u32 {
        self.heads
            .saturating_add(self.kv_heads.saturating_mul(2))
            .saturating_mul(self.head_dim)
    }

    fn validate_shapes(&self) -> Result<(), BodyError> {
        require(
            (1..=LAYERS_MAX).contains(&self.layers),
            "layers",
            "must be 1 to 1024",
        )?;
        require(
            (1..=WIDTH_MAX).contains(&self.hidden),
            "hidden",
            "must be 1 to 65536",
        )?;
        require(
            self.hidden.is_multiple_of(32),
            "hidden",
            "must be a multiple of 32",
        )?;
        require(
            (1..=WIDTH_MAX).contains(&self.ffn),
            "ffn",
            "must be 1 to 65536",
        )?;
        require(
            (1..=VOCAB_MAX).contains(&self.vocab),
            "vocab",
            "must be 1 to 1048576",
        )?;
        require(
            (1..=CONTEXT_MAX).contains(&self.context),
            "context",
            "must be 1 to 1048576",
        )?;
        require(
            self.head_dim.is_multiple_of(2) && self.head_dim > 0,
            "head_dim",
            "must be even",
        )?;
        let width = u64::from(self.heads) * u64::from(self.head_dim);
        require(
            width == u64::from(self.hidden),
            "heads",
            "times head_dim must be hidden",
        )?;
        let divides = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        require(divides, "kv_heads", "must divide heads")
    }

    fn validate_numbers(&self) -> Result<(), BodyError> {
        let epsilon = self.rms_epsilon.to_f32();
        require(
            epsilon > 0.0 && epsilon < 1.0,
            "rms_epsilon",
            "must lie between 0 and 1",
        )?;
        let base = self.rope.base.to_f32();
        require(
            base > 1.0 && base.is_finite(),
            "rope.base",
            "must be above 1",
        )
    }

    fn validate_texts(&self) -> Result<(), BodyError> {
        require(
            (1..=TEXT_LEN_MAX).contains(&self.name.len()),
            "name",
            "must have 1 to 4096 bytes",
        )?;
        require(
            (1..=TEXT_LEN_MAX).contains(&self.license.len()),
            "license",
            "must have 1 to 4096 bytes",
        )?;
        let prompt_fits = self
            .system_prompt
            .as_ref()
            .is_none_or(|text| (1..=TEXT_LEN_MAX).contains(&text.len()));
        require(prompt_fits, "system_prompt", "must have 1 to 4096 bytes")
    }
}

impl ExpertShape {
    /// Number of routed experts a layer.
    #[must_use]
    pub const fn routed(&self) -> u16 {
        self.per_layer.saturating_sub(self.always_on)
    }

    fn validate(&self, ffn: u32) -> Result<(), BodyError> {
        require(
            self.per_layer > 0,
            "experts.per_layer",
            "must be at least 1",
        )?;
        require(
            self.always_on < self.per_layer,
            "experts.always_on",
            "must leave at least one routed expert",
        )?;
        let neurons = u64::from(self.per_layer) * u64::from(self.neurons);
        require(
            neurons == u64::from(ffn),
            "experts.neurons",
            "times per_layer must be ffn",
        )
    }
}

impl Tokenizer {
    fn validate(&self, vocab: u32) -> Result<(), BodyError> {
        require(
            self.vocab.len() == vocab as usize,
            "tokenizer.vocab",
            "must have a text for each token",
        )?;
        require(
            self.token_types.len() == vocab as usize,
            "tokenizer.token_types",
            "must have a type for each token",
        )?;
        let known = self
            .token_types
            .iter()
            .all(|t| (1..=TOKEN_TYPE_MAX).contains(t));
        require(known, "tokenizer.token_types", "must be 1 to 6")?;
        require(
            self.merges.len() <= MERGES_MAX,
            "tokenizer.merges",
            "must be at most 1048576",
        )?;
        let pairs = self
            .merges
            .iter()
            .all(|merge| merge.split(' ').filter(|side| !side.is_empty()).count() == 2);
        require(
            pairs,
            "tokenizer.merges",
            "must be two texts with a space between",
        )?;
        let ids = [self.bos, self.eos, self.unknown, self.padding];
        require(
            ids.iter().all(|id| *id < vocab),
            "tokenizer",
            "special tokens must be in the vocabulary",
        )
    }
}

impl Payload for ArchitectureBody {
    const LEN_MAX: usize = 16 << 20;

    fn validate(&self) -> Result<(), BodyError> {
        self.validate_texts()?;
        self.validate_shapes()?;
        self.validate_numbers()?;
        self.experts.validate(self.ffn)?;
        self.tokenizer.validate(self.vocab)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn table(texts: impl IntoIterator<Item = String>) -> StringTable {
        let mut table = StringTable::default();
        assert!(texts.into_iter().all(|text| table.push(&text)));
        table
    }

    pub(in crate::bodies) fn sample() -> ArchitectureBody {
        ArchitectureBody {
            family: Family::Llama,
            name: "test".into(),
            license: "Apache-2.0".into(),
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 96,
            vocab: 5,
            context: 128,
            rms_epsilon: "0.00001".parse().unwrap(),
            rope: Rope {
                base: "100000".parse().unwrap(),
                style: RopeStyle::Interleaved,
            },
            experts: ExpertShape {
                per_layer: 4,
                always_on: 1,
                neurons: 24,
                routing: Routing::TopScoresUnitWeight,
            },
            tokenizer: Tokenizer {
                kind: TokenizerKind::Gpt2Smollm,
                vocab: table((0..5).map(|i| format!("Ġ{i}"))),
                merges: table(["a b".into(), "Ġ t".into()]),
                token_types: vec![3, 1, 1, 1, 1],
                bos: 1,
                eos: 2,
                unknown: 0,
                padding: 2,
                add_bos: false,
                add_space_prefix: false,
            },
            chat_template: ChatTemplate::Chatml,
            system_prompt: None,
        }
    }

    #[test]
    fn an_architecture_round_trips() {
        for system_prompt in [None, Some("You are a test.".to_owned())] {
            let body = ArchitectureBody {
                system_prompt,
                ..sample()
            };
            let payload = body.to_payload().unwrap();
            assert_eq!(ArchitectureBody::from_payload(&payload).as_ref(), Ok(&body));
            assert_eq!(body.to_payload().unwrap(), payload);
        }
    }

    #[test]
    fn every_name_has_a_shape_and_no_other_has() {
        let body = sample();
        let names: Vec<_> = body.tensor_names().collect();
        assert_eq!(names.len(), 2 + 2 * (5 + 4));
        assert!(names.is_sorted_by(|a, b| a < b));
        assert!(names.iter().all(|name| body.tensor_shape(name).is_some()));
        let shape = |name: &str| body.tensor_shape(&name.parse().unwrap());
        assert_eq!(shape("embedding"), Some((5, 64)));
        assert_eq!(shape("output_norm"), Some((1, 64)));
        assert_eq!(shape("layer1.attn_qkv"), Some((64 + 32 + 32, 64)));
        assert_eq!(shape("layer1.attn_output"), Some((64, 64)));
        assert_eq!(shape("layer0.router"), Some((3, 65)));
        assert_eq!(shape("layer0.expert3"), Some((72, 64)));
        assert_eq!(shape("layer0.expert4"), None);
        assert_eq!(shape("layer2.router"), None);
    }

    #[test]
    fn broken_rules_are_named() {
        type Change = fn(&mut ArchitectureBody);
        let cases: [(Change, &str); 20] = [
            (|a| a.name.clear(), "name"),
            (|a| a.license.clear(), "license"),
            (
                |a| a.system_prompt = Some("x".repeat(4097)),
                "system_prompt",
            ),
            (|a| a.layers = 0, "layers"),
            (|a| a.hidden = 65, "hidden"),
            (|a| a.ffn = 0, "ffn"),
            (|a| a.vocab = 0, "vocab"),
            (|a| a.context = u32::MAX, "context"),
            (|a| a.head_dim = 0, "head_dim"),
            (|a| a.heads = u32::MAX, "heads"),
            (|a| a.kv_heads = 3, "kv_heads"),
            (|a| a.kv_heads = 0, "kv_heads"),
            (|a| a.rms_epsilon = "0".parse().unwrap(), "rms_epsilon"),
            (|a| a.rope.base = "-1".parse().unwrap(), "rope.base"),
            (|a| a.experts.per_layer = 0, "experts.per_layer"),
            (|a| a.experts.always_on = 4, "experts.always_on"),
            (|a| a.experts.neurons = 25, "experts.neurons"),
            (|a| a.tokenizer.token_types[0] = 7, "tokenizer.token_types"),
            (
                |a| a.tokenizer.merges = table(["ab".into()]),
                "tokenizer.merges",
            ),
            (|a| a.tokenizer.eos = 5, "tokenizer"),
        ];
        for (change, named) in cases {
            let mut body = sample();
            change(&mut body);
            let found = body.validate();
            assert!(
                matches!(found, Err(BodyError::Field { field, .. }) if field == named),
                "{named}: {found:?}"
            );
        }
    }
}
