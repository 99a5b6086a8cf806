use std::io;
use std::path::PathBuf;

use blyan_formats::gguf::GgufError;
use blyan_formats::tensorblock::TensorError;
use blyan_formats::{TensorFault, TensorName};
use safetensors::SafeTensorError;

/// Why an expert cannot be taken from a file or written to one. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ExpertError {
    /// A file cannot be opened, mapped or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A folder without a model.
    #[error("{0} holds no .safetensors file and not exactly one .gguf file; name the file itself")]
    EmptyFolder(PathBuf),
    /// It starts like a GGUF and is none that can be read.
    #[error("the file is not usable as GGUF: {0}")]
    Gguf(#[from] GgufError),
    /// It is no GGUF and no safetensors file either.
    #[error("the file is neither GGUF nor usable as safetensors: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// Some other weight of the model.
    #[error("{0} is not an expert; an expert is named like layer3.expert5")]
    NotAnExpert(TensorName),
    /// The architecture has no such expert.
    #[error(
        "the model has no {name}: it has layers 0 to {}, each with experts 0 to {}", layers - 1, per_layer - 1
    )]
    NoSuchExpert {
        /// What was asked for.
        name: TensorName,
        /// Layers of the model.
        layers: u16,
        /// Experts of a layer.
        per_layer: u16,
    },
    /// No known way of naming experts fits.
    #[error(
        "the file has no {name} under any known name; its gate matrix was looked for as {}", looked_for.join(", ")
    )]
    NotFound {
        /// What was asked for.
        name: TensorName,
        /// The names that its gate matrix could have had.
        looked_for: Vec<String>,
    },
    /// The gate is there, another of the three matrices is not.
    #[error(
        "the file has no tensor {0:?}; an expert needs three matrices: gate, up and down (a model without a gate \
         cannot be carried over)"
    )]
    Missing(String),
    /// A matrix has another shape than the chain's model.
    #[error(
        "tensor {tensor:?} is {found} and must be {expected}: the file belongs to another architecture"
    )]
    Shape {
        /// Its name in the file.
        tensor: String,
        /// Rows x columns, or the dimensions.
        found: String,
        /// Rows x columns.
        expected: String,
    },
    /// The stack of experts ends before this one.
    #[error("tensor {tensor:?} holds {held} experts, so there is no expert {expert} in it")]
    StackTooShort {
        /// Its name in the file.
        tensor: String,
        /// Experts in it.
        held: usize,
        /// The one that was asked for.
        expert: u16,
    },
    /// Numbers of another kind.
    #[error(
        "tensor {tensor:?} has elements of type {dtype}; supported are F32, F16 and BF16: convert the file"
    )]
    ElementType {
        /// Its name in the file.
        tensor: String,
        /// Its element type, as safetensors calls it.
        dtype: String,
    },
    /// The weights cannot be quantised.
    #[error("{name}: {why} (counted over the rows of gate, up and down transposed)")]
    Values {
        /// The expert.
        name: TensorName,
        /// The first fault.
        why: TensorError,
    },
    /// A payload on the chain is damaged.
    #[error("the payload of {name} is damaged: {why}; `blyan verify` says more")]
    Payload {
        /// The expert.
        name: TensorName,
        /// The first fault.
        why: TensorFault,
    },
    /// A dense model's layers are not split yet.
    #[error("the file is a dense model: a recipe must say which neurons of a layer are {0}'s")]
    NeedsRecipe(TensorName),
    /// The recipe is for a model of other shapes.
    #[error("the recipe does not fit: {0} is not among its experts in this shape")]
    Recipe(TensorName),
}

impl ExpertError {
    pub(super) fn file(path: impl Into<PathBuf>, why: io::Error) -> Self {
        Self::File {
            path: path.into(),
            why,
        }
    }
}
