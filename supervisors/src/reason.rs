//! Why a child is gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a generation of a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "class", content = "text", rename_all = "snake_case")]
pub enum ExitReason {
    /// The actor stopped by itself, its work done.
    #[error("stopped by itself")]
    Normal,
    /// The supervisor asked it to stop.
    #[error("stopped by its supervisor")]
    Shutdown,
    /// The actor found its own state doubtful.
    #[error("fatal: {0}")]
    Fatal(String),
    /// A panic in the actor, in a handler's future or in a task tied to the actor.
    #[error("panicked: {0}")]
    Panicked(String),
    /// One poll of the actor took longer than its stuck limit; its thread was abandoned.
    #[error("stuck in one poll for {} ms", .0.as_millis())]
    Stuck(Duration),
    /// Stored data that the child itself rests on is damaged. Never restarted blindly.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Dropped by the supervisor, or its thread went away.
    #[error("killed")]
    Killed,
    /// The factory returned an error or did not return in time.
    #[error("start failed: {0}")]
    StartFailed(String),
    /// A supervisor used its restart window up.
    #[error("escalated: {0}")]
    Escalated(String),
}

impl ExitReason {
    /// The variant's name in snake case, without the text that may hold secrets.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Shutdown => "shutdown",
            Self::Fatal(_) => "fatal",
            Self::Panicked(_) => "panicked",
            Self::Stuck(_) => "stuck",
            Self::Corrupt(_) => "corrupt",
            Self::Killed => "killed",
            Self::StartFailed(_) => "start_failed",
            Self::Escalated(_) => "escalated",
        }
    }

    /// True for the exits after which a transient child stays down.
    pub const fn is_normal(&self) -> bool {
        matches!(self, Self::Normal | Self::Shutdown)
    }
}

impl From<String> for ExitReason {
    /// A factory's plain error text.
    fn from(text: String) -> Self {
        Self::StartFailed(text)
    }
}

impl From<&str> for ExitReason {
    fn from(text: &str) -> Self {
        Self::StartFailed(text.to_owned())
    }
}
