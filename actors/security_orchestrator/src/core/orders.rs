use crate::audit::{Action, Cause, Entry, RecordOutcome};

use super::orchestrator::{begin_probe, entry};
use super::{
    Component, Decision, Effect, Indicator, NODE, Orchestrator, Order, Refusal, Standing, Step,
    is_within, serves_without,
};

/// What an order comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds once the step's effects are carried out.
    Carry,
    /// It was so before.
    Unchanged,
    /// A rule forbids it.
    Refused(Refusal),
}

impl Orchestrator {
    /// Rules on what an admin asks for. Each order is written down, also one that is refused or changes nothing.
    pub fn order(
        &mut self,
        order: &Order,
        components: &[Component],
        now_ms: u64,
    ) -> (Step, Verdict) {
        let mut step = Step::default();
        let verdict = match self.rule(order, components) {
            Ok(true) => {
                self.carry(order, now_ms, &mut step);
                Verdict::Carry
            }
            Ok(false) => {
                let unchanged = order_entry(order, RecordOutcome::Unchanged, now_ms);
                step.entries.push(unchanged);
                Verdict::Unchanged
            }
            Err(refusal) => {
                let mut refused = order_entry(order, RecordOutcome::Refused, now_ms);
                refused.reason = format!("{refusal}; {}", order.reason);
                step.entries.push(refused);
                Verdict::Refused(refusal)
            }
        };
        (step, verdict)
    }

    /// Whether an allowed order changes anything.
    fn rule(&self, order: &Order, components: &[Component]) -> Result<bool, Refusal> {
        let path = &order.path;
        let standing = self.standings.get(path);
        let known = components
            .iter()
            .any(|component| is_within(&component.path, path));
        if !known && *standing == Standing::Healthy {
            return Err(Refusal::Unknown(path.clone()));
        }
        if order.decision != Decision::Recover && self.is_own(path) {
            return Err(Refusal::Decides(path.clone()));
        }
        let above = self.standings.above(path);
        if let Some(above) = above.filter(|_| order.decision != Decision::Quarantine) {
            return Err(Refusal::Quarantined(above.to_owned()));
        }
        // The tree may know of a quarantine that has not been reported yet; the node as a whole is out by decision alone.
        let out = components.iter().any(|component| {
            component.path == *path && component.quarantined && component.path != NODE
        });
        match (order.decision, standing) {
            (Decision::Quarantine, Standing::Healthy) => {
                if !out && !order.force && !serves_without(components, path) {
                    return Err(Refusal::NothingWouldServe(path.clone()));
                }
                Ok(true)
            }
            // By rule it would be recovered by rule: an admin's word takes that away.
            (Decision::Quarantine, Standing::Quarantined(quarantine)) => {
                Ok(quarantine.next_probe_ms.is_some())
            }
            (Decision::Quarantine, Standing::Probing(_)) => Ok(true),
            (Decision::Recover, Standing::Healthy) => Ok(out),
            (Decision::Recover, Standing::Quarantined(_)) => Ok(true),
            (Decision::Recover, Standing::Probing(_)) => Ok(false),
            (Decision::Failover, Standing::Healthy) if !out => Ok(true),
            (Decision::Failover, _) => Err(Refusal::Quarantined(path.clone())),
        }
    }

    fn carry(&mut self, order: &Order, now_ms: u64, step: &mut Step) {
        let (path, who) = (&order.path, &order.who);
        match order.decision {
            Decision::Quarantine => self.carry_quarantine(order, now_ms, step),
            Decision::Recover => {
                let quarantine = self.standings.get(path).quarantine();
                let verify = quarantine.is_some_and(|quarantine| quarantine.needs_verification);
                if quarantine.is_none() {
                    let mut found =
                        entry(Action::Quarantine, path, super::orchestrator::SELF, now_ms);
                    found.cause = Some(Cause::Window);
                    "the tree took it out".clone_into(&mut found.reason);
                    found.next_probe_ms = Some(now_ms);
                    step.entries.push(found);
                }
                begin_probe(path, who, verify, now_ms, step);
                if let Some(probe) = step.entries.last_mut() {
                    order.reason.clone_into(&mut probe.reason);
                }
            }
            Decision::Failover => {
                step.entries
                    .push(order_entry(order, RecordOutcome::Done, now_ms));
                step.effects.push(Effect::Failover {
                    path: path.clone(),
                    who: who.clone(),
                });
            }
        }
    }

    fn carry_quarantine(&mut self, order: &Order, now_ms: u64, step: &mut Step) {
        let path = &order.path;
        let new = *self.standings.get(path) == Standing::Healthy;
        let mut entry = order_entry(order, RecordOutcome::Done, now_ms);
        entry.cause = Some(Cause::Operator);
        step.entries.push(entry);
        step.effects.push(Effect::Quarantine {
            path: path.clone(),
            reason: order.reason.clone(),
        });
        if new {
            let text = "quarantined by an admin";
            self.count(Indicator::NodeQuarantineEvents, path, text, now_ms, step);
        }
    }
}

fn order_entry(order: &Order, outcome: RecordOutcome, now_ms: u64) -> Entry {
    let action = match order.decision {
        Decision::Quarantine => Action::Quarantine,
        Decision::Recover => Action::Recover,
        Decision::Failover => Action::Failover,
    };
    let mut entry = entry(action, &order.path, &order.who, now_ms);
    order.reason.clone_into(&mut entry.reason);
    entry.outcome = outcome;
    entry
}
