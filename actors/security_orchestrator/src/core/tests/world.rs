//! A node whose log is a list and whose tree does at once what it is told.

use crate::audit::{Entry, RecordOutcome};
use crate::core::{
    Component, Decision, Effect, Orchestrator, Order, Report, Rules, Standing, Step, Verdict,
};

pub const MINUTE_MS: u64 = 60_000;
pub const ONE: &str = "serving/replicas/inference-1";
pub const TWO: &str = "serving/replicas/inference-2";
pub const CHAIN: &str = "storage/chain";

pub const SECURITY: &str = "security";

pub const RULES: Rules = Rules {
    probe_after_ms: 5 * MINUTE_MS,
    probe_after_max_ms: 60 * MINUTE_MS,
    stuck_max: 3,
    stuck_window_ms: 60 * MINUTE_MS,
    denied_records_max: 20,
};

pub struct World {
    pub core: Orchestrator,
    pub log: Vec<Entry>,
    pub components: Vec<Component>,
    pub now_ms: u64,
}

fn component(path: &str, serves: bool, needed: bool) -> Component {
    Component {
        path: path.to_owned(),
        serves,
        needed,
        quarantined: false,
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            core: Orchestrator::new(RULES, SECURITY),
            log: Vec::new(),
            components: vec![
                component(SECURITY, false, true),
                component(CHAIN, false, true),
                component("serving/expert_cache", false, true),
                component(ONE, true, false),
                component(TWO, true, false),
            ],
            now_ms: 1_000_000,
        }
    }

    /// Makes a step durable and does to the tree what it says; recoveries are left to the test.
    pub fn follow(&mut self, step: Step) -> Step {
        for entry in &step.entries {
            self.log.push(entry.clone());
            self.core.apply(entry);
        }
        for effect in &step.effects {
            if let Effect::Quarantine { path, .. } = effect {
                self.set_out(path, true);
            }
        }
        step
    }

    pub fn set_out(&mut self, path: &str, out: bool) {
        let found = self.components.iter_mut();
        for component in found.filter(|component| component.path == path) {
            component.quarantined = out;
            component.serves = !out && path.contains("inference");
        }
    }

    pub fn report(&mut self, report: Report) -> Step {
        let step = self.core.report(&report, &self.components, self.now_ms);
        self.follow(step)
    }

    pub fn order_with(&mut self, decision: Decision, path: &str, force: bool) -> (Step, Verdict) {
        let order = Order {
            decision,
            path: path.to_owned(),
            who: "admin".to_owned(),
            reason: "because".to_owned(),
            force,
        };
        let (step, verdict) = self.core.order(&order, &self.components, self.now_ms);
        (self.follow(step), verdict)
    }

    pub fn order(&mut self, decision: Decision, path: &str) -> (Step, Verdict) {
        self.order_with(decision, path, false)
    }

    pub fn tick_after(&mut self, pause_ms: u64) -> Step {
        self.now_ms += pause_ms;
        let step = self.core.tick(&self.components, self.now_ms);
        self.follow(step)
    }

    pub fn probed(&mut self, path: &str, result: Result<(), &str>) -> Step {
        let step = self.core.probed(path, "somebody", result, self.now_ms);
        if result.is_ok() && step.effects.is_empty() {
            self.set_out(path, false);
        }
        self.follow(step)
    }

    pub fn standing(&self, path: &str) -> Standing {
        self.core.standings().of(path)
    }

    pub fn is_out(&self, path: &str) -> bool {
        self.standing(path) != Standing::Healthy
    }

    /// What a new generation finds in the log.
    pub fn replayed(&self) -> Orchestrator {
        let mut core = Orchestrator::new(RULES, SECURITY);
        self.log.iter().for_each(|entry| core.apply(entry));
        core
    }

    pub fn last_outcome(&self) -> RecordOutcome {
        self.log.last().expect("an entry").outcome
    }
}

pub fn corrupt(path: &str) -> Report {
    Report::Corrupt {
        path: path.to_owned(),
        what: "layer4.expert7 fails its hash".to_owned(),
    }
}

pub fn taken_out(path: &str) -> Report {
    Report::TakenOut {
        path: path.to_owned(),
        why: "3 restarts in 60 s".to_owned(),
    }
}

pub fn stuck(path: &str) -> Report {
    Report::Stuck {
        path: path.to_owned(),
        what: "9 s in one step".to_owned(),
    }
}
