use blyan_supervisors::ExitReason;

use crate::audit::{Action, Cause, RecordOutcome};

use super::orchestrator::{SELF, entry};
use super::{Component, Effect, Indicator, Orchestrator, Report, Standing, Step, serves_without};

/// Components whose stuck reports are remembered.
const STUCK_PATHS_MAX: usize = 1_024;

impl Orchestrator {
    /// Follows the rules of SEC-09, 21 and 22.
    pub fn report(&mut self, report: &Report, components: &[Component], now_ms: u64) -> Step {
        let mut step = Step::default();
        match report {
            Report::Exited { path, reason } => {
                self.exited(path, reason, components, now_ms, &mut step)
            }
            Report::TakenOut { path, why } => {
                self.quarantine(path, Cause::Window, why, now_ms, &mut step);
            }
            Report::Corrupt { path, what } => {
                self.quarantine(path, Cause::Corrupt, what, now_ms, &mut step);
                self.count(
                    Indicator::ExpertTamperingDetected,
                    path,
                    what,
                    now_ms,
                    &mut step,
                );
            }
            Report::VerificationFailed { path, what } => {
                self.quarantine(path, Cause::Tampering, what, now_ms, &mut step);
                self.count(
                    Indicator::ExpertTamperingDetected,
                    path,
                    what,
                    now_ms,
                    &mut step,
                );
            }
            Report::GenesisMismatch { path, what } => {
                self.quarantine(path, Cause::Tampering, what, now_ms, &mut step);
                self.count(
                    Indicator::GenesisIntegrityFailures,
                    path,
                    what,
                    now_ms,
                    &mut step,
                );
            }
            Report::Stuck { path, what } => {
                self.stuck(path, what, components, now_ms, &mut step);
            }
            Report::Denied { who, what } => self.denied(who, what, now_ms, &mut step),
            Report::Administered {
                who,
                action,
                subject,
                reason,
                outcome,
            } => {
                let mut done = entry(*action, subject, who, now_ms);
                reason.clone_into(&mut done.reason);
                done.outcome = *outcome;
                step.entries.push(done);
            }
            Report::UnusualUpload { who, what } => {
                self.count(
                    Indicator::UnusualUploadPatterns,
                    who,
                    what,
                    now_ms,
                    &mut step,
                );
            }
        }
        step
    }

    /// The tree restarts what panics or fails, and takes out what does so too often; damaged data and frozen
    /// components are the orchestrator's too.
    fn exited(
        &mut self,
        path: &str,
        reason: &ExitReason,
        components: &[Component],
        now_ms: u64,
        step: &mut Step,
    ) {
        match reason {
            ExitReason::Corrupt(what) => self.quarantine(path, Cause::Corrupt, what, now_ms, step),
            ExitReason::Stuck(_) => self.stuck(path, &reason.to_string(), components, now_ms, step),
            _ => {}
        }
    }

    /// A suspicion only: it never takes the last one that serves.
    fn stuck(
        &mut self,
        path: &str,
        what: &str,
        components: &[Component],
        now_ms: u64,
        step: &mut Step,
    ) {
        let (max, window_ms) = (self.rules.stuck_max, self.rules.stuck_window_ms);
        self.stuck
            .retain(|_, window| window.count(now_ms, window_ms) > 0);
        if self.stuck.len() >= STUCK_PATHS_MAX && !self.stuck.contains_key(path) {
            return;
        }
        let window = self.stuck.entry(path.to_owned()).or_default();
        if window.add(now_ms, window_ms) < max {
            return;
        }
        self.stuck.remove(path);
        let why = format!("stuck {max} times; lastly: {what}");
        if serves_without(components, path) {
            self.quarantine(path, Cause::Stuck, &why, now_ms, step);
        } else if *self.standings.get(path) == Standing::Healthy {
            let mut refused = entry(Action::Quarantine, path, SELF, now_ms);
            refused.outcome = RecordOutcome::Refused;
            refused.cause = Some(Cause::Stuck);
            refused.reason = format!("nothing would be left that serves; {why}");
            step.entries.push(refused);
        }
    }

    /// Takes a component out by rule. One that is out stays as it is, unless this cause asks for a verification that
    /// the one before did not. What the tree took out along with something above it comes back with that.
    pub(super) fn quarantine(
        &mut self,
        path: &str,
        cause: Cause,
        why: &str,
        now_ms: u64,
        step: &mut Step,
    ) {
        let along = cause == Cause::Window && self.standings.above(path).is_some();
        if along || self.is_own(path) {
            return;
        }
        let standing = self.standings.get(path);
        let before = standing.quarantine();
        let graver = cause.needs_verification()
            && (matches!(standing, Standing::Probing(_))
                || before.is_some_and(|before| !before.needs_verification));
        if before.is_some() && !graver {
            return;
        }
        let mut entry = entry(Action::Quarantine, path, SELF, now_ms);
        entry.cause = Some(cause);
        why.clone_into(&mut entry.reason);
        entry.next_probe_ms = match before {
            None => Some(now_ms.saturating_add(self.rules.pause_ms(0))),
            Some(before) => before.next_probe_ms.map(|_| {
                now_ms.saturating_add(self.rules.pause_ms(before.attempts.saturating_add(1)))
            }),
        };
        let new = before.is_none();
        step.entries.push(entry);
        step.effects.push(Effect::Quarantine {
            path: path.to_owned(),
            reason: why.to_owned(),
        });
        if new {
            self.count(Indicator::NodeQuarantineEvents, path, why, now_ms, step);
        }
    }

    fn denied(&mut self, who: &str, what: &str, now_ms: u64, step: &mut Step) {
        if self.denied.take(now_ms, self.rules.denied_records_max) {
            let mut refused = entry(Action::Denied, what, who, now_ms);
            refused.outcome = RecordOutcome::Refused;
            step.entries.push(refused);
        }
        self.count(Indicator::FailedAuthAttempts, who, what, now_ms, step);
    }

    pub(super) fn settle_denied(&mut self, now_ms: u64, step: &mut Step) {
        if let Some(count) = self.denied.settle(now_ms) {
            let mut refused = entry(Action::Denied, super::NODE, SELF, now_ms);
            refused.outcome = RecordOutcome::Refused;
            refused.reason = format!("{count} more tries within a minute");
            step.entries.push(refused);
        }
    }
}
