//! The rules, without actor, disk or clock. [`Orchestrator`] says what to write down and what to do once that is
//! durable; only [`Standings::apply`] changes a standing, live and in a replay alike.

mod denied;
mod indicators;
mod orchestrator;
mod orders;
mod reports;
mod standing;
#[cfg(test)]
mod tests;

use std::fmt;

use blyan_supervisors::{ExitReason, TreeEvent};
use serde::{Deserialize, Serialize};

use crate::audit::{Action, Entry, RecordOutcome};

pub use indicators::{Indicator, IndicatorState};
pub use orchestrator::{Orchestrator, Rules};
pub use orders::Verdict;
pub use standing::{Quarantine, Standing, Standings};

/// The path that stands for this node as a whole.
pub const NODE: &str = "node";

/// A component as the wiring sees it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its path in the tree, or [`NODE`].
    pub path: String,
    /// It is one of those that answer chats, and does so now.
    pub serves: bool,
    /// Without it nothing is answered at all.
    pub needed: bool,
    /// The tree holds it out of service.
    pub quarantined: bool,
}

/// What an admin may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Out of service until somebody recovers it.
    Quarantine,
    /// Back into service, after a full verification where data was damaged.
    Recover,
    /// Its work elsewhere, itself restarted; it stays in service.
    Failover,
}

/// A [`Decision`] with who wants it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub decision: Decision,
    /// The component.
    pub path: String,
    /// The admin, as the edge knows them; no secret.
    pub who: String,
    /// In the admin's words; may be empty.
    pub reason: String,
    /// Also where nothing would be left that serves. It never skips a verification.
    pub force: bool,
}

/// What became of an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The component.
    pub path: String,
    /// How it stands now.
    pub standing: Standing,
    /// False where it was so before, or where somebody else's order is being carried out.
    pub changed: bool,
    /// Number of the audit record.
    pub record: u64,
}

/// Why a rule forbids an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No component has this path.
    #[error("there is no component {0}")]
    Unknown(String),
    /// The node could answer nobody any more.
    #[error("without {0} nothing would be left that serves; force does it all the same")]
    NothingWouldServe(String),
    /// A failover needs a component in service, and a recovery one whose parents are.
    #[error("{0} is quarantined; recover it first")]
    Quarantined(String),
    /// Nobody would be left to bring it back.
    #[error("{0} is what decides; it cannot be taken out")]
    Decides(String),
}

/// What the orchestrator is told by the parts that it watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A generation of a component ended.
    Exited {
        /// The component.
        path: String,
        /// How.
        reason: ExitReason,
    },
    /// The tree took a component out.
    TakenOut {
        /// The component.
        path: String,
        /// Why, in words.
        why: String,
    },
    /// Stored data failed its hash or checksum.
    Corrupt {
        /// The component, or the object itself where the wiring knows it as a component.
        path: String,
        /// What is damaged.
        what: String,
    },
    /// Something that a component gave failed its verification.
    VerificationFailed {
        /// The component that it came from.
        path: String,
        /// What failed.
        what: String,
    },
    /// Another genesis than the network's was met.
    GenesisMismatch {
        /// The component that it came from.
        path: String,
        /// What was met.
        what: String,
    },
    /// An operator or a step runs longer than it may.
    Stuck {
        /// The component.
        path: String,
        /// For how long, in words.
        what: String,
    },
    /// Somebody without the right to asked for an admin endpoint.
    Denied {
        /// Where it came from; no secret.
        who: String,
        /// What was asked for, such as `POST /security/failover/x`.
        what: String,
    },
    /// What an admin has done with the chain: no component's standing depends on it.
    Administered {
        /// The admin, as the edge knows them; no secret.
        who: String,
        /// What.
        action: Action,
        /// With what: a key, a block, a snapshot.
        subject: String,
        /// In the admin's words, or why it failed.
        reason: String,
        /// What came of it.
        outcome: RecordOutcome,
    },
    /// An upload that does not look like a contribution.
    UnusualUpload {
        /// Where it came from.
        who: String,
        /// Why.
        what: String,
    },
}

impl Report {
    /// What an event of the tree is to the orchestrator; `None` for those that it need not know.
    pub fn of(event: &TreeEvent) -> Option<Self> {
        match event {
            TreeEvent::ChildExited { path, reason, .. } if !reason.is_normal() => {
                Some(Self::Exited {
                    path: path.to_string(),
                    reason: reason.clone(),
                })
            }
            TreeEvent::ChildQuarantined { path, why } => Some(Self::TakenOut {
                path: path.to_string(),
                why: why.clone(),
            }),
            _ => None,
        }
    }
}

/// A threshold of SEC-21 that was crossed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Which.
    pub indicator: Indicator,
    /// Events within the window.
    pub count: usize,
    /// The event that crossed it: where it came from.
    pub subject: String,
    /// And what it was, in words.
    pub text: String,
}

/// What to do once a step's entries are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Take it out of service.
    Quarantine {
        /// The component.
        path: String,
        /// Why.
        reason: String,
    },
    /// Try once to bring it back, and say how that went to [`Orchestrator::probed`].
    Probe {
        /// The component.
        path: String,
        /// Verify its stored data first.
        verify: bool,
        /// Who wanted it.
        who: String,
    },
    /// Move its work elsewhere and restart it.
    Failover {
        /// The component.
        path: String,
        /// Who wanted it.
        who: String,
    },
}

/// What follows from one input: first the entries, durably and in order, then the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// For the audit log.
    pub entries: Vec<Entry>,
    /// For the tree.
    pub effects: Vec<Effect>,
    /// For people.
    pub alerts: Vec<Alert>,
}

impl Step {
    /// Nothing follows.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.effects.is_empty() && self.alerts.is_empty()
    }
}

/// Whether `path` is `of` or lies below it; everything lies below [`NODE`].
fn is_within(path: &str, of: &str) -> bool {
    of == NODE
        || path
            .strip_prefix(of)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the node still answers somebody when `path` is out of service.
fn serves_without(components: &[Component], path: &str) -> bool {
    let taken_needed = components
        .iter()
        .any(|component| component.needed && is_within(&component.path, path));
    let mut left = components
        .iter()
        .filter(|component| component.serves && !is_within(&component.path, path));
    !taken_needed && left.next().is_some()
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quarantine => "quarantine",
            Self::Recover => "recover",
            Self::Failover => "failover",
        })
    }
}
