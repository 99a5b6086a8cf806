//! Kills at random moments, on one store for many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::check::{check, follow};
use crate::double::{Plan, draw};
use crate::power::Cut;
use crate::run::{Ended, Order, Place};
use crate::said::{Fact, Said};

/// Replays the random moments of an earlier run.
const SEED_VAR: &str = "BLYAN_TEST_SEED";
/// How many processes each of the tests kills.
const KILLS_VAR: &str = "BLYAN_CHAOS";
const KILLS: u64 = 12;
/// A fresh store after so many children: what is verified each time grows with every round.
const ROUNDS_OF_A_STORE: u64 = 10;
/// Children for each that is to be killed: some end before, by a failed sync or because they are through.
const ROUNDS_OF_A_KILL: u64 = 6;
/// One sync in so many fails.
const FLAKY: u64 = 96;

pub fn seed() -> u64 {
    let given = std::env::var(SEED_VAR)
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().subsec_nanos().into()
    });
    println!("{SEED_VAR}={seed}");
    seed
}

fn kills() -> u64 {
    std::env::var(KILLS_VAR)
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(KILLS)
}

fn time_of_a_round() -> Duration {
    let place = Place::new();
    let mut running = place.start(Order::whole(0, Plan::Watch));
    running.begun();
    let began = Instant::now();
    assert!(running.wait().done());
    began.elapsed()
}

/// What became of many children.
#[derive(Debug, Default)]
struct Tally {
    /// By what they were at.
    killed: BTreeMap<&'static str, u64>,
    done: u64,
    refused: u64,
    facts: usize,
}

impl Tally {
    fn kills(&self) -> u64 {
        self.killed.values().sum()
    }

    fn count(&mut self, ended: &Ended) {
        if !ended.status.success() {
            *self.killed.entry(at(&ended.said)).or_default() += 1;
        } else if ended.done() {
            self.done += 1;
        } else {
            self.refused += 1;
        }
    }
}

/// What a child was at, by what it said last.
fn at(said: &[Said]) -> &'static str {
    match said.last() {
        Some(Said::Holds(Fact::Upload(..)) | Said::Dropped(_)) => "upload",
        Some(Said::Holds(Fact::Receipt(_) | Fact::Snapshot(_))) => "receipt",
        Some(Said::Snapshotting) => "snapshot",
        Some(Said::Restoring(_)) => "restore",
        Some(Said::Holds(Fact::Block(_))) => "append",
        None => "opening",
        Some(Said::Refused(_) | Said::Done) => "end",
    }
}

/// What a child has said when it is killed a little later; with equal chances, as with none of them.
const AIMS: [fn(&Said) -> bool; 4] = [
    |said| matches!(said, Said::Holds(Fact::Block(_))),
    |said| matches!(said, Said::Holds(Fact::Upload(..))),
    |said| matches!(said, Said::Snapshotting),
    |said| matches!(said, Said::Restoring(_)),
];

struct Chaos {
    seed: u64,
    whole: Duration,
    plan: fn(u64) -> Plan,
    cut: Option<fn(u64) -> Cut>,
    tally: Tally,
}

impl Chaos {
    fn new(plan: fn(u64) -> Plan, cut: Option<fn(u64) -> Cut>) -> Self {
        let (seed, whole, tally) = (seed(), time_of_a_round(), Tally::default());
        Self {
            seed,
            whole,
            plan,
            cut,
            tally,
        }
    }

    fn run(mut self) {
        let kills = kills();
        let mut rounds = 0;
        while self.tally.kills() < kills {
            assert!(
                rounds < kills * ROUNDS_OF_A_KILL,
                "too few were killed in time: {:?}",
                self.tally
            );
            self.on_one_store(rounds..rounds + ROUNDS_OF_A_STORE, kills);
            rounds += ROUNDS_OF_A_STORE;
        }
        println!("{:?}, seed {}", self.tally, self.seed);
    }

    fn on_one_store(&mut self, rounds: std::ops::Range<u64>, kills: u64) {
        let (place, mut kept) = (Place::new(), BTreeSet::new());
        for round in rounds {
            if self.tally.kills() < kills {
                let survived = self.round(&place, round, &mut kept);
                survived.unwrap_or_else(|why| panic!("round {round}, seed {}: {why}", self.seed));
            }
        }
        self.tally.facts += kept.len();
    }

    fn round(
        &mut self,
        place: &Place,
        round: u64,
        kept: &mut BTreeSet<Fact>,
    ) -> Result<(), String> {
        let drawn = |what| draw(self.seed, 3 * round + what);
        let mut running = place.start(Order::whole(round, (self.plan)(drawn(0))));
        running.begun();
        if let Some(aim) = AIMS.get(drawn(1) as usize % (AIMS.len() + 1)) {
            running.hear(aim);
        }
        // Mostly soon: an upload is over in a few milliseconds.
        let share = (drawn(2) as f64 / u64::MAX as f64).powi(3);
        std::thread::sleep(self.whole.mul_f64(share / AIMS.len() as f64));
        running.child.kill().map_err(|error| error.to_string())?;
        let ended = running.wait();
        ended.orderly()?;
        self.tally.count(&ended);
        follow(kept, &ended.said);
        if !ended.status.success() && place.struck().is_some() {
            // A failed sync ends an upload; whether it did, this child could not say any more.
            kept.retain(|fact| !matches!(fact, Fact::Upload(..)));
        }
        if let Some(cut) = self.cut {
            place.take(&place.cut(cut(round)));
        }
        check(&place.store(), kept)
    }
}

#[test]
fn a_process_that_is_killed_at_random_loses_nothing() {
    Chaos::new(|_| Plan::Watch, None).run();
}

#[test]
fn a_process_that_is_killed_under_failing_syncs_loses_nothing() {
    let flaky = |seed| Plan::FlakySyncs {
        seed,
        one_in: FLAKY,
    };
    Chaos::new(flaky, None).run();
}

#[test]
fn a_power_cut_at_random_loses_nothing() {
    Chaos::new(|_| Plan::Watch, Some(|_| Cut::ForgetsAll)).run();
}

#[test]
fn a_power_cut_that_keeps_some_loses_nothing() {
    let flaky = |seed| Plan::FlakySyncs {
        seed,
        one_in: FLAKY,
    };
    Chaos::new(flaky, Some(|seed| Cut::ForgetsSome { seed })).run();
}
