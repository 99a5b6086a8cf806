//! What is sent, when, and what breaks the run.

use std::time::Duration;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

/// Arrivals of one run, at most; what is above is a mistake in the scenario.
const ARRIVALS_MAX: f64 = 100_000.0;

/// A scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// Draws arrivals and prompts.
    pub seed: u64,
    pub load: Load,
    pub mix: Vec<Mix>,
    #[serde(default)]
    pub thresholds: Thresholds,
}

/// The arrival process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub rate_per_second: f64,
    pub duration_seconds: f64,
    pub in_flight_max: usize,
    pub request_timeout_ms: u64,
}

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Http,
    Sse,
    Websocket,
}

/// One kind of request and its share.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    pub kind: Kind,
    pub weight: u32,
    pub prompts: Vec<String>,
    pub max_tokens: u32,
    #[serde(default)]
    pub temperature: f32,
    pub top_k_experts: Option<u32>,
    /// WebSocket: sends `cancel` after so many tokens. SSE: closes the connection.
    pub cancel_after_tokens: Option<u32>,
}

/// What breaks the run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub errors_percent_max: Option<f64>,
    pub faults_max: Option<u64>,
    pub first_token_ms_p95_max: Option<f64>,
    pub token_gap_ms_p95_max: Option<f64>,
    pub total_ms_p95_max: Option<f64>,
}

/// One request of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// From the start of the run.
    pub at: Duration,
    /// Index into the mix.
    pub mix: usize,
    /// Index into the mix's prompts.
    pub prompt: usize,
}

impl Scenario {
    /// Parses and checks a scenario.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        let load = &scenario.load;
        ensure!(
            load.rate_per_second > 0.0,
            "load.rate_per_second must be above 0"
        );
        ensure!(
            load.duration_seconds > 0.0,
            "load.duration_seconds must be above 0"
        );
        ensure!(load.in_flight_max > 0, "load.in_flight_max must be above 0");
        ensure!(
            load.rate_per_second * load.duration_seconds <= ARRIVALS_MAX,
            "more than {ARRIVALS_MAX} requests: lower the rate or the duration"
        );
        ensure!(
            scenario.mix.iter().any(|m| m.weight > 0),
            "at least one [[mix]] needs a weight above 0"
        );
        for mix in &scenario.mix {
            ensure!(!mix.prompts.is_empty(), "a [[mix]] has no prompts");
            ensure!(
                mix.kind != Kind::Http || mix.cancel_after_tokens.is_none(),
                "cancel_after_tokens needs a stream"
            );
        }
        Ok(scenario)
    }

    /// The arrivals, in order; the same for the same scenario.
    pub fn plan(&self) -> Vec<Arrival> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut at = 0.0;
        let mut arrivals = Vec::new();
        loop {
            at += -(1.0 - rng.random::<f64>()).ln() / self.load.rate_per_second;
            if at >= self.load.duration_seconds {
                return arrivals;
            }
            let mix = self.draw_mix(&mut rng);
            let prompt = rng.random_range(0..self.mix[mix].prompts.len());
            arrivals.push(Arrival {
                at: Duration::from_secs_f64(at),
                mix,
                prompt,
            });
        }
    }

    fn draw_mix(&self, rng: &mut StdRng) -> usize {
        let total: u32 = self.mix.iter().map(|m| m.weight).sum();
        let mut ticket = rng.random_range(0..total);
        for (index, mix) in self.mix.iter().enumerate() {
            if ticket < mix.weight {
                return index;
            }
            ticket -= mix.weight;
        }
        unreachable!("a ticket is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Scenario {
        Scenario::parse(include_str!("../scenarios/chat.toml")).unwrap()
    }

    #[test]
    fn the_shipped_scenarios_parse() {
        shipped();
        Scenario::parse(include_str!("../scenarios/smoke.toml")).unwrap();
    }

    #[test]
    fn the_plan_repeats_is_ordered_and_keeps_the_rate() {
        let mut scenario = shipped();
        scenario.load.rate_per_second = 100.0;
        scenario.load.duration_seconds = 50.0;
        let plan = scenario.plan();
        assert_eq!(plan, scenario.plan());
        assert!(plan.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!((4500..5500).contains(&plan.len()), "{}", plan.len());
        let share = plan.iter().filter(|a| a.mix == 0).count() as f64 / plan.len() as f64;
        assert!((0.35..0.45).contains(&share), "two of five: {share}");
    }

    #[test]
    fn mistakes_are_named() {
        let text = include_str!("../scenarios/chat.toml");
        assert!(Scenario::parse(&text.replace("seed", "sead")).is_err());
        assert!(Scenario::parse(&text.replace("= 0.4", "= 0")).is_err());
        assert!(Scenario::parse(&text.replace("= 0.4", "= 1e9")).is_err());
    }
}
