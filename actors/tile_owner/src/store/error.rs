use std::io;
use std::path::PathBuf;

use crate::error::TileError;

/// Why a tile's owner could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The delta or the step was refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] TileError),
    /// There is a tile in the folder already.
    #[error("{0} holds a tile already")]
    Exists(PathBuf),
    /// There is no tile in the folder.
    #[error("{0} holds no tile")]
    Missing(PathBuf),
    /// Another owner has the folder open.
    #[error("{0} is in use by another owner")]
    Held(PathBuf),
    /// Stored bytes are not what was written. Nothing was changed; restore the folder from a copy.
    #[error("{file} is damaged: {why}")]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk refused. What was being written may be there or not: only opening the folder again tells.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed before: nothing is taken until the folder is opened again.
    #[error("a write failed before; open the tile again")]
    Sealed,
}

impl StoreError {
    pub(super) const fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}
