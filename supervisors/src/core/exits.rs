//! What follows from a child's end.

use std::{sync::Arc, time::Duration};

use super::{Core, Effect, Ix, ROOT, node::Phase};
use crate::{ExitReason, Generation, LastExit, Restart, TreeEvent, TreeExit, Window};

impl Core {
    /// An actor has been dropped: the current generation's, or a zombie that came back.
    pub(super) fn on_report(
        &mut self,
        node: Ix,
        generation: Generation,
        reason: ExitReason,
        now: Duration,
    ) {
        if self.zombies.remove(&(node, generation)) {
            let event = TreeEvent::ZombieReturned {
                path: Arc::clone(&self.nodes[node].path),
                generation,
                zombies: self.zombies.len(),
            };
            self.effects.push(Effect::Tell(event));
        } else if self.is_current(node, generation) {
            self.on_exit(node, reason, now);
        }
    }

    fn is_current(&self, node: Ix, generation: Generation) -> bool {
        self.nodes[node].generation == generation && self.nodes[node].phase.is_up()
    }

    pub(super) fn on_stuck(
        &mut self,
        node: Ix,
        generation: Generation,
        age: Duration,
        now: Duration,
    ) {
        let running = matches!(self.nodes[node].phase, Phase::Running);
        // A child that starts or stops may take as long as its start or shutdown limit says.
        if self.is_current(node, generation) && running {
            self.abandon(node);
            self.on_exit(node, ExitReason::Stuck(age), now);
        }
    }

    /// Restarted like after a failure, but not counted: the neighbour was at fault.
    pub(super) fn on_thread_lost(&mut self, node: Ix, generation: Generation, now: Duration) {
        if self.is_current(node, generation) {
            self.mark_group(node);
            let lost = &mut self.nodes[node];
            lost.halt = true;
            lost.wanted &= lost.rules.restart != Restart::Temporary;
            self.on_exit(node, ExitReason::Killed, now);
        }
    }

    fn abandon(&mut self, node: Ix) {
        let generation = self.nodes[node].generation;
        self.zombies.insert((node, generation));
        self.effects.push(Effect::Abandon { node, generation });
        let zombies = self.zombies.len();
        let event = TreeEvent::ThreadAbandoned {
            path: Arc::clone(&self.nodes[node].path),
            generation,
            zombies,
        };
        self.effects.push(Effect::Tell(event));
        if zombies > self.settings.zombies_max {
            let limit = self.settings.zombies_max;
            self.end_with(TreeExit::TooManyZombies { zombies, limit });
        }
    }

    pub(super) fn on_tick(&mut self, now: Duration) {
        for node in 0..self.nodes.len() {
            if self.nodes[node]
                .phase
                .until()
                .is_some_and(|until| until <= now)
            {
                self.on_deadline(node, now);
            }
        }
    }

    fn on_deadline(&mut self, node: Ix, now: Duration) {
        match self.nodes[node].phase.clone() {
            Phase::Starting { .. } => {
                let limit = self.nodes[node].rules.start_limit;
                self.nodes[node].failed_starts = self.nodes[node].failed_starts.saturating_add(1);
                let verdict = ExitReason::StartFailed(format!("not started within {limit:?}"));
                self.kill(node, Some(verdict), now);
            }
            Phase::Stopping {
                killed: false,
                verdict,
                ..
            } => self.kill(node, verdict, now),
            Phase::Stopping { killed: true, .. } => {
                self.abandon(node);
                self.on_exit(node, ExitReason::Killed, now);
            }
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Running | Phase::Quarantined => {}
        }
    }

    fn kill(&mut self, node: Ix, verdict: Option<ExitReason>, now: Duration) {
        let generation = self.nodes[node].generation;
        self.effects.push(Effect::Kill { node, generation });
        self.nodes[node].phase = Phase::Stopping {
            until: Some(now.saturating_add(self.settings.kill_grace)),
            killed: true,
            verdict,
        };
    }

    /// The current generation of `node` is gone.
    pub(super) fn on_exit(&mut self, node: Ix, reported: ExitReason, now: Duration) {
        let asked = self.was_asked(node);
        let current = &mut self.nodes[node];
        let reason = match std::mem::replace(&mut current.phase, Phase::Stopped) {
            Phase::Stopping {
                verdict: Some(verdict),
                ..
            } => verdict,
            Phase::Starting { .. } => {
                current.failed_starts = current.failed_starts.saturating_add(1);
                reported
            }
            _ => reported,
        };
        current.halt = false;
        self.note_exit(node, &reason, now);
        if node == ROOT {
            self.ended = true;
        } else if let Some(why) = self.nodes[node].hold.take() {
            self.quarantine(node, why);
        } else if matches!(reason, ExitReason::Corrupt(_)) {
            self.quarantine(node, "its stored data is corrupt".to_owned());
        } else if !asked {
            self.judge(node, &reason, now);
        }
    }

    /// True when the supervisor wanted this generation gone.
    fn was_asked(&self, node: Ix) -> bool {
        let unwanted = self.nodes[node]
            .parent
            .is_some_and(|supervisor| !self.may_run(supervisor, node));
        unwanted || self.nodes[node].halt
    }

    fn note_exit(&mut self, node: Ix, reason: &ExitReason, now: Duration) {
        let started = self.settings.started_unix_ms;
        let current = &mut self.nodes[node];
        let elapsed_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        current.last_exit = Some(LastExit {
            class: reason.class().to_owned(),
            text: Some(reason.to_string()),
            at_ms: started.saturating_add(elapsed_ms),
        });
        let since = current.running_since.take().unwrap_or(now);
        let event = TreeEvent::ChildExited {
            path: Arc::clone(&current.path),
            generation: current.generation,
            reason: reason.clone(),
            uptime: now.saturating_sub(since),
        };
        self.effects.push(Effect::Tell(event));
    }

    /// A child that ended by itself: restarted, finished, quarantined, or its supervisor's problem.
    fn judge(&mut self, node: Ix, reason: &ExitReason, now: Duration) {
        let Some(supervisor) = self.nodes[node].parent else {
            return;
        };
        let wants_restart = match self.nodes[node].rules.restart {
            Restart::Permanent => true,
            Restart::Transient => !reason.is_normal(),
            Restart::Temporary => false,
        };
        if !wants_restart {
            self.nodes[node].wanted = false;
        } else if let Some(why) = self.overrun_of_child(node, reason, now) {
            self.quarantine(node, why);
        } else if let Some(why) = self.overrun_of_supervisor(supervisor, node, reason, now) {
            self.escalate(supervisor, why);
        } else {
            self.grant_restart(supervisor, node, reason.class(), now);
        }
    }

    /// The window in which a child's restarts count: its own, or the supervisor's where it has none.
    pub(super) fn window_of(&self, node: Ix) -> Window {
        let current = &self.nodes[node];
        let of_supervisor = current
            .parent
            .and_then(|supervisor| self.nodes[supervisor].supervision.as_ref())
            .map_or(current.rules.window, |supervision| supervision.window);
        if current.rules.quarantine {
            current.rules.window
        } else {
            of_supervisor
        }
    }

    fn overrun_of_child(&self, node: Ix, reason: &ExitReason, now: Duration) -> Option<String> {
        let current = &self.nodes[node];
        let window = self.window_of(node);
        let used_up = current.restarts.count(window, now) >= window.max_restarts
            || current.failed_starts > window.max_restarts;
        (current.rules.quarantine && used_up).then(|| overrun(window, reason.class()))
    }

    fn overrun_of_supervisor(
        &self,
        supervisor: Ix,
        node: Ix,
        reason: &ExitReason,
        now: Duration,
    ) -> Option<String> {
        let supervision = self.nodes[supervisor].supervision.as_ref()?;
        let window = supervision.window;
        let current = &self.nodes[node];
        let never_starts = !current.rules.quarantine && current.failed_starts > window.max_restarts;
        let used_up =
            supervision.restarts.count(window, now) >= window.max_restarts || never_starts;
        used_up.then(|| overrun(window, &format!("{} {reason}", current.path)))
    }

    fn grant_restart(&mut self, supervisor: Ix, node: Ix, reason: &'static str, now: Duration) {
        let window = self.window_of(node);
        let draw = self.draw();
        let current = &mut self.nodes[node];
        let nth = current.restarts.count(window, now);
        let pause = current.rules.backoff.jittered(nth, draw);
        current.restarts.record(window, now);
        current.phase = Phase::BackingOff {
            until: now.saturating_add(pause),
        };
        let path = Arc::clone(&current.path);
        self.effects.push(Effect::Tell(TreeEvent::ChildRestarting {
            path,
            reason,
            pause,
        }));
        if let Some(supervision) = &mut self.nodes[supervisor].supervision {
            supervision.restarts.record(supervision.window, now);
        }
        self.mark_group(node);
    }

    pub(super) fn quarantine(&mut self, node: Ix, why: String) {
        let current = &mut self.nodes[node];
        current.phase = Phase::Quarantined;
        current.quarantined_because = Some(why.clone());
        let path = Arc::clone(&current.path);
        self.effects
            .push(Effect::Tell(TreeEvent::ChildQuarantined { path, why }));
    }
}

fn overrun(window: Window, last: &str) -> String {
    let Window {
        max_restarts,
        within,
    } = window;
    format!("more than {max_restarts} restarts within {within:?}, last exit: {last}")
}
