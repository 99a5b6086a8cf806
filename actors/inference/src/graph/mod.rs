//! The ONNX graph of one step over a given number of rows, made from a model's shape.
//!
//! Every weight is a graph input or is read by an operator of ours, so that sessions own none and maps are read in place. A step's tokens stand one row
//! after the other in a tensor `[1, T, H]`; only attention looks at rows one by one, each on its own key/value memory,
//! whose past and present are the same buffer.

mod builder;
mod llama;
pub mod onnx;
mod shape;

pub use builder::BLYAN;
pub use llama::{StepGraph, step_graph};
pub use shape::ModelShape;

/// Name of the operator in domain [`BLYAN`] that multiplies `[1, T, K]` with a transposed matrix `[N, K]` of ours; output
/// `[1, T, N]`; attribute [`MATRIX`].
pub const PRODUCT: &str = "Product";
/// Name of the operator in domain [`BLYAN`] that looks tokens `[1, T]` up in a matrix `[V, H]` of ours; output
/// `[1, T, H]`; attribute [`MATRIX`].
pub const EMBED: &str = "Embed";
/// Name of the operator in domain [`BLYAN`] that computes attention over the run's own memory: inputs queries, keys and
/// values `[1, T, (heads + 2 kv_heads) * head_dim]` and run id `[1]`; output `[1, T, heads * head_dim]`; attribute `layer`.
pub const ATTENTION: &str = "Attention";
/// Attribute of operators that read a matrix of ours: its place in [`ModelShape::matrices`].
pub const MATRIX: &str = "matrix";
/// Name of the operator in domain [`BLYAN`] that computes a layer's experts: inputs hidden state `[1, T, H]`, router
/// scores `[1, T, routed]` and run id `[1]`; output `[1, T, H]`; attribute `layer`.
pub const EXPERT_FFN: &str = "ExpertFfn";
