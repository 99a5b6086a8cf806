use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_within;
use crate::audit::{Action, Cause, Entry, RecordOutcome};

/// Why a component is out of service, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when, through all failed recoveries; milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// Why, lastly.
    pub cause: Cause,
    /// In words.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// When the orchestrator tries a recovery; `None`: only when an admin asks for one.
    pub next_probe_ms: Option<u64>,
    /// Recoveries that failed.
    pub attempts: u32,
    /// Only a full verification lifts it, whatever else it is quarantined for.
    pub needs_verification: bool,
}

/// How a component stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing speaks against it.
    Healthy,
    /// Out of service.
    Quarantined(Quarantine),
    /// One try to bring it back runs; until it has gone well, it is out of service.
    Probing(Quarantine),
}

impl Standing {
    /// The quarantine that holds or is being lifted.
    pub const fn quarantine(&self) -> Option<&Quarantine> {
        match self {
            Self::Healthy => None,
            Self::Quarantined(quarantine) | Self::Probing(quarantine) => Some(quarantine),
        }
    }
}

/// How all components stand: what the audit log says, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings(BTreeMap<String, Standing>);

impl Standings {
    /// How one stands.
    pub fn of(&self, path: &str) -> Standing {
        self.0.get(path).cloned().unwrap_or(Standing::Healthy)
    }

    pub(super) fn get(&self, path: &str) -> &Standing {
        self.0.get(path).unwrap_or(&Standing::Healthy)
    }

    /// Those that are not healthy, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.0
            .iter()
            .map(|(path, standing)| (path.as_str(), standing))
    }

    /// The path above `path` that is out of service and takes `path` along.
    pub(super) fn above(&self, path: &str) -> Option<&str> {
        let mut above = self.0.keys().filter(|of| *of != path);
        above.find(|of| is_within(path, of)).map(String::as_str)
    }

    /// Follows a durable entry. Entries that changed nothing when they were made change nothing here.
    pub fn apply(&mut self, entry: &Entry) {
        if entry.outcome != RecordOutcome::Done {
            return;
        }
        match entry.action {
            Action::Quarantine => self.quarantine(entry),
            Action::Probe => self.probe(&entry.subject),
            Action::Recover => drop(self.0.remove(&entry.subject)),
            Action::Failover
            | Action::Alert
            | Action::Denied
            | Action::TailCut
            | Action::Grant
            | Action::Adopt
            | Action::Rollback => {}
        }
    }

    fn quarantine(&mut self, entry: &Entry) {
        let cause = entry.cause.unwrap_or(Cause::Operator);
        let before = self.0.remove(&entry.subject).unwrap_or(Standing::Healthy);
        let was_probing = matches!(before, Standing::Probing(_));
        let before = before.quarantine();
        let quarantine = Quarantine {
            since_ms: before.map_or(entry.at_ms, |before| before.since_ms),
            cause,
            reason: entry.reason.clone(),
            by: entry.who.clone(),
            next_probe_ms: entry.next_probe_ms,
            attempts: before.map_or(0, |before| {
                before.attempts.saturating_add(u32::from(was_probing))
            }),
            needs_verification: cause.needs_verification()
                || before.is_some_and(|before| before.needs_verification),
        };
        self.0
            .insert(entry.subject.clone(), Standing::Quarantined(quarantine));
    }

    fn probe(&mut self, path: &str) {
        if let Some(standing) = self.0.get_mut(path)
            && let Standing::Quarantined(quarantine) = standing
        {
            *standing = Standing::Probing(quarantine.clone());
        }
    }
}
