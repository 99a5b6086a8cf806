//! The weights of a GGUF file, widened to fp32, with each layer's neurons cut into experts in the file's order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use blyan_formats::gguf::Gguf;
use blyan_formats::{BlockHash, LayerPart, PayloadHash, Tensor, TensorBuf, TensorName};
use blyan_inference::engine::WeightSource;
use blyan_inference::graph::ModelShape;
use blyan_protocol::{ExpertTable, Lease, LeaseError, LeasedExpert, ModelEntry, WeightForm};

const EXPERTS: usize = 16;
const ALWAYS_ON: usize = 4;

/// Everything the graph and the experts read.
pub struct DenseModel {
    pub shape: ModelShape,
    weights: BTreeMap<TensorName, TensorBuf>,
    experts: HashMap<PayloadHash, Arc<Rows>>,
    pub entries: BTreeMap<TensorName, ModelEntry>,
}

struct Rows(TensorBuf);

impl DenseModel {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let gguf = Gguf::parse(&bytes)?;
        let shape = shape(&gguf)?;
        let (weights, entries, experts) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        let mut model = Self {
            shape,
            weights,
            experts,
            entries,
        };
        model.add(TensorName::Embedding, tensor(&gguf, "token_embd.weight")?)?;
        model.add(TensorName::OutputNorm, tensor(&gguf, "output_norm.weight")?)?;
        for layer in 0..shape.layers {
            model.read_layer(&gguf, layer)?;
        }
        Ok(model)
    }

    fn read_layer(&mut self, gguf: &Gguf<'_>, layer: usize) -> Result<()> {
        let read = |part: &str| tensor(gguf, &format!("blk.{layer}.{part}.weight"));
        let name = |part| TensorName::layer_part(layer as u16, part);
        let qkv = [read("attn_q")?, read("attn_k")?, read("attn_v")?].concat();
        // Every expert computes every token here, so the router's scores do not matter.
        let router = vec![0.0; (EXPERTS - ALWAYS_ON) * (self.shape.hidden + 1)];
        self.add(name(LayerPart::AttnNorm), read("attn_norm")?)?;
        self.add(name(LayerPart::AttnQkv), qkv)?;
        self.add(name(LayerPart::AttnOutput), read("attn_output")?)?;
        self.add(name(LayerPart::FfnNorm), read("ffn_norm")?)?;
        self.add(name(LayerPart::Router), router)?;
        let (gate, up, down) = (
            read("ffn_gate")?,
            read("ffn_up")?,
            transposed(&read("ffn_down")?, self.shape.hidden),
        );
        for expert in 0..EXPERTS {
            let len = self.shape.neurons * self.shape.hidden;
            let part = |matrix: &[f32]| matrix[expert * len..][..len].to_vec();
            self.add_expert(
                layer,
                expert,
                [part(&gate), part(&up), part(&down)].concat(),
            )?;
        }
        Ok(())
    }

    fn add(&mut self, name: TensorName, values: Vec<f32>) -> Result<()> {
        let mut shapes = self.shape.shared_weights();
        let (_, [rows, cols]) = shapes
            .find(|(shared, _)| *shared == name)
            .context("no such weight")?;
        self.weights
            .insert(name, TensorBuf::fp32(rows, cols, values)?);
        Ok(())
    }

    fn add_expert(&mut self, layer: usize, expert: usize, rows: Vec<f32>) -> Result<()> {
        let name = TensorName::expert_of(layer as u16, expert as u16);
        let payload = PayloadHash::of_bytes(name.to_string().as_bytes());
        let block = BlockHash::from_bytes(*payload.as_bytes());
        self.entries.insert(
            name,
            ModelEntry {
                block,
                payload,
                payload_len: size_of_val(rows.as_slice()) as u64,
            },
        );
        let rows = TensorBuf::fp32(3 * self.shape.neurons, self.shape.hidden, rows)?;
        self.experts.insert(payload, Arc::new(Rows(rows)));
        Ok(())
    }
}

impl WeightSource for DenseModel {
    fn weight(&self, name: &TensorName) -> Option<Tensor<'_>> {
        self.weights.get(name).map(TensorBuf::as_tensor)
    }
}

impl LeasedExpert for Rows {
    fn weights(&self) -> Tensor<'_> {
        self.0.as_tensor()
    }

    fn intact(&self) -> bool {
        true
    }
}

impl ExpertTable for DenseModel {
    fn lease(
        &self,
        name: &TensorName,
        payload: &PayloadHash,
        _form: WeightForm,
        _deadline: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        match self.experts.get(payload) {
            Some(rows) => Ok((Arc::clone(rows) as Lease, false)),
            None => Err(LeaseError::Unavailable {
                name: *name,
                why: "not in the file".to_owned(),
            }),
        }
    }

    fn corruption(&self, _payload: &PayloadHash) -> Option<String> {
        None
    }

    fn corruption_epoch(&self) -> u64 {
        0
    }

    fn report_damage(&self, _name: &TensorName, _payload: &PayloadHash, _fault: &str) {}
}

fn shape(gguf: &Gguf<'_>) -> Result<ModelShape> {
    let number = |key| gguf.u32(key).map(|number| number as usize);
    let heads = number("llama.attention.head_count")?;
    let hidden = number("llama.embedding_length")?;
    Ok(ModelShape {
        layers: number("llama.block_count")?,
        hidden,
        heads,
        kv_heads: number("llama.attention.head_count_kv")?,
        head_dim: hidden / heads,
        vocab: gguf.tensor("token_embd.weight")?.rows(),
        context: number("llama.context_length")?,
        rms_epsilon: gguf.f32("llama.attention.layer_norm_rms_epsilon")?,
        rope_base: gguf.f32("llama.rope.freq_base")?,
        rope_interleaved: true,
        experts: EXPERTS,
        always_on: ALWAYS_ON,
        neurons: number("llama.feed_forward_length")? / EXPERTS,
    })
}

fn tensor(gguf: &Gguf<'_>, name: &str) -> Result<Vec<f32>> {
    let tensor = gguf.tensor(name)?;
    let mut values = vec![0.0; tensor.rows() * tensor.cols()];
    tensor.dequantise_into(&mut values)?;
    Ok(values)
}

fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column]))
        .collect()
}
