//! From what is to what should be: the next moves of each supervisor.

use std::{sync::Arc, time::Duration};

use super::{
    Core, Effect, Ix, ROOT,
    node::{Node, Phase},
};
use crate::{ExitReason, Restart, Shutdown, Strategy, TreeEvent};

/// Far more rounds than any tree needs, which is a few for each of its levels. One that never came to rest would hold
/// its lock for ever; a panic ends it as [`SupervisionLost`](crate::TreeExit::SupervisionLost).
const ROUNDS_MAX: usize = 10_000;

impl Core {
    /// Makes moves until nothing is left to be done without news from outside.
    pub(super) fn settle(&mut self, now: Duration) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "moves without end");
            if self.ended || !self.go_round(now) {
                break;
            }
        }
    }

    /// Children stand behind their parents, so each round goes from the leaves to the root.
    fn go_round(&mut self, now: Duration) -> bool {
        (0..self.nodes.len())
            .rev()
            .fold(false, |moved, ix| moved | self.reconcile(ix, now))
    }

    /// True when it has moved a child, which may be a supervisor with moves of its own to make.
    fn reconcile(&mut self, supervisor: Ix, now: Duration) -> bool {
        if !self.is_supervisor(supervisor) {
            return false;
        }
        // First, since a quarantined child that is gone holds no sibling down any longer.
        self.detach_removed(supervisor);
        let moved = self.lower(supervisor, now) | self.raise(supervisor, now);
        self.conclude(supervisor, now);
        moved
    }

    fn strategy(&self, supervisor: Ix) -> Strategy {
        self.nodes[supervisor]
            .supervision
            .as_ref()
            .map_or_else(Strategy::default, |supervision| supervision.strategy)
    }

    /// True when the supervisor would have this child up.
    pub(super) fn may_run(&self, supervisor: Ix, child: Ix) -> bool {
        let node = &self.nodes[child];
        matches!(
            self.nodes[supervisor].phase,
            Phase::Starting { .. } | Phase::Running
        ) && node.wanted
            && !node.removed
            && !is_out(node)
            && !self.is_blocked(supervisor, child)
    }

    /// True when a sibling that this child cannot do without is quarantined.
    fn is_blocked(&self, supervisor: Ix, child: Ix) -> bool {
        let siblings = &self.nodes[supervisor].children;
        let out = |&sibling: &Ix| sibling != child && is_out(&self.nodes[sibling]);
        match self.strategy(supervisor) {
            Strategy::OneForOne => false,
            Strategy::RestForOne => siblings
                .iter()
                .take_while(|&&sibling| sibling != child)
                .any(out),
            Strategy::OneForAll => siblings.iter().any(out),
        }
    }

    fn must_go(&self, supervisor: Ix, child: Ix) -> bool {
        self.nodes[child].halt || !self.may_run(supervisor, child)
    }

    /// Stops children that must go, the last first and one at a time; independent ones all at once.
    fn lower(&mut self, supervisor: Ix, now: Duration) -> bool {
        let stopping = matches!(self.nodes[supervisor].phase, Phase::Stopping { .. });
        let at_once = self.strategy(supervisor) == Strategy::OneForOne && !stopping;
        let mut moved = false;
        for child in self.nodes[supervisor].children.clone().into_iter().rev() {
            if !self.must_go(supervisor, child) {
                continue;
            }
            let was_up = self.nodes[child].phase.is_up();
            moved |= self.lower_one(child, now);
            if was_up && !at_once {
                break;
            }
        }
        moved
    }

    fn lower_one(&mut self, child: Ix, now: Duration) -> bool {
        match self.nodes[child].phase {
            Phase::Starting { .. } | Phase::Running => self.ask_to_stop(child, now),
            Phase::BackingOff { .. } => self.nodes[child].phase = Phase::Stopped,
            Phase::Stopping { .. } | Phase::Stopped | Phase::Quarantined => return false,
        }
        true
    }

    fn ask_to_stop(&mut self, node: Ix, now: Duration) {
        let generation = self.nodes[node].generation;
        let (until, killed) = match self.nodes[node].rules.shutdown {
            _ if self.is_supervisor(node) => (None, false),
            Shutdown::Timeout(limit) => (Some(now.saturating_add(limit)), false),
            Shutdown::Infinity => (None, false),
            Shutdown::Kill => (Some(now.saturating_add(self.settings.kill_grace)), true),
        };
        if !self.is_supervisor(node) {
            self.effects.push(match killed {
                true => Effect::Kill { node, generation },
                false => Effect::Stop { node, generation },
            });
        }
        self.nodes[node].phase = Phase::Stopping {
            until,
            killed,
            verdict: None,
        };
    }

    /// Starts children that should be up: in turn at the supervisor's start and where siblings share their fate.
    fn raise(&mut self, supervisor: Ix, now: Duration) -> bool {
        let starting = matches!(self.nodes[supervisor].phase, Phase::Starting { .. });
        let in_turn = starting || self.strategy(supervisor) != Strategy::OneForOne;
        let children = self.nodes[supervisor].children.clone();
        let leaving =
            |&child: &Ix| self.must_go(supervisor, child) && self.nodes[child].phase.is_up();
        if in_turn && children.iter().any(leaving) {
            return false;
        }
        let mut moved = false;
        for child in children {
            let is_running = matches!(self.nodes[child].phase, Phase::Running);
            if is_running || !self.may_run(supervisor, child) {
                continue;
            }
            if self.is_startable(child, now) {
                self.begin_start(child, now);
                moved = true;
            }
            if in_turn {
                break;
            }
        }
        moved
    }

    fn is_startable(&self, node: Ix, now: Duration) -> bool {
        match self.nodes[node].phase {
            Phase::Stopped => true,
            Phase::BackingOff { until } => until <= now,
            _ => false,
        }
    }

    pub(super) fn begin_start(&mut self, node: Ix, now: Duration) {
        let current = &mut self.nodes[node];
        current.generation.0 += 1;
        current.halt = false;
        if let Some(supervision) = &mut current.supervision {
            supervision.restarts.clear();
            current.phase = Phase::Starting { until: None };
            for child in current.children.clone() {
                self.renew(child);
            }
        } else {
            let until = now.saturating_add(current.rules.start_limit);
            current.phase = Phase::Starting { until: Some(until) };
            let generation = current.generation;
            self.effects.push(Effect::Start { node, generation });
        }
    }

    /// A child of a supervisor that starts anew begins anew; only a quarantine outlives that.
    fn renew(&mut self, child: Ix) {
        let node = &mut self.nodes[child];
        if !is_out(node) {
            node.forgive();
        }
    }

    fn detach_removed(&mut self, supervisor: Ix) {
        let mut children = std::mem::take(&mut self.nodes[supervisor].children);
        children.retain(|&child| !self.is_gone(child));
        self.nodes[supervisor].children = children;
    }

    /// Notices that a supervisor has come up, or has gone down. What follows is up to its parent, whose turn is later.
    fn conclude(&mut self, supervisor: Ix, now: Duration) {
        let node = &self.nodes[supervisor];
        let children = &node.children;
        match &node.phase {
            Phase::Starting { .. } => {
                let settled = |&child: &Ix| {
                    matches!(self.nodes[child].phase, Phase::Running)
                        || !self.may_run(supervisor, child)
                };
                if children.iter().all(settled) {
                    self.mark_running(supervisor, now);
                }
            }
            Phase::Stopping { verdict, .. } => {
                let is_up = |&child: &Ix| self.nodes[child].phase.is_up();
                if !children.iter().any(is_up) {
                    let reason = verdict.clone().unwrap_or(ExitReason::Shutdown);
                    self.on_exit(supervisor, reason, now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn mark_running(&mut self, node: Ix, now: Duration) {
        let current = &mut self.nodes[node];
        current.phase = Phase::Running;
        current.running_since = Some(now);
        current.failed_starts = 0;
        let event = TreeEvent::ChildStarted {
            path: Arc::clone(&current.path),
            generation: current.generation,
        };
        self.effects.push(Effect::Tell(event));
    }

    /// Marks the siblings that share `child`'s fate: they go down once; temporary ones for good.
    pub(super) fn mark_group(&mut self, child: Ix) {
        let Some(supervisor) = self.nodes[child].parent else {
            return;
        };
        let siblings = self.nodes[supervisor].children.clone();
        let group: Vec<Ix> = match self.strategy(supervisor) {
            Strategy::OneForOne => Vec::new(),
            Strategy::RestForOne => siblings
                .into_iter()
                .skip_while(|&ix| ix != child)
                .skip(1)
                .collect(),
            Strategy::OneForAll => siblings.into_iter().filter(|&ix| ix != child).collect(),
        };
        for sibling in group {
            let node = &mut self.nodes[sibling];
            node.wanted = node.rules.restart != Restart::Temporary;
            node.halt = node.phase.is_up();
        }
    }

    /// Stops a supervisor because its window is used up.
    pub(super) fn escalate(&mut self, supervisor: Ix, why: String) {
        let path = Arc::clone(&self.nodes[supervisor].path);
        self.effects.push(Effect::Tell(TreeEvent::Escalated {
            path,
            why: why.clone(),
        }));
        self.nodes[supervisor].phase = Phase::stopping(Some(ExitReason::Escalated(why.clone())));
        if supervisor == ROOT {
            self.ending
                .get_or_insert(crate::TreeExit::Escalated { why });
        }
    }
}

/// True when it is quarantined or about to be.
fn is_out(node: &Node) -> bool {
    matches!(node.phase, Phase::Quarantined) || node.hold.is_some()
}
