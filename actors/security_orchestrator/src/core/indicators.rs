use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Events of one kind that are remembered; more make no difference to any threshold.
const EVENTS_LEN_MAX: usize = 256;

const MINUTE_MS: u64 = 60_000;

/// What is counted (SEC-21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Indicator {
    /// Tries of an admin endpoint without the right to.
    FailedAuthAttempts,
    /// Uploads that do not look like contributions.
    UnusualUploadPatterns,
    /// Another genesis than the network's.
    GenesisIntegrityFailures,
    /// Weights that are not what their block binds.
    ExpertTamperingDetected,
    /// Components that were healthy and were quarantined.
    NodeQuarantineEvents,
}

impl Indicator {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::FailedAuthAttempts,
        Self::UnusualUploadPatterns,
        Self::GenesisIntegrityFailures,
        Self::ExpertTamperingDetected,
        Self::NodeQuarantineEvents,
    ];

    /// The name in SEC-21.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailedAuthAttempts => "failed_auth_attempts",
            Self::UnusualUploadPatterns => "unusual_upload_patterns",
            Self::GenesisIntegrityFailures => "genesis_integrity_failures",
            Self::ExpertTamperingDetected => "expert_tampering_detected",
            Self::NodeQuarantineEvents => "node_quarantine_events",
        }
    }

    /// So many events raise an alert.
    pub const fn threshold(self) -> usize {
        match self {
            Self::FailedAuthAttempts => 10,
            Self::UnusualUploadPatterns => 50,
            Self::GenesisIntegrityFailures | Self::ExpertTamperingDetected => 1,
            Self::NodeQuarantineEvents => 3,
        }
    }

    /// Within so many milliseconds.
    pub const fn window_ms(self) -> u64 {
        match self {
            Self::FailedAuthAttempts => 5 * MINUTE_MS,
            Self::UnusualUploadPatterns | Self::NodeQuarantineEvents => 60 * MINUTE_MS,
            Self::GenesisIntegrityFailures | Self::ExpertTamperingDetected => MINUTE_MS,
        }
    }
}

/// One indicator as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndicatorState {
    /// Which.
    pub indicator: Indicator,
    /// Events within the window, counted up to 256.
    pub count: usize,
    /// [`Indicator::threshold`].
    pub threshold: usize,
    /// [`Indicator::window_ms`].
    pub window_ms: u64,
    /// Whether the threshold is reached.
    pub crossed: bool,
}

/// Times within a sliding window.
#[derive(Clone, Debug, Default)]
pub(super) struct Window(VecDeque<u64>);

impl Window {
    /// Adds an event and says how many there are.
    pub(super) fn add(&mut self, now_ms: u64, window_ms: u64) -> usize {
        self.0.push_back(now_ms);
        if self.0.len() > EVENTS_LEN_MAX {
            self.0.pop_front();
        }
        self.count(now_ms, window_ms)
    }

    /// Forgets what is older than the window and says how many are left. The edge counts as inside.
    pub(super) fn count(&mut self, now_ms: u64, window_ms: u64) -> usize {
        self.0
            .retain(|at_ms| now_ms.saturating_sub(*at_ms) <= window_ms);
        self.0.len()
    }
}

#[derive(Clone, Debug, Default)]
struct Counter {
    window: Window,
    crossed: bool,
}

/// Counts what SEC-21 names, in memory only.
#[derive(Clone, Debug, Default)]
pub(super) struct Indicators(BTreeMap<Indicator, Counter>);

impl Indicators {
    /// Counts an event; the count when it crosses the threshold. It can cross again once it has been below.
    pub(super) fn add(&mut self, indicator: Indicator, now_ms: u64) -> Option<usize> {
        self.expire(now_ms);
        let counter = self.0.entry(indicator).or_default();
        let count = counter.window.add(now_ms, indicator.window_ms());
        let crosses = !counter.crossed && count >= indicator.threshold();
        counter.crossed |= crosses;
        crosses.then_some(count)
    }

    fn expire(&mut self, now_ms: u64) {
        for (indicator, counter) in &mut self.0 {
            let count = counter.window.count(now_ms, indicator.window_ms());
            counter.crossed &= count >= indicator.threshold();
        }
    }

    pub(super) fn states(&mut self, now_ms: u64) -> Vec<IndicatorState> {
        self.expire(now_ms);
        let state = |indicator: Indicator| {
            let count = self
                .0
                .get(&indicator)
                .map_or(0, |counter| counter.window.0.len());
            IndicatorState {
                indicator,
                count,
                threshold: indicator.threshold(),
                window_ms: indicator.window_ms(),
                crossed: count >= indicator.threshold(),
            }
        };
        Indicator::ALL.map(state).to_vec()
    }
}
