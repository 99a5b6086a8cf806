//! One node: its rules and what it is at the moment.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{ChildState, ExitReason, Generation, LastExit, Strategy, Window, spec::Rules};

/// A node's place in the arena.
pub(crate) type Ix = usize;

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Stopped,
    BackingOff {
        until: Duration,
    },
    Starting {
        /// `None` for supervisors, whose children have limits of their own.
        until: Option<Duration>,
    },
    Running,
    Stopping {
        until: Option<Duration>,
        killed: bool,
        /// The reason to record, where the node is stopped for a failure and not at its parent's wish.
        verdict: Option<ExitReason>,
    },
    Quarantined,
}

impl Phase {
    pub(super) fn stopping(verdict: Option<ExitReason>) -> Self {
        Self::Stopping {
            until: None,
            killed: false,
            verdict,
        }
    }

    pub(super) fn state(&self) -> ChildState {
        match self {
            Self::Stopped => ChildState::Stopped,
            Self::BackingOff { .. } => ChildState::BackingOff,
            Self::Starting { .. } => ChildState::Starting,
            Self::Running => ChildState::Running,
            Self::Stopping { .. } => ChildState::Stopping,
            Self::Quarantined => ChildState::Quarantined,
        }
    }

    /// True while a generation exists.
    pub(super) fn is_up(&self) -> bool {
        matches!(
            self,
            Self::Starting { .. } | Self::Running | Self::Stopping { .. }
        )
    }

    pub(super) fn until(&self) -> Option<Duration> {
        match self {
            Self::BackingOff { until } => Some(*until),
            Self::Starting { until } | Self::Stopping { until, .. } => *until,
            Self::Stopped | Self::Running | Self::Quarantined => None,
        }
    }

    pub(super) fn back_at(&self) -> Option<Duration> {
        match self {
            Self::BackingOff { until } => Some(*until),
            _ => None,
        }
    }
}

/// Times of restarts, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts(VecDeque<Duration>);

impl Restarts {
    /// Restarts not longer ago than the window is long.
    pub(super) fn count(&self, window: Window, now: Duration) -> u32 {
        let recent = self
            .0
            .iter()
            .filter(|&&at| now.saturating_sub(at) <= window.within);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// Notes a restart and forgets those that have left the window.
    pub(super) fn record(&mut self, window: Window, now: Duration) {
        while self
            .0
            .front()
            .is_some_and(|&at| now.saturating_sub(at) > window.within)
        {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a supervisor has and a worker has not.
#[derive(Clone, Debug)]
pub(super) struct Supervision {
    pub(super) strategy: Strategy,
    pub(super) window: Window,
    pub(super) restarts: Restarts,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) path: Arc<str>,
    pub(super) parent: Option<Ix>,
    pub(super) rules: Rules,
    pub(super) supervision: Option<Supervision>,
    /// In start order; empty for workers.
    pub(super) children: Vec<Ix>,
    pub(super) phase: Phase,
    /// False once it has finished for good.
    pub(super) wanted: bool,
    /// It has to go down once, to come up again.
    pub(super) halt: bool,
    /// A person's reason to quarantine it as soon as it is down.
    pub(super) hold: Option<String>,
    pub(super) quarantined_because: Option<String>,
    pub(super) removed: bool,
    pub(super) generation: Generation,
    pub(super) running_since: Option<Duration>,
    pub(super) restarts: Restarts,
    /// Starts in a row that failed: they count however long each of them took.
    pub(super) failed_starts: u32,
    pub(super) last_exit: Option<LastExit>,
    pub(super) shown: (ChildState, Generation),
}

impl Node {
    pub(super) fn worker(parent: Option<Ix>, path: Arc<str>, rules: Rules) -> Self {
        Self {
            path,
            parent,
            rules,
            supervision: None,
            children: Vec::new(),
            phase: Phase::Stopped,
            wanted: true,
            halt: false,
            hold: None,
            quarantined_because: None,
            removed: false,
            generation: Generation(0),
            running_since: None,
            restarts: Restarts::default(),
            failed_starts: 0,
            last_exit: None,
            shown: (ChildState::Stopped, Generation(0)),
        }
    }

    pub(super) fn supervisor(
        parent: Option<Ix>,
        path: Arc<str>,
        rules: Rules,
        strategy: Strategy,
        window: Window,
    ) -> Self {
        let supervision = Supervision {
            strategy,
            window,
            restarts: Restarts::default(),
        };
        Self {
            supervision: Some(supervision),
            ..Self::worker(parent, path, rules)
        }
    }

    pub(super) fn is_supervisor(&self) -> bool {
        self.supervision.is_some()
    }

    /// A clean slate: wanted, with an empty window.
    pub(super) fn forgive(&mut self) {
        self.wanted = true;
        self.quarantined_because = None;
        self.restarts.clear();
        self.failed_starts = 0;
    }
}
