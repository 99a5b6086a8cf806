//! The names that model files give to the three matrices of an expert.

use super::Wanted;

/// How a tensor holds an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Each of the three is one expert's: gate and up `[F, H]`, down `[H, F]`.
    Alone,
    /// All experts of a layer stand below each other: gate and up `[E x F, H]`, down `[E x H, F]`.
    Stacked,
    /// A dense layer: gate and up `[ffn, H]`, down `[H, ffn]`; a recipe says which neurons are the expert's.
    Layer,
}

/// Gate, up and down; `{l}` stands for the layer, `{e}` for the expert.
pub(super) struct Style {
    names: [&'static str; 3],
    packing: Packing,
}

impl Style {
    const fn new(packing: Packing, names: [&'static str; 3]) -> Self {
        Self { names, packing }
    }

    pub(super) const fn packing(&self) -> Packing {
        self.packing
    }

    /// The names of gate, up and down.
    pub(super) fn names(&self, wanted: &Wanted) -> [String; 3] {
        let (layer, expert) = (wanted.layer.to_string(), wanted.expert.to_string());
        self.names
            .map(|name| name.replace("{l}", &layer).replace("{e}", &expert))
    }
}

/// As llama.cpp writes them.
pub(super) static GGUF: [Style; 2] = [
    Style::new(
        Packing::Stacked,
        [
            "blk.{l}.ffn_gate_exps.weight",
            "blk.{l}.ffn_up_exps.weight",
            "blk.{l}.ffn_down_exps.weight",
        ],
    ),
    Style::new(
        Packing::Layer,
        [
            "blk.{l}.ffn_gate.weight",
            "blk.{l}.ffn_up.weight",
            "blk.{l}.ffn_down.weight",
        ],
    ),
];

/// One expert alone, then as transformers and Mistral write them: Mixtral, Qwen-MoE and its kin, Mistral's own files,
/// gated Switch Transformers, and a dense Llama.
pub(super) static SAFETENSORS: [Style; 7] = [
    Style::new(Packing::Alone, ["gate", "up", "down"]),
    Style::new(
        Packing::Alone,
        [
            "layer{l}.expert{e}.gate",
            "layer{l}.expert{e}.up",
            "layer{l}.expert{e}.down",
        ],
    ),
    Style::new(
        Packing::Alone,
        [
            "model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight",
            "model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight",
            "model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight",
        ],
    ),
    Style::new(
        Packing::Alone,
        [
            "model.layers.{l}.mlp.experts.{e}.gate_proj.weight",
            "model.layers.{l}.mlp.experts.{e}.up_proj.weight",
            "model.layers.{l}.mlp.experts.{e}.down_proj.weight",
        ],
    ),
    Style::new(
        Packing::Alone,
        [
            "layers.{l}.feed_forward.experts.{e}.w1.weight",
            "layers.{l}.feed_forward.experts.{e}.w3.weight",
            "layers.{l}.feed_forward.experts.{e}.w2.weight",
        ],
    ),
    Style::new(
        Packing::Alone,
        [
            "decoder.block.{l}.layer.2.mlp.experts.expert_{e}.wi_0.weight",
            "decoder.block.{l}.layer.2.mlp.experts.expert_{e}.wi_1.weight",
            "decoder.block.{l}.layer.2.mlp.experts.expert_{e}.wo.weight",
        ],
    ),
    Style::new(
        Packing::Layer,
        [
            "model.layers.{l}.mlp.gate_proj.weight",
            "model.layers.{l}.mlp.up_proj.weight",
            "model.layers.{l}.mlp.down_proj.weight",
        ],
    ),
];
