//! What a run came to, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Outcome;
use crate::scenario::{Scenario, Thresholds};

/// Longer times count as an hour.
const HOUR_US: u64 = 3_600_000_000;

/// Milliseconds at four points of a distribution.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Spread {
    pub count: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// The report of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub requests: u64,
    pub answered: u64,
    pub cancelled: u64,
    pub tokens: u64,
    pub tokens_per_second: f64,
    pub errors: BTreeMap<String, u64>,
    pub faults: BTreeMap<String, u64>,
    pub first_token: Spread,
    pub token_gap: Spread,
    pub total: Spread,
    /// Thresholds that were broken, in words; empty when the run is good.
    pub broken: Vec<String>,
}

impl Report {
    /// Adds up `outcomes` and holds them against the scenario's thresholds.
    pub fn new(scenario: &Scenario, outcomes: &[Outcome]) -> Self {
        let tokens = outcomes.iter().map(|o| o.tokens).sum();
        let good = || outcomes.iter().filter(|o| o.error.is_none());
        let mut report = Self {
            scenario: scenario.name.clone(),
            requests: outcomes.len() as u64,
            answered: good().filter(|o| !o.cancelled).count() as u64,
            cancelled: good().filter(|o| o.cancelled).count() as u64,
            tokens,
            tokens_per_second: tokens as f64 / scenario.load.duration_seconds,
            errors: count(outcomes.iter().filter_map(|o| o.error.as_ref())),
            faults: count(outcomes.iter().flat_map(|o| &o.faults)),
            first_token: spread(outcomes.iter().filter_map(|o| o.first_token)),
            token_gap: spread(outcomes.iter().flat_map(|o| o.gaps.iter().copied())),
            total: spread(good().map(|o| o.total)),
            broken: Vec::new(),
        };
        report.broken = report.judge(&scenario.thresholds);
        report
    }

    /// The report as one JSON object.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    fn judge(&self, limits: &Thresholds) -> Vec<String> {
        let errors: u64 = self.errors.values().sum();
        let faults: u64 = self.faults.values().sum();
        let percent = 100.0 * errors as f64 / (self.requests.max(1)) as f64;
        let measured = [
            ("errors_percent_max", limits.errors_percent_max, percent),
            (
                "faults_max",
                limits.faults_max.map(|n| n as f64),
                faults as f64,
            ),
            (
                "first_token_ms_p95_max",
                limits.first_token_ms_p95_max,
                self.first_token.p95_ms,
            ),
            (
                "token_gap_ms_p95_max",
                limits.token_gap_ms_p95_max,
                self.token_gap.p95_ms,
            ),
            (
                "total_ms_p95_max",
                limits.total_ms_p95_max,
                self.total.p95_ms,
            ),
        ];
        let mut broken: Vec<String> = measured
            .into_iter()
            .filter_map(|(name, limit, value)| {
                limit
                    .filter(|limit| value > *limit)
                    .map(|limit| format!("{name}: {value:.2} is above {limit}"))
            })
            .collect();
        if self.requests == 0 {
            broken.push("nothing was sent: raise the rate or the duration".to_owned());
        }
        broken
    }
}

fn count<'a>(words: impl Iterator<Item = &'a String>) -> BTreeMap<String, u64> {
    let mut counted = BTreeMap::new();
    for word in words {
        *counted.entry(word.clone()).or_default() += 1;
    }
    counted
}

fn spread(times: impl Iterator<Item = Duration>) -> Spread {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, HOUR_US, 3)
        .expect("one microsecond to an hour at three digits is a valid range");
    for time in times {
        histogram.saturating_record(time.as_micros().try_into().unwrap_or(u64::MAX));
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Spread {
        count: histogram.len(),
        p50_ms: at(0.50),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: histogram.max() as f64 / 1000.0,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} requests, {} answered, {} cancelled, {} tokens, {:.1} tokens/s",
            self.scenario,
            self.requests,
            self.answered,
            self.cancelled,
            self.tokens,
            self.tokens_per_second
        )?;
        writeln!(
            f,
            "{:12} {:>7} {:>10} {:>10} {:>10} {:>10}",
            "ms", "count", "p50", "p95", "p99", "max"
        )?;
        for (name, s) in [
            ("first token", self.first_token),
            ("token gap", self.token_gap),
            ("total", self.total),
        ] {
            writeln!(
                f,
                "{name:12} {:>7} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                s.count, s.p50_ms, s.p95_ms, s.p99_ms, s.max_ms
            )?;
        }
        for (what, counted) in [("error", &self.errors), ("fault", &self.faults)] {
            for (word, times) in counted {
                writeln!(f, "{what} {times}x {word}")?;
            }
        }
        for threshold in &self.broken {
            writeln!(f, "BROKEN {threshold}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        Scenario::parse(include_str!("../scenarios/smoke.toml")).unwrap()
    }

    #[test]
    fn errors_and_faults_break_the_run() {
        let good = Outcome {
            tokens: 3,
            ..Outcome::default()
        };
        assert!(
            Report::new(&scenario(), std::slice::from_ref(&good))
                .broken
                .is_empty()
        );
        let failed = Outcome {
            error: Some("overloaded".into()),
            ..Outcome::default()
        };
        let faulty = Outcome {
            faults: vec!["gap".into()],
            ..Outcome::default()
        };
        let report = Report::new(&scenario(), &[good, failed, faulty]);
        assert_eq!(report.broken.len(), 2);
        assert_eq!(report.errors["overloaded"], 1);
        assert!(report.to_string().contains("BROKEN errors_percent_max"));
    }

    #[test]
    fn a_run_without_requests_is_broken() {
        assert_eq!(Report::new(&scenario(), &[]).broken.len(), 1);
    }

    #[test]
    fn the_spread_is_in_milliseconds() {
        let s = spread((1..=100).map(Duration::from_millis));
        assert!((s.p50_ms - 50.0).abs() < 0.5 && (s.max_ms - 100.0).abs() < 0.5);
    }
}
