use blyan_formats::bodies::{ArchitectureBody, RopeStyle};
use blyan_formats::{LayerPart, TensorName};

use crate::kv::KvShape;

/// The numbers of an architecture that the step graph is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// Transformer layers.
    pub layers: usize,
    /// H, width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding, which is also the head.
    pub vocab: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub rms_epsilon: f32,
    /// Base of the rotary embedding's angles.
    pub rope_base: f32,
    /// Whether elements 2i and 2i+1 of a head turn together, instead of i and i + half.
    pub rope_interleaved: bool,
    /// Experts per layer.
    pub experts: usize,
    /// Experts `0..always_on` compute every token.
    pub always_on: usize,
    /// F, neurons of one expert.
    pub neurons: usize,
}

impl ModelShape {
    /// Experts per layer among which the router chooses.
    #[must_use]
    pub fn routed(&self) -> usize {
        self.experts - self.always_on
    }

    /// Columns of the packed query, key and value projection.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// What a token occupies in key/value memory.
    #[must_use]
    pub fn kv(&self) -> KvShape {
        KvShape {
            layers: self.layers,
            heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }

    /// Every weight that the graph itself reads (all but the experts), with its rows and columns as stored.
    pub fn shared_weights(&self) -> impl Iterator<Item = (TensorName, [usize; 2])> + use<> {
        let shape = *self;
        let layers = (0..shape.layers).flat_map(move |layer| shape.layer_weights(layer));
        [
            (TensorName::Embedding, [shape.vocab, shape.hidden]),
            (TensorName::OutputNorm, [1, shape.hidden]),
        ]
        .into_iter()
        .chain(layers)
    }

    /// Those of [`Self::shared_weights`] that something is multiplied with.
    pub fn matrices(&self) -> impl Iterator<Item = (TensorName, [usize; 2])> + use<> {
        self.shared_weights().filter(|(_, [rows, _])| *rows > 1)
    }

    fn layer_weights(&self, layer: usize) -> [(TensorName, [usize; 2]); 5] {
        let named = |part| TensorName::layer_part(layer as u16, part);
        [
            (named(LayerPart::AttnNorm), [1, self.hidden]),
            (named(LayerPart::AttnQkv), [self.qkv_width(), self.hidden]),
            (
                named(LayerPart::AttnOutput),
                [self.hidden, self.heads * self.head_dim],
            ),
            (named(LayerPart::FfnNorm), [1, self.hidden]),
            (named(LayerPart::Router), [self.routed(), self.hidden + 1]),
        ]
    }
}

impl From<&ArchitectureBody> for ModelShape {
    fn from(body: &ArchitectureBody) -> Self {
        Self {
            layers: body.layers.into(),
            hidden: body.hidden as usize,
            heads: body.heads as usize,
            kv_heads: body.kv_heads as usize,
            head_dim: body.head_dim as usize,
            vocab: body.vocab as usize,
            context: body.context as usize,
            rms_epsilon: body.rms_epsilon.to_f32(),
            rope_base: body.rope.base.to_f32(),
            rope_interleaved: body.rope.style == RopeStyle::Interleaved,
            experts: body.experts.per_layer.into(),
            always_on: body.experts.always_on.into(),
            neurons: body.experts.neurons as usize,
        }
    }
}
