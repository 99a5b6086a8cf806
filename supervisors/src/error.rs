//! Errors of calls, of specs and of the tree's commands.

use std::time::Duration;

use crate::ChildState;

/// Why a call was not answered. All but [`Lost`](Self::Lost) and [`Timeout`](Self::Timeout) mean that the message
/// was not handled and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The child is not running; it may be again after `retry_after`.
    #[error("the component is {state}, try again in {} ms", retry_after.as_millis())]
    Down {
        /// What it is doing instead.
        state: ChildState,
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The child failed too often or was taken out by a person; only a person brings it back.
    #[error("the component is quarantined, try again in {} s", retry_after.as_secs())]
    Quarantined {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// As many messages as the child admits are waiting or being handled.
    #[error("the component has all the work it admits, try again in {} ms", retry_after.as_millis())]
    Full {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The child went away with the message in hand: it may or may not have been handled.
    #[error("the component went away before it answered")]
    Lost,
    /// No answer before the deadline: the message may or may not be handled.
    #[error("the component did not answer in time")]
    Timeout,
}

impl CallError {
    /// When a new attempt makes sense; `None` where the message may have been handled.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Down { retry_after, .. }
            | Self::Quarantined { retry_after }
            | Self::Full { retry_after } => Some(*retry_after),
            Self::Lost | Self::Timeout => None,
        }
    }

    /// A stable snake-case code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Quarantined { .. } => "quarantined",
            Self::Full { .. } => "full",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
        }
    }
}

/// Why a tree was not started or a child not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two children of one supervisor have the same id.
    #[error("two children are called {path}")]
    DuplicateId {
        /// The path they share.
        path: String,
    },
    /// An id is empty or holds something else than letters, digits, `-` and `_`.
    #[error("{id:?} is no child id: letters, digits, '-' and '_' only")]
    BadId {
        /// The id.
        id: String,
    },
    /// A window of no length.
    #[error("the restart window of {path} has no length")]
    EmptyWindow {
        /// The child or supervisor.
        path: String,
    },
    /// Pauses alone take longer than the window, so that it would never be used up and the child restarted for ever.
    #[error(
        "{path}: {max_restarts} restarts pause for up to {pauses:?}, so a window of {within:?} can never fill; \
         shorten the back-off or lengthen the window"
    )]
    WindowNeverFills {
        /// The child.
        path: String,
        /// Restarts in the window that applies.
        max_restarts: u32,
        /// Length of that window.
        within: Duration,
        /// Longest time that this many restarts spend pausing.
        pauses: Duration,
    },
    /// A mailbox that admits nothing, or more than can be counted.
    #[error("{path}: the mailbox bound must be 1 to {max}, not {len}")]
    MailboxBound {
        /// The child.
        path: String,
        /// The bound asked for.
        len: usize,
        /// The largest that is accepted.
        max: usize,
    },
    /// Two specs are bound to one handle, or the spec's handle belongs to another tree.
    #[error("the handle of {path} already belongs to another child")]
    BoundTwice {
        /// The child.
        path: String,
    },
    /// Threads for children need an actix `System` on the calling thread.
    #[error("no actix System runs on this thread")]
    NoSystem,
    /// The supervision thread could not be made.
    #[error("the supervision thread could not be started: {0}")]
    Thread(String),
}

/// Why a command to the tree was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No node has this path.
    #[error("there is no component {path}")]
    NoSuchPath {
        /// The path asked for.
        path: String,
    },
    /// The command makes no sense for this node in its state.
    #[error("{path}: {why}")]
    Refused {
        /// The node.
        path: String,
        /// A sentence for a person.
        why: &'static str,
    },
    /// The child to add is not well-formed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tree has ended.
    #[error("the tree has ended")]
    Ended,
    /// The deadline passed first.
    #[error("not within the deadline")]
    Timeout,
}
