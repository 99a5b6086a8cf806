//! A running tree, seen from outside.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ExitReason, NoProbe, Probe};

/// Which start of a child this is, from 1; 0 before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node of the tree does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Its factory or `started` runs; a supervisor: not all of its children are up yet.
    Starting,
    /// It takes messages.
    Running,
    /// It failed and waits before it is started again.
    BackingOff,
    /// Down until a person brings it back.
    Quarantined,
    /// It was told to stop.
    Stopping,
    /// Down: never started, finished, or held down by the state of a sibling or of the supervisor.
    Stopped,
}

impl ChildState {
    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing_off",
            Self::Quarantined => "quarantined",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Has children.
    Supervisor,
    /// Runs an actor.
    Worker,
}

/// How a node's last generation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// [`ExitReason::class`].
    pub class: String,
    /// The reason in words. Panic texts can hold user data: only for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Unix time in milliseconds.
    pub at_ms: u64,
}

/// A node of the tree with everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// The full path, such as `serving/replicas/inference-1`; the root's is its own id.
    pub id: String,
    /// Supervisor or worker.
    pub kind: NodeKind,
    /// What it does.
    pub state: ChildState,
    /// How often it was started.
    pub generation: Generation,
    /// Restarts that count at the moment: a worker's own; a supervisor's, those of its children.
    pub restarts_in_window: u32,
    /// How the last generation ended.
    pub last_exit: Option<LastExit>,
    /// Why it is quarantined; `None` when it is not. Holds no user data but an admin's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_reason: Option<String>,
    /// Messages admitted and not yet answered; 0 for supervisors.
    pub mailbox_depth: usize,
    /// In start order.
    pub children: Vec<TreeNode>,
}

impl TreeNode {
    /// The node with this full path in this subtree.
    pub fn find(&self, path: &str) -> Option<&TreeNode> {
        if self.id == path {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(path))
    }

    /// The same tree for everybody: each `last_exit` reduced to class and time, quarantine reasons left out.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.quarantine_reason = None;
        if let Some(exit) = &mut self.last_exit {
            exit.text = None;
        }
        self.children = self.children.into_iter().map(Self::redacted).collect();
        self
    }
}

/// What happened in the tree, for logs, metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeEvent {
    /// A worker takes messages; a supervisor has all its children up or given up.
    ChildStarted {
        /// The node.
        path: Arc<str>,
        /// Its generation.
        generation: Generation,
    },
    /// A generation ended.
    ChildExited {
        /// The node.
        path: Arc<str>,
        /// The generation that ended.
        generation: Generation,
        /// Why.
        reason: ExitReason,
        /// How long it ran after its start was complete.
        uptime: Duration,
    },
    /// A restart was granted.
    ChildRestarting {
        /// The node.
        path: Arc<str>,
        /// The class of the exit that it follows.
        reason: &'static str,
        /// The pause before it.
        pause: Duration,
    },
    /// A node was taken out.
    ChildQuarantined {
        /// The node.
        path: Arc<str>,
        /// Why, in words.
        why: String,
    },
    /// A person brought a node back.
    ChildRecovered {
        /// The node.
        path: Arc<str>,
    },
    /// A supervisor used its window up and stops its children.
    Escalated {
        /// The supervisor.
        path: Arc<str>,
        /// Why, in words.
        why: String,
    },
    /// A generation that does not come back from its poll was given up together with its thread.
    ThreadAbandoned {
        /// The node.
        path: Arc<str>,
        /// The generation.
        generation: Generation,
        /// Abandoned threads now.
        zombies: usize,
    },
    /// An abandoned generation came back and was dropped.
    ZombieReturned {
        /// The node.
        path: Arc<str>,
        /// The generation.
        generation: Generation,
        /// Abandoned threads now.
        zombies: usize,
    },
}

/// How a tree ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "exit", rename_all = "snake_case")]
pub enum TreeExit {
    /// It was asked to, and everything stopped.
    #[error("stopped")]
    Stopped,
    /// It was asked to, and these nodes did not stop before the deadline.
    #[error("stopped, but not in time: {}", left.join(", "))]
    StopOverrun {
        /// Paths of workers that were abandoned.
        left: Vec<String>,
    },
    /// The root used its restart window up.
    #[error("the root of the supervision tree gave up: {why}")]
    Escalated {
        /// Which child, how often, why at last.
        why: String,
    },
    /// More threads were abandoned than the options allow.
    #[error("{zombies} threads are stuck for good, more than the {limit} allowed")]
    TooManyZombies {
        /// Abandoned threads.
        zombies: usize,
        /// The limit.
        limit: usize,
    },
    /// The supervision itself failed.
    #[error("the supervision thread went away")]
    SupervisionLost,
}

/// What a tree is started with.
#[derive(Clone)]
pub struct TreeOptions {
    /// Passed to every factory.
    pub probe: Arc<dyn Probe>,
    /// Unix time in milliseconds, read once at the start; later times are counted from there.
    pub unix_ms: fn() -> u64,
    /// Seed of the back-off's jitter.
    pub seed: u64,
    /// Abandoned threads that are tolerated; one more ends the tree.
    pub zombies_max: usize,
    /// How long a killed child may take to be dropped before its thread counts as stuck.
    pub kill_grace: Duration,
    /// How often the age of polls is looked at.
    pub stuck_tick: Duration,
    /// Events kept for a subscriber that is behind.
    pub events_len_max: usize,
    /// Everything, supervision included, on the thread that starts the tree: no actix `System` is needed, stuck
    /// children are not found. For tests on a paused or simulated clock.
    pub local: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            probe: Arc::new(NoProbe),
            unix_ms: unix_ms_now,
            seed: rand::random(),
            zombies_max: 8,
            kill_grace: Duration::from_millis(250),
            stuck_tick: Duration::from_millis(20),
            events_len_max: 1024,
            local: false,
        }
    }
}

fn unix_ms_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
