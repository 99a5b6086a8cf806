//! Every tensor of the chain's model, made from a model file and a recipe. Pure: the same input gives the same bits.

use blyan_formats::tensorblock::TensorBuf;
use blyan_formats::{LayerPart, TensorName};

use crate::ModelError;
use crate::recipe::{LayerSplit, Recipe};
use crate::source::{FfnWeights, SourceModel};

/// A part of the work of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    Embedding,
    Layer(u16),
    OutputNorm,
}

impl Portion {
    /// All portions of a model, the largest first.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if there are more layers than names for them.
    pub(super) fn all(layers: usize) -> Result<Vec<Self>, ModelError> {
        let layers = u16::try_from(layers)
            .map_err(|_| ModelError::Unsupported(format!("it has {layers} layers")))?;
        let layers = (0..layers).map(Self::Layer);
        Ok(std::iter::once(Self::Embedding)
            .chain(layers)
            .chain(std::iter::once(Self::OutputNorm))
            .collect())
    }

    /// Makes the tensors of a portion, one after the other, and hands each over.
    ///
    /// # Errors
    /// What the model file lacks, and whatever `take` returns.
    pub(super) fn make(
        self,
        source: &SourceModel<'_>,
        recipe: &Recipe,
        take: &mut dyn FnMut(TensorName, TensorBuf) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let (vocab, hidden) = (source.shape().vocab, source.shape().hidden);
        match self {
            Self::Embedding => take(
                TensorName::Embedding,
                source.carry_over("token_embd.weight", vocab, hidden)?,
            ),
            Self::OutputNorm => take(
                TensorName::OutputNorm,
                source.carry_over("output_norm.weight", 1, hidden)?,
            ),
            Self::Layer(number) => {
                let layer = Layer {
                    source,
                    number,
                    split: &recipe.layers[usize::from(number)],
                };
                layer.make(take)
            }
        }
    }
}

struct Layer<'a> {
    source: &'a SourceModel<'a>,
    number: u16,
    split: &'a LayerSplit,
}

impl Layer<'_> {
    fn make(
        &self,
        take: &mut dyn FnMut(TensorName, TensorBuf) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let hidden = self.source.shape().hidden;
        let mut put = |part, tensor| take(TensorName::layer_part(self.number, part), tensor);
        put(
            LayerPart::AttnNorm,
            self.carry_over("attn_norm", 1, hidden)?,
        )?;
        put(LayerPart::AttnQkv, self.attn_qkv()?)?;
        put(
            LayerPart::AttnOutput,
            self.carry_over("attn_output", hidden, hidden)?,
        )?;
        put(LayerPart::FfnNorm, self.carry_over("ffn_norm", 1, hidden)?)?;
        put(LayerPart::Router, self.router(hidden)?)?;
        let weights = self.source.ffn(usize::from(self.number))?;
        for (expert, neurons) in (0..).zip(&self.split.experts) {
            let part = LayerPart::Expert(expert);
            put(
                part,
                quantise_expert(&weights, neurons).map_err(|why| self.tensor_error(part, why))?,
            )?;
        }
        Ok(())
    }

    fn carry_over(&self, part: &str, rows: usize, cols: usize) -> Result<TensorBuf, ModelError> {
        self.source
            .carry_over(&format!("blk.{}.{part}.weight", self.number), rows, cols)
    }

    /// Rows of the queries, keys and values in one tensor; rows keep the file's order, which suits the rotary
    /// embedding of neighbours.
    fn attn_qkv(&self) -> Result<TensorBuf, ModelError> {
        let shape = self.source.shape();
        let kv_rows = shape.kv_heads * shape.head_dim();
        let mut qkv = self.carry_over("attn_q", shape.hidden, shape.hidden)?;
        for part in ["attn_k", "attn_v"] {
            let rows = self.carry_over(part, kv_rows, shape.hidden)?;
            qkv.append_rows(rows)
                .map_err(|why| self.tensor_error(LayerPart::AttnQkv, why))?;
        }
        Ok(qkv)
    }

    fn router(&self, hidden: usize) -> Result<TensorBuf, ModelError> {
        let weights = &self.split.router.0;
        let tensor = TensorBuf::fp32(weights.len() / (hidden + 1), hidden + 1, weights.clone());
        tensor.map_err(|why| self.tensor_error(LayerPart::Router, why))
    }

    fn tensor_error(
        &self,
        part: LayerPart,
        why: blyan_formats::tensorblock::TensorError,
    ) -> ModelError {
        ModelError::Tensor {
            name: TensorName::layer_part(self.number, part).to_string(),
            why,
        }
    }
}

/// `[3F, H]`: the neurons' rows of gate, of up, of down transposed, int8 in blocks of 32. A few outputs get far more from
/// `down` than the others, so one scale for a whole row of it would round the others away.
fn quantise_expert(
    weights: &FfnWeights,
    neurons: &[u16],
) -> Result<TensorBuf, blyan_formats::tensorblock::TensorError> {
    let hidden = weights.gate.ncols();
    let mut rows = Vec::with_capacity(3 * neurons.len() * hidden);
    for matrix in [&weights.gate, &weights.up, &weights.down] {
        for neuron in neurons {
            rows.extend(matrix.row(usize::from(*neuron)));
        }
    }
    TensorBuf::quantise_int8_blocks(3 * neurons.len(), hidden, &rows)
}
