use blyan_formats::{LayerPart, TensorName};
use blyan_protocol::WeightForm;

use super::builder::{BLYAN, Dim, GraphBuilder, MICROSOFT, float, int};
use super::onnx::{Attribute, Element};
use super::{ATTENTION, EMBED, EXPERT_FFN, MATRIX, ModelShape, PRODUCT};

/// A model file in memory. The inputs stand in this order:
///
/// 1. `tokens` `[1, T]`, `logit_positions` `[R]`, `run_id` `[1]` (int64);
/// 2. `row_lengths` `[B]` (int64) with two rows or more; per row `last_index` `[1]` (position of the row's last token) and
///    `total_length` (int32);
/// 3. `cos`, `sin` `[context, head_dim / 2]`;
/// 4. the weights of [`ModelShape::shared_weights`], each router as its matrix and then its bias;
/// 5. per row and layer: key and value memory `[1, kv_heads, slot, head_dim]`.
///
/// The outputs: `logits` `[1, R, V]`, then per row and layer key and value memory again.
///
/// With stored weights there is only 1., norms and biases of 4., and the logits: operators of ours know the rest by the
/// run, and one graph serves any number of rows.
pub struct StepGraph {
    /// ONNX protocol buffer.
    pub model: Vec<u8>,
    /// Names of the inputs.
    pub inputs: Vec<String>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
}

/// Writes the graph of a step over `rows` sequences of at most `context` tokens each. With fp32 weights matrices are
/// multiplied by ONNX Runtime, with stored ones by our operators.
#[must_use]
pub fn step_graph(shape: &ModelShape, rows: usize, context: usize, form: WeightForm) -> StepGraph {
    let mut writer = Writer {
        shape,
        rows,
        form,
        graph: GraphBuilder::new("step"),
    };
    writer.declare_step();
    if form == WeightForm::Fp32 {
        writer.declare_rows();
        writer.declare_rope(context);
    }
    writer.declare_weights();
    if form == WeightForm::Fp32 {
        writer.declare_memory();
    }
    writer.embed();
    for layer in 0..shape.layers {
        writer.attention(layer);
        writer.experts(layer);
    }
    writer.head();
    let (model, inputs, outputs) = writer.graph.finish();
    StepGraph {
        model,
        inputs,
        outputs,
    }
}

struct Writer<'a> {
    shape: &'a ModelShape,
    rows: usize,
    form: WeightForm,
    graph: GraphBuilder,
}

/// A value of one layer.
fn of(layer: usize, value: &str) -> String {
    format!("layer{layer}.{value}")
}

fn weight(layer: usize, part: LayerPart) -> TensorName {
    TensorName::layer_part(layer as u16, part)
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

impl Writer<'_> {
    fn declare_step(&mut self) {
        let graph = &mut self.graph;
        graph.input("tokens", Element::Int64, &[Dim::Is(1), Dim::Any("T")]);
        graph.input("logit_positions", Element::Int64, &[Dim::Any("R")]);
        graph.input("run_id", Element::Int64, &[Dim::Is(1)]);
        graph.output(
            "logits",
            Element::Float,
            &[Dim::Is(1), Dim::Any("R"), Dim::Is(self.shape.vocab)],
        );
    }

    fn declare_rows(&mut self) {
        let graph = &mut self.graph;
        if self.rows > 1 {
            graph.input("row_lengths", Element::Int64, &[Dim::Is(self.rows)]);
        }
        for row in 0..self.rows {
            graph.input(format!("last_index.{row}"), Element::Int32, &[Dim::Is(1)]);
            graph.input(format!("total_length.{row}"), Element::Int32, &[]);
        }
    }

    fn declare_rope(&mut self, context: usize) {
        let dims = [Dim::Is(context), Dim::Is(self.shape.head_dim / 2)];
        for name in ["cos", "sin"] {
            self.graph.input(name, Element::Float, &dims);
        }
    }

    fn declare_weights(&mut self) {
        for (name, [rows, columns]) in self.shape.shared_weights() {
            let name = name.to_string();
            if name.ends_with(".router") {
                self.declare_matrix(&name, rows, columns - 1);
                let bias = format!("{name}.bias");
                self.graph.input(bias, Element::Float, &[Dim::Is(rows)]);
            } else if rows == 1 {
                self.graph.input(name, Element::Float, &[Dim::Is(columns)]);
            } else {
                self.declare_matrix(&name, rows, columns);
            }
        }
    }

    fn declare_matrix(&mut self, name: &str, rows: usize, columns: usize) {
        if self.form == WeightForm::Fp32 {
            let dims = [Dim::Is(rows), Dim::Is(columns)];
            self.graph.input(name, Element::Float, &dims);
        }
    }

    fn declare_memory(&mut self) {
        for row in 0..self.rows {
            let slot = format!("slot{row}");
            let dims = [
                Dim::Is(1),
                Dim::Is(self.shape.kv_heads),
                Dim::Any(&slot),
                Dim::Is(self.shape.head_dim),
            ];
            for (layer, part) in
                (0..self.shape.layers).flat_map(|layer| [(layer, "key"), (layer, "value")])
            {
                self.graph.input(
                    of(layer, &format!("past_{part}.{row}")),
                    Element::Float,
                    &dims,
                );
                self.graph.output(
                    &of(layer, &format!("present_{part}.{row}")),
                    Element::Float,
                    &dims,
                );
            }
        }
    }

    fn embed(&mut self) {
        let table = TensorName::Embedding;
        match self.form {
            WeightForm::Fp32 => self.graph.node(
                ("", "Gather"),
                &[&table.to_string(), "tokens"],
                &["embedded"],
                &[int("axis", 0)],
            ),
            WeightForm::Stored => self.graph.node(
                (BLYAN, EMBED),
                &["tokens"],
                &["embedded"],
                &[self.matrix(table)],
            ),
        }
    }

    /// Says to an operator of ours which matrix it reads.
    fn matrix(&self, name: TensorName) -> Attribute {
        let index = self.shape.matrices().position(|(matrix, _)| matrix == name);
        int(MATRIX, index.map_or(-1, |index| index as i64))
    }

    /// The residual stream that layer `layer` reads: its value, and what the layer before adds to it.
    fn residual(&self, layer: usize) -> (String, Option<String>) {
        match layer.checked_sub(1) {
            None => ("embedded".to_owned(), None),
            Some(before) => (of(before, "attended"), Some(of(before, "ffn"))),
        }
    }

    fn attention(&mut self, layer: usize) {
        let (stream, addition) = self.residual(layer);
        let gain = weight(layer, LayerPart::AttnNorm).to_string();
        let normed = of(layer, "attn_in");
        let summed = of(layer, "stream");
        self.norm(&stream, addition.as_deref(), &gain, &normed, &summed);
        let qkv = of(layer, "qkv");
        self.product(&normed, weight(layer, LayerPart::AttnQkv), &qkv);
        let mixed = of(layer, "mixed");
        match self.form {
            WeightForm::Fp32 => self.attend_rows(layer, &qkv, &mixed),
            WeightForm::Stored => self.graph.node(
                (BLYAN, ATTENTION),
                &[&qkv, "run_id"],
                &[&mixed],
                &[int("layer", layer as i64)],
            ),
        }
        self.product(
            &mixed,
            weight(layer, LayerPart::AttnOutput),
            &of(layer, "attn_out"),
        );
    }

    /// RMS norm of `stream`, or of its sum with `addition`, which is then also left in `summed`.
    fn norm(
        &mut self,
        stream: &str,
        addition: Option<&str>,
        gain: &str,
        normed: &str,
        summed: &str,
    ) {
        let epsilon = float("epsilon", self.shape.rms_epsilon);
        match addition {
            None => {
                let op = ("", "SimplifiedLayerNormalization");
                self.graph.node(
                    op,
                    &[stream, gain],
                    &[normed],
                    &[epsilon, int("axis", -1), int("stash_type", 1)],
                );
            }
            Some(addition) => {
                let op = (MICROSOFT, "SkipSimplifiedLayerNormalization");
                self.graph.node(
                    op,
                    &[stream, addition, gain],
                    &[normed, "", "", summed],
                    &[epsilon],
                );
            }
        }
    }

    /// `left` `[.., K]` times the transposed `[N, K]` weight.
    fn product(&mut self, left: &str, weight: TensorName, out: &str) {
        match self.form {
            WeightForm::Fp32 => self.graph.node(
                (MICROSOFT, "FusedMatMul"),
                &[left, &weight.to_string()],
                &[out],
                &[int("transA", 0), int("transB", 1), float("alpha", 1.0)],
            ),
            WeightForm::Stored => {
                let attributes = [self.matrix(weight)];
                self.graph
                    .node((BLYAN, PRODUCT), &[left], &[out], &attributes);
            }
        }
    }

    fn attend_rows(&mut self, layer: usize, qkv: &str, mixed: &str) {
        if self.rows == 1 {
            return self.attend(layer, 0, qkv, mixed);
        }
        let parts: Vec<_> = (0..self.rows)
            .map(|row| of(layer, &format!("qkv.{row}")))
            .collect();
        let mixed_parts: Vec<_> = (0..self.rows)
            .map(|row| of(layer, &format!("mixed.{row}")))
            .collect();
        self.graph.node(
            ("", "Split"),
            &[qkv, "row_lengths"],
            &borrowed(&parts),
            &[int("axis", 1)],
        );
        for (row, (part, mixed_part)) in parts.iter().zip(&mixed_parts).enumerate() {
            self.attend(layer, row, part, mixed_part);
        }
        self.graph.node(
            ("", "Concat"),
            &borrowed(&mixed_parts),
            &[mixed],
            &[int("axis", 1)],
        );
    }

    fn attend(&mut self, layer: usize, row: usize, qkv: &str, mixed: &str) {
        let named = |value: &str| of(layer, &format!("{value}.{row}"));
        let (last, total) = (format!("last_index.{row}"), format!("total_length.{row}"));
        let (past_key, past_value) = (named("past_key"), named("past_value"));
        let inputs = [
            qkv,
            "",
            "",
            &past_key,
            &past_value,
            &last,
            &total,
            "cos",
            "sin",
        ];
        let outputs = [mixed, &named("present_key"), &named("present_value")];
        let attributes = [
            int("num_heads", self.shape.heads as i64),
            int("kv_num_heads", self.shape.kv_heads as i64),
            int("do_rotary", 1),
            int("rotary_interleaved", self.shape.rope_interleaved.into()),
        ];
        self.graph.node(
            (MICROSOFT, "GroupQueryAttention"),
            &inputs,
            &outputs,
            &attributes,
        );
    }

    fn experts(&mut self, layer: usize) {
        let stream = if layer == 0 {
            "embedded".to_owned()
        } else {
            of(layer, "stream")
        };
        let (normed, scores) = (of(layer, "ffn_in"), of(layer, "scores"));
        let (attn_out, attended) = (of(layer, "attn_out"), of(layer, "attended"));
        self.norm(
            &stream,
            Some(&attn_out),
            &weight(layer, LayerPart::FfnNorm).to_string(),
            &normed,
            &attended,
        );
        self.route(layer, &normed, &scores);
        let inputs = [normed.as_str(), &scores, "run_id"];
        self.graph.node(
            (BLYAN, EXPERT_FFN),
            &inputs,
            &[&of(layer, "ffn")],
            &[int("layer", layer as i64)],
        );
    }

    fn route(&mut self, layer: usize, normed: &str, scores: &str) {
        let matrix = weight(layer, LayerPart::Router);
        let unbiased = of(layer, "scores_unbiased");
        self.product(normed, matrix, &unbiased);
        self.graph.node(
            ("", "Add"),
            &[&unbiased, &format!("{matrix}.bias")],
            &[scores],
            &[],
        );
    }

    fn head(&mut self) {
        let last = self.shape.layers - 1;
        let (attended, ffn) = (of(last, "attended"), of(last, "ffn"));
        self.graph
            .node(("", "Add"), &[&attended, &ffn], &["last_stream"], &[]);
        self.graph.node(
            ("", "Gather"),
            &["last_stream", "logit_positions"],
            &["wanted"],
            &[int("axis", 1)],
        );
        self.norm(
            "wanted",
            None,
            &TensorName::OutputNorm.to_string(),
            "head_in",
            "",
        );
        self.product("head_in", TensorName::Embedding, "logits");
    }
}
