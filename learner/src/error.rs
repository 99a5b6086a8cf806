use blyan_formats::TensorName;
use blyan_formats::tensorblock::TensorError;
use blyan_inference::step::StepError;
use blyan_protocol::LeaseError;
use blyan_tile_owner::TileError;

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The engine's step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The expert's weights cannot be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Arrays do not fit, or a gradient is not finite: the learning rate is too great.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// The weights are no tensor of the chain.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A record of another layer, of other widths, or none where a step must have left one.
    #[error("the record of the layer does not fit the expert: {0}")]
    Record(&'static str),
    /// A setting lies outside its range.
    #[error("{0}")]
    Setting(&'static str),
    /// The router sent no token of the text to the expert.
    #[error("no token of the text reaches {0}")]
    Unreached(TensorName),
}
