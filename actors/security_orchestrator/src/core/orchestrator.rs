use std::collections::BTreeMap;

use crate::audit::{Action, Cause, Entry, RecordOutcome};

use super::denied::DeniedBudget;
use super::indicators::{IndicatorState, Indicators, Window};
use super::{Component, Effect, Indicator, NODE, Standing, Standings, Step, is_within};

/// Who decided what no person did.
pub(super) const SELF: &str = "orchestrator";

/// The numbers that the rules go by; see [`SecurityConfig`](crate::SecurityConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// First pause before a recovery by rule, in milliseconds.
    pub probe_after_ms: u64,
    /// Longest such pause.
    pub probe_after_max_ms: u64,
    /// Stuck reports that quarantine.
    pub stuck_max: usize,
    /// Within so many milliseconds.
    pub stuck_window_ms: u64,
    /// Refused tries with a record of their own within a minute.
    pub denied_records_max: u32,
}

impl Rules {
    /// The pause before the recovery that follows `attempts` failed ones: it doubles each time.
    pub fn pause_ms(&self, attempts: u32) -> u64 {
        let factor = 1_u64.checked_shl(attempts).unwrap_or(u64::MAX);
        self.probe_after_ms
            .saturating_mul(factor)
            .min(self.probe_after_max_ms)
    }
}

/// The rules with what they go by. Inputs return a [`Step`]; the caller makes its entries durable, gives each to
/// [`apply`](Self::apply), and carries out the rest.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    pub(super) rules: Rules,
    own_path: String,
    pub(super) standings: Standings,
    pub(super) indicators: Indicators,
    pub(super) stuck: BTreeMap<String, Window>,
    pub(super) denied: DeniedBudget,
}

impl Orchestrator {
    /// Before any entry: all components are healthy. `own_path` is the one that no rule and no order takes out.
    pub fn new(rules: Rules, own_path: impl Into<String>) -> Self {
        Self {
            rules,
            own_path: own_path.into(),
            standings: Standings::default(),
            indicators: Indicators::default(),
            stuck: BTreeMap::new(),
            denied: DeniedBudget::default(),
        }
    }

    /// Whether taking `path` out would take out what decides. [`NODE`] is what serves, not what decides.
    pub(super) fn is_own(&self, path: &str) -> bool {
        path != NODE && is_within(&self.own_path, path)
    }

    /// Follows an entry that is durable, in the order of the log.
    pub fn apply(&mut self, entry: &Entry) {
        self.standings.apply(entry);
    }

    /// How all components stand.
    pub const fn standings(&self) -> &Standings {
        &self.standings
    }

    /// The indicators of SEC-21.
    pub fn indicators(&mut self, now_ms: u64) -> Vec<IndicatorState> {
        self.indicators.states(now_ms)
    }

    /// What a generation does first: what was quarantined is taken out again, and a recovery that was cut short has
    /// failed.
    pub fn start(&self, now_ms: u64) -> Step {
        let mut step = Step::default();
        for (path, standing) in self.standings.iter() {
            match standing {
                Standing::Healthy => {}
                Standing::Quarantined(quarantine) => step.effects.push(Effect::Quarantine {
                    path: path.to_owned(),
                    reason: quarantine.reason.clone(),
                }),
                Standing::Probing(_) => {
                    let why = "the orchestrator was restarted during the recovery";
                    self.fail_probe(path, why, now_ms, &mut step);
                }
            }
        }
        step
    }

    /// How one try to bring a component back went. Where somebody decided otherwise meanwhile, that holds.
    pub fn probed(&self, path: &str, who: &str, result: Result<(), &str>, now_ms: u64) -> Step {
        let mut step = Step::default();
        match (self.standings.get(path), result) {
            (Standing::Probing(_), Ok(())) => {
                let mut entry = entry(Action::Recover, path, who, now_ms);
                "the recovery went well".clone_into(&mut entry.reason);
                step.entries.push(entry);
            }
            (Standing::Probing(_), Err(why)) => self.fail_probe(path, why, now_ms, &mut step),
            (Standing::Quarantined(quarantine), _) => step.effects.push(Effect::Quarantine {
                path: path.to_owned(),
                reason: quarantine.reason.clone(),
            }),
            (Standing::Healthy, _) => {}
        }
        step
    }

    /// That a failover did not end well.
    pub fn failover_failed(&self, path: &str, who: &str, why: &str, now_ms: u64) -> Step {
        let mut entry = entry(Action::Failover, path, who, now_ms);
        entry.outcome = RecordOutcome::Failed;
        why.clone_into(&mut entry.reason);
        Step {
            entries: vec![entry],
            ..Step::default()
        }
    }

    fn fail_probe(&self, path: &str, why: &str, now_ms: u64, step: &mut Step) {
        let Some(before) = self.standings.get(path).quarantine() else {
            return;
        };
        let mut entry = entry(Action::Quarantine, path, SELF, now_ms);
        entry.cause = Some(before.cause);
        entry.reason = format!("the recovery failed: {why}");
        // An admin's quarantine has no time: nobody but an admin tries again.
        entry.next_probe_ms = before.next_probe_ms.map(|_| {
            let attempts = before.attempts.saturating_add(1);
            now_ms.saturating_add(self.rules.pause_ms(attempts))
        });
        step.effects.push(Effect::Quarantine {
            path: path.to_owned(),
            reason: entry.reason.clone(),
        });
        step.entries.push(entry);
    }

    /// Looks at the clock and at the tree: recoveries that are due begin, what the tree took out by itself is written
    /// down, and what should be out of service and is not is taken out again.
    pub fn tick(&mut self, components: &[Component], now_ms: u64) -> Step {
        let mut step = Step::default();
        for component in components {
            match self.standings.get(&component.path) {
                // The tree never takes the node as a whole out by itself.
                Standing::Healthy if component.quarantined && component.path != NODE => {
                    let why = "the tree took it out";
                    self.quarantine(&component.path, Cause::Window, why, now_ms, &mut step);
                }
                Standing::Quarantined(quarantine) if !component.quarantined => {
                    step.effects.push(Effect::Quarantine {
                        path: component.path.clone(),
                        reason: quarantine.reason.clone(),
                    });
                }
                _ => {}
            }
        }
        // Before there is a tree every recovery would fail and be put off for longer.
        if !components.is_empty() {
            self.begin_due_probes(now_ms, &mut step);
        }
        self.settle_denied(now_ms, &mut step);
        step
    }

    fn begin_due_probes(&self, now_ms: u64, step: &mut Step) {
        for (path, standing) in self.standings.iter() {
            if let Standing::Quarantined(quarantine) = standing
                && quarantine.next_probe_ms.is_some_and(|at| at <= now_ms)
            {
                begin_probe(path, SELF, quarantine.needs_verification, now_ms, step);
            }
        }
    }

    /// Counts an event, and alerts if it crosses its threshold.
    pub(super) fn count(
        &mut self,
        indicator: Indicator,
        subject: &str,
        text: &str,
        now_ms: u64,
        step: &mut Step,
    ) {
        let Some(count) = self.indicators.add(indicator, now_ms) else {
            return;
        };
        let mut entry = entry(Action::Alert, subject, SELF, now_ms);
        entry.reason = format!("{}: {count}; {text}", indicator.as_str());
        step.entries.push(entry);
        step.alerts.push(super::Alert {
            at_ms: now_ms,
            indicator,
            count,
            subject: subject.to_owned(),
            text: text.to_owned(),
        });
    }
}

/// An entry that holds, without a reason yet.
pub(super) fn entry(action: Action, subject: &str, who: &str, now_ms: u64) -> Entry {
    Entry {
        at_ms: now_ms,
        who: who.to_owned(),
        action,
        subject: subject.to_owned(),
        reason: String::new(),
        outcome: RecordOutcome::Done,
        cause: None,
        next_probe_ms: None,
    }
}

/// Writes down that one try begins, and makes it.
pub(super) fn begin_probe(path: &str, who: &str, verify: bool, now_ms: u64, step: &mut Step) {
    step.entries.push(entry(Action::Probe, path, who, now_ms));
    step.effects.push(Effect::Probe {
        path: path.to_owned(),
        verify,
        who: who.to_owned(),
    });
}
