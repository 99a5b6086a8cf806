use std::path::PathBuf;

use blyan_formats::TensorName;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// ONNX Runtime cannot be loaded.
    #[error("cannot load ONNX Runtime from {path}: {why}")]
    Library {
        /// What was to be loaded.
        path: PathBuf,
        /// The loader's words.
        why: String,
    },
    /// A CUDA session was asked for and cannot be had.
    #[error(
        "no CUDA session: {why}. Set ORT_DYLIB_PATH to the libonnxruntime of the package onnxruntime-gpu, with CUDA 13 \
         and cuDNN 9 installed, or choose the provider cpu"
    )]
    Cuda {
        /// ONNX Runtime's words.
        why: String,
    },
    /// A weight is missing or of another size.
    #[error("weight {name}: {why}")]
    Weight {
        /// Which.
        name: TensorName,
        /// What is wrong with it.
        why: String,
    },
    /// The options contradict each other or the model.
    #[error("invalid engine options: {0}")]
    Options(String),
    /// ONNX Runtime refuses the graph, or failed.
    #[error("ONNX Runtime: {0}")]
    Graph(String),
}

impl From<ort::Error> for EngineError {
    fn from(why: ort::Error) -> Self {
        Self::Graph(why.message().to_owned())
    }
}
