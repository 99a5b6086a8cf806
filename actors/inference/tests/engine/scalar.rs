//! The same model in the plainest words: one token after the other, one number at a time, in f64.

use blyan_formats::{LayerPart, TensorName};

use crate::model::{SHAPE, Weights, expert_name};

type Vector = Vec<f64>;

/// Keys and values of the tokens so far, by layer.
pub struct ScalarModel<'a> {
    weights: &'a Weights,
    past: Vec<Vec<(Vector, Vector)>>,
}

impl<'a> ScalarModel<'a> {
    pub fn new(weights: &'a Weights) -> Self {
        Self {
            weights,
            past: vec![Vec::new(); SHAPE.layers],
        }
    }

    /// The logits after each token; per layer only experts for which `allowed` holds take part.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        top_k: usize,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Vec<Vector> {
        tokens
            .iter()
            .map(|token| self.token(*token as usize, top_k, &allowed))
            .collect()
    }

    fn token(
        &mut self,
        token: usize,
        top_k: usize,
        allowed: &impl Fn(usize, usize) -> bool,
    ) -> Vector {
        let embedding = self.weights.get(TensorName::Embedding);
        let mut stream: Vector = row(embedding, SHAPE.hidden, token);
        for layer in 0..SHAPE.layers {
            let attended =
                self.attention(layer, &norm(&stream, self.part(layer, LayerPart::AttnNorm)));
            add(&mut stream, &attended);
            let mixed = self.experts(
                layer,
                &norm(&stream, self.part(layer, LayerPart::FfnNorm)),
                top_k,
                allowed,
            );
            add(&mut stream, &mixed);
        }
        times(
            embedding,
            &norm(&stream, self.weights.get(TensorName::OutputNorm)),
        )
    }

    fn part(&self, layer: usize, part: LayerPart) -> &'a [f32] {
        self.weights.get(TensorName::layer_part(layer as u16, part))
    }

    fn attention(&mut self, layer: usize, x: &Vector) -> Vector {
        let width = SHAPE.head_dim;
        let qkv = times(self.part(layer, LayerPart::AttnQkv), x);
        let (query, rest) = qkv.split_at(SHAPE.heads * width);
        let (key, value) = rest.split_at(SHAPE.kv_heads * width);
        let position = self.past[layer].len();
        self.past[layer].push((rotate(key, position), value.to_vec()));
        let query = rotate(query, position);
        let heads = (0..SHAPE.heads)
            .flat_map(|head| self.attend(layer, head, &query[head * width..][..width]));
        times(self.part(layer, LayerPart::AttnOutput), &heads.collect())
    }

    fn attend(&self, layer: usize, head: usize, query: &[f64]) -> Vector {
        let width = SHAPE.head_dim;
        let at = head / (SHAPE.heads / SHAPE.kv_heads) * width;
        let past = &self.past[layer];
        let score = |key: &Vector| dot(query, &key[at..][..width]) / (width as f64).sqrt();
        let scores: Vector = past.iter().map(|(key, _)| score(key).exp()).collect();
        let total: f64 = scores.iter().sum();
        let mut mixed = vec![0.0; width];
        for ((_, value), score) in past.iter().zip(&scores) {
            mixed
                .iter_mut()
                .zip(&value[at..])
                .for_each(|(sum, value)| *sum += score / total * value);
        }
        mixed
    }

    fn experts(
        &self,
        layer: usize,
        x: &Vector,
        top_k: usize,
        allowed: &impl Fn(usize, usize) -> bool,
    ) -> Vector {
        let router = self.part(layer, LayerPart::Router);
        let score = |expert: usize| {
            let row = row(router, SHAPE.hidden + 1, expert - SHAPE.always_on);
            dot(&row[..SHAPE.hidden], x) + row[SHAPE.hidden]
        };
        let mut routed: Vec<_> = (SHAPE.always_on..SHAPE.experts)
            .filter(|expert| allowed(layer, *expert))
            .collect();
        routed.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
        let mut sum = vec![0.0; SHAPE.hidden];
        for expert in (0..SHAPE.always_on).chain(routed.into_iter().take(top_k - SHAPE.always_on)) {
            add(&mut sum, &self.expert(layer, expert, x));
        }
        sum
    }

    fn expert(&self, layer: usize, expert: usize, x: &Vector) -> Vector {
        let weights = self.weights.get(expert_name(layer, expert));
        let mut sum = vec![0.0; SHAPE.hidden];
        for neuron in 0..SHAPE.neurons {
            let part = |part: usize| row(weights, SHAPE.hidden, part * SHAPE.neurons + neuron);
            let gate = dot(&part(0), x);
            let activation = gate / (1.0 + (-gate).exp()) * dot(&part(1), x);
            sum.iter_mut()
                .zip(part(2))
                .for_each(|(sum, down)| *sum += activation * down);
        }
        sum
    }
}

fn row(matrix: &[f32], columns: usize, row: usize) -> Vector {
    matrix[row * columns..][..columns]
        .iter()
        .map(|number| f64::from(*number))
        .collect()
}

fn times(matrix: &[f32], x: &Vector) -> Vector {
    (0..matrix.len() / x.len())
        .map(|number| dot(&row(matrix, x.len(), number), x))
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut Vector, addition: &Vector) {
    sum.iter_mut()
        .zip(addition)
        .for_each(|(sum, addition)| *sum += addition);
}

fn norm(x: &Vector, gain: &[f32]) -> Vector {
    let mean_square = dot(x, x) / x.len() as f64;
    let scale = 1.0 / (mean_square + f64::from(SHAPE.rms_epsilon)).sqrt();
    x.iter()
        .zip(gain)
        .map(|(x, gain)| x * scale * f64::from(*gain))
        .collect()
}

fn rotate(heads: &[f64], position: usize) -> Vector {
    let rotated = heads.chunks_exact(SHAPE.head_dim).flat_map(|head| {
        head.chunks_exact(2).enumerate().flat_map(move |(i, pair)| {
            let turn = f64::from(SHAPE.rope_base).powf(-2.0 * i as f64 / SHAPE.head_dim as f64);
            let (sin, cos) = (position as f64 * turn).sin_cos();
            [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos]
        })
    });
    rotated.collect()
}
