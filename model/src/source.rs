//! A GGUF file of the llama family, read as what an import needs of it.

use blyan_formats::bodies::Decimal;
use blyan_formats::gguf::{Gguf, GgufTensor};
use blyan_formats::tensorblock::TensorBuf;
use ndarray::Array2;

use crate::ModelError;

/// Longest model file in bytes.
pub const SOURCE_LEN_MAX: u64 = 16 << 30;

/// A parsed model file.
pub struct SourceModel<'a> {
    gguf: Gguf<'a>,
    shape: SourceShape,
}

/// The shapes in a model file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceShape {
    /// Number of layers.
    pub layers: usize,
    /// H, the width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Neurons of a layer's feed-forward part.
    pub ffn: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub rms_epsilon: f32,
    /// Base of the rotary embedding.
    pub rope_base: f32,
}

/// One layer's feed-forward weights in fp32; row i of all three belongs to neuron i.
#[derive(Clone, Debug, PartialEq)]
pub struct FfnWeights {
    /// `[F, H]`
    pub gate: Array2<f32>,
    /// `[F, H]`
    pub up: Array2<f32>,
    /// `[F, H]`: the file's `[H, F]` transposed.
    pub down: Array2<f32>,
}

impl<'a> SourceModel<'a> {
    /// Parses a whole file.
    ///
    /// # Errors
    /// [`ModelError::Gguf`]; [`ModelError::Unsupported`] if it is of another family.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let gguf = Gguf::parse(bytes)?;
        let family = gguf.text("general.architecture")?;
        if family != "llama" {
            return Err(ModelError::Unsupported(format!(
                "its family is {family:?}, only \"llama\" is known"
            )));
        }
        if gguf.tensor("output.weight").is_ok() {
            return Err(ModelError::Unsupported(
                "its output head is not tied to the embedding".into(),
            ));
        }
        if gguf.tensor("rope_freqs.weight").is_ok() || gguf.get("llama.rope.scaling.type").is_some()
        {
            return Err(ModelError::Unsupported(
                "it scales its rotary embedding".into(),
            ));
        }
        let shape = SourceShape::read(&gguf)?;
        Ok(Self { gguf, shape })
    }

    /// The metadata and tensors.
    pub fn gguf(&self) -> &Gguf<'a> {
        &self.gguf
    }

    /// The shapes.
    pub fn shape(&self) -> &SourceShape {
        &self.shape
    }

    /// A tensor of rows x columns as GGUF names it.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] if there is none, [`ModelError::Unsupported`] if it has another shape.
    pub fn tensor(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<&GgufTensor<'a>, ModelError> {
        let tensor = self.gguf.tensor(name)?;
        if (tensor.rows(), tensor.cols()) == (rows, cols) {
            return Ok(tensor);
        }
        let (found_rows, found_cols) = (tensor.rows(), tensor.cols());
        Err(ModelError::Unsupported(format!(
            "tensor {name} is {found_rows} x {found_cols} instead of {rows} x {cols}"
        )))
    }

    /// A tensor in the chain's form, every value the same to the bit.
    ///
    /// # Errors
    /// As [`SourceModel::tensor`]; [`ModelError::Tensor`].
    pub fn carry_over(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<TensorBuf, ModelError> {
        let carried = self.tensor(name, rows, cols)?.carry_over();
        carried.map_err(|why| ModelError::Tensor {
            name: name.into(),
            why,
        })
    }

    /// A tensor's values, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`SourceModel::tensor`].
    pub fn dequantise(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Array2<f32>, ModelError> {
        let mut values = Array2::zeros((rows, cols));
        if let Some(out) = values.as_slice_mut() {
            let done = self.tensor(name, rows, cols)?.dequantise_into(out);
            done.map_err(|why| ModelError::Tensor {
                name: name.into(),
                why,
            })?;
        }
        Ok(values)
    }

    /// A layer's feed-forward weights.
    ///
    /// # Errors
    /// As [`SourceModel::tensor`].
    pub fn ffn(&self, layer: usize) -> Result<FfnWeights, ModelError> {
        let (hidden, ffn) = (self.shape.hidden, self.shape.ffn);
        let down = self.dequantise(&format!("blk.{layer}.ffn_down.weight"), hidden, ffn)?;
        Ok(FfnWeights {
            gate: self.dequantise(&format!("blk.{layer}.ffn_gate.weight"), ffn, hidden)?,
            up: self.dequantise(&format!("blk.{layer}.ffn_up.weight"), ffn, hidden)?,
            down: down.t().as_standard_layout().into_owned(),
        })
    }
}

impl SourceShape {
    fn read(gguf: &Gguf<'_>) -> Result<Self, ModelError> {
        let number = |key| gguf.u32(key).map(|number| number as usize);
        let shape = Self {
            layers: number("llama.block_count")?,
            hidden: number("llama.embedding_length")?,
            heads: number("llama.attention.head_count")?,
            kv_heads: number("llama.attention.head_count_kv")?,
            ffn: number("llama.feed_forward_length")?,
            vocab: gguf.array("tokenizer.ggml.tokens")?.len(),
            context: number("llama.context_length")?,
            rms_epsilon: gguf.f32("llama.attention.layer_norm_rms_epsilon")?,
            rope_base: gguf.f32("llama.rope.freq_base")?,
        };
        shape.check_tensors(gguf)?;
        Ok(shape)
    }

    /// Refuses shapes that no tensor of the file has, before anything is allocated by them.
    fn check_tensors(&self, gguf: &Gguf<'_>) -> Result<(), ModelError> {
        let embedding = gguf.tensor("token_embd.weight")?;
        let gate = gguf.tensor("blk.0.ffn_gate.weight")?;
        let fits = (embedding.rows(), embedding.cols()) == (self.vocab, self.hidden)
            && (gate.rows(), gate.cols()) == (self.ffn, self.hidden)
            && self.layers <= gguf.tensors().len()
            && self.heads > 0
            && self.hidden.is_multiple_of(self.heads)
            && self.kv_heads <= self.heads;
        if fits {
            Ok(())
        } else {
            Err(ModelError::Unsupported(
                "its metadata does not fit its tensors".into(),
            ))
        }
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// A float of the metadata as the architecture block writes it.
    pub(crate) fn decimal(value: f32) -> Result<Decimal, ModelError> {
        Ok(Decimal::from_f32(value)?)
    }
}
