use std::fs;
use std::io;
use std::time::Duration;

use blyan_formats::PayloadHash;
use serde::{Deserialize, Serialize};

use crate::ChainError;
use crate::store::DataDir;

/// Where a pass is, in `<data>/scrub`. It is not synced: what is lost with it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// When the pass was begun, ms since 1970.
    pub began_ms: u64,
    /// The payload that was read last.
    pub after: Option<PayloadHash>,
    /// Whether the pass came to its end.
    pub finished: bool,
}

impl Cursor {
    /// The cursor of an unfinished pass, or that of a new one.
    pub(super) fn of_pass(layout: &DataDir, now_ms: u64) -> Result<Self, ChainError> {
        Ok(match Self::read(layout)? {
            Some(cursor) if !cursor.finished => cursor,
            _ => Self {
                began_ms: now_ms,
                after: None,
                finished: false,
            },
        })
    }

    /// What is not a cursor is none: reading everything again heals it.
    pub(super) fn read(layout: &DataDir) -> Result<Option<Self>, ChainError> {
        match fs::read(layout.scrub()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ChainError::io("read where the scrubber is", error)),
        }
    }

    /// Remembers where the pass is. Without it more is read twice: that must not end a pass on a full disk.
    pub(super) fn note(&self, layout: &DataDir) {
        if let Err(error) = self.write(layout) {
            tracing::warn!(%error, "a restart begins this part of the pass again");
        }
    }

    fn write(&self, layout: &DataDir) -> Result<(), ChainError> {
        let temp = layout.scrub().with_extension("new");
        let written = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&temp, bytes))
            .and_then(|()| fs::rename(&temp, layout.scrub()));
        written.map_err(|error| ChainError::io("remember where the scrubber is", error))
    }

    pub(super) fn end(&mut self, layout: &DataDir) -> Result<(), ChainError> {
        self.finished = true;
        self.write(layout)
    }
}

/// How long until a pass is to be gone on with or begun.
///
/// # Errors
/// [`ChainError::Io`].
pub fn next_pass(layout: &DataDir, every: Duration, now_ms: u64) -> Result<Duration, ChainError> {
    let Some(cursor) = Cursor::read(layout)?.filter(|cursor| cursor.finished) else {
        return Ok(Duration::ZERO);
    };
    // A clock that was set back must not put the next pass off for years.
    let since = Duration::from_millis(now_ms.saturating_sub(cursor.began_ms));
    Ok(every.saturating_sub(since).min(every))
}
