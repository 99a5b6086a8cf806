//! The open loop: requests leave when they are due, whatever became of the ones before.

use std::cell::Cell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::{Outcome, Target};
use crate::scenario::{Arrival, Scenario};

/// Carries out the plan and waits for every answer.
pub async fn run(scenario: &Scenario, target: &Target) -> anyhow::Result<Vec<Outcome>> {
    let plan = scenario.plan();
    let bar = progress(plan.len());
    let in_flight = Rc::new(Cell::new(0));
    let begin = Instant::now();
    let mut running = Vec::with_capacity(plan.len());
    for arrival in plan {
        let due = begin + arrival.at;
        tokio::time::sleep_until(due.into()).await;
        running.push(launch(scenario, target, arrival, due, &in_flight, &bar));
    }
    let mut outcomes = Vec::with_capacity(running.len());
    for handle in running {
        outcomes.push(handle.await.context("a request's task panicked")?);
    }
    bar.finish_and_clear();
    Ok(outcomes)
}

fn launch(
    scenario: &Scenario,
    target: &Target,
    arrival: Arrival,
    due: Instant,
    in_flight: &Rc<Cell<usize>>,
    bar: &ProgressBar,
) -> actix_rt::task::JoinHandle<Outcome> {
    let mix = scenario.mix[arrival.mix].clone();
    let prompt = mix.prompts[arrival.prompt].clone();
    let timeout = Duration::from_millis(scenario.load.request_timeout_ms);
    let (target, in_flight, bar) = (target.clone(), in_flight.clone(), bar.clone());
    let full = in_flight.get() >= scenario.load.in_flight_max;
    if !full {
        in_flight.set(in_flight.get() + 1);
    }
    actix_rt::spawn(async move {
        if full {
            return Outcome {
                error: Some("not_sent".to_owned()),
                ..Outcome::default()
            };
        }
        let outcome = target.send(&mix, &prompt, due, timeout).await;
        in_flight.set(in_flight.get() - 1);
        bar.inc(1);
        outcome
    })
}

fn progress(requests: usize) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} requests, {elapsed}") {
        bar.set_style(style);
    }
    bar
}
