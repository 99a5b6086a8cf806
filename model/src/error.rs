use std::io;
use std::path::PathBuf;

use blyan_chain::ChainError;
use blyan_formats::block::BlockError;
use blyan_formats::bodies::BodyError;
use blyan_formats::gguf::GgufError;
use blyan_formats::tensorblock::TensorError;
use blyan_formats::{ContentHash, ErrorClass};
use blyan_inference::engine::EngineError;
use blyan_inference::error::InferenceError;
use blyan_inference::step::StepError;

use crate::linalg::Singular;

/// Everything that fit, import and evaluation can refuse or fail with. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be opened or read.
    #[error("cannot read {path}: {why}; check that it is there and that you may read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A file is larger than anything that this version could use.
    #[error(
        "{path} has {len} bytes, more than the {len_max} that are accepted; is it the right file?"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The bound.
        len_max: u64,
    },
    /// The model file is not the one that the recipe was fitted to.
    #[error(
        "{path} is not the model that the recipe is for: its SHA-256 is {found}, the recipe says {expected} \
         ({file}); fetch that file again, or make a recipe of this one with `blyan fit`"
    )]
    OtherSource {
        /// The file.
        path: PathBuf,
        /// The name of the file that the recipe was fitted to.
        file: String,
        /// What the recipe says.
        expected: ContentHash,
        /// What the file has.
        found: ContentHash,
    },
    /// The recipe cannot be used.
    #[error("the recipe is not usable: {0}; make it again with `blyan fit`")]
    Recipe(String),
    /// The model file is no GGUF, or lacks something.
    #[error("the model file is not usable: {0}")]
    Gguf(#[from] GgufError),
    /// The model file is a GGUF of a kind that the architecture block cannot describe.
    #[error("the model is not supported: {0}")]
    Unsupported(String),
    /// A tensor cannot be made a TensorBlock.
    #[error("tensor {name}: {why}")]
    Tensor {
        /// Its name, as GGUF or the chain has it.
        name: String,
        /// The rule that it breaks.
        why: TensorError,
    },
    /// A JSON payload breaks a rule of its format.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A block breaks a rule of its format.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The chain refuses, or its disk fails.
    #[error("{source}; {}", hint(source))]
    Chain {
        /// What the chain says.
        #[from]
        source: ChainError,
    },
    /// The text gives fewer tokens than are asked for.
    #[error("the texts have {found} tokens, {needed} are needed; add text")]
    TooFewTokens {
        /// Tokens in the texts.
        found: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// The router cannot be fitted.
    #[error(
        "the router of layer {layer} cannot be fitted: {why}; use more text or a greater penalty"
    )]
    Router {
        /// The layer.
        layer: usize,
        /// What is wrong with the data.
        why: Singular,
    },
    /// The model could not be run.
    #[error("the model could not be run: {0}")]
    Step(#[from] StepError),
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer could not be made or used.
    #[error(transparent)]
    Tokenizer(#[from] InferenceError),
    /// A worker ended without a result.
    #[error("a worker thread panicked; run the command again, it goes on where it stopped")]
    Worker,
}

impl ModelError {
    /// What a supervisor would have to do.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreadable { .. } | Self::Step(_) => ErrorClass::Transient,
            Self::Chain { source } => source.class(),
            Self::Worker => ErrorClass::Fatal,
            _ => ErrorClass::Rejected,
        }
    }
}

fn hint(error: &ChainError) -> &'static str {
    match error {
        ChainError::Io { .. } | ChainError::NotDurable { .. } => {
            "free some space (an import needs about 200 MB) or check the disk, then run the same command \
             again: it goes on where it stopped"
        }
        ChainError::Held(_) => "stop that node first, or choose another directory with --data-dir",
        _ => "run `blyan verify` to see the state of the directory",
    }
}
