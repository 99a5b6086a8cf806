//! The core against the plain model of `plain.rs`: random trees, random histories, the same decisions in the same
//! order. `CORE_TREES` and `CORE_SEED` in the environment choose how many trees and which.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    plain::{Group, Journal, Life, Plain, count},
    world::{SECOND, World, rules, settings},
};
use crate::{
    Backoff, ChildState, ExitReason, Restart, Strategy, TreeEvent, TreeNode, Window,
    core::{Command, Core, Event, Ix},
    spec::Rules,
};

const TREES: u64 = 100_000;
const STEPS: usize = 12;
const DEPTH: usize = 3;

/// The same tree twice.
struct Pair {
    world: World,
    plain: Plain,
    journal: Journal,
    /// For each node of the core its child numbers from the root down.
    indices: Vec<Vec<usize>>,
}

fn window(rng: &mut StdRng) -> Window {
    Window::new(rng.random_range(0..4), SECOND * rng.random_range(1..30))
}

fn strategy(rng: &mut StdRng) -> Strategy {
    use Strategy::{OneForAll, OneForOne, RestForOne};
    [OneForOne, RestForOne, OneForAll][rng.random_range(0..3)]
}

/// No two pauses end at one instant, as nothing is said about the order of starts then: events come at whole seconds,
/// and each child's pauses have milliseconds of its own.
fn backoff(rng: &mut StdRng, nth: usize) -> Backoff {
    let own = Duration::from_millis(2 * nth as u64 + 1);
    match rng.random() {
        true => Backoff::NONE,
        false => Backoff {
            initial: SECOND * rng.random_range(0..3) + own,
            max: Duration::MAX,
            jitter_percent: 0,
        },
    }
}

fn some_rules(rng: &mut StdRng, nth: usize) -> Rules {
    use Restart::{Permanent, Temporary, Transient};
    let restart = [Permanent, Permanent, Transient, Temporary][rng.random_range(0..4)];
    Rules {
        window: window(rng),
        quarantine: rng.random(),
        backoff: backoff(rng, nth),
        ..rules(restart)
    }
}

fn plain(path: &str, rules: &Rules, group: Option<Group>) -> Plain {
    Plain {
        path: path.to_owned(),
        restart: rules.restart,
        window: rules.quarantine.then_some(rules.window),
        past: Vec::new(),
        backoff: rules.backoff,
        due: None,
        life: Life::Down,
        quarantined: false,
        generation: 0,
        group,
    }
}

struct Planter<'a> {
    rng: &'a mut StdRng,
    core: Core,
    indices: Vec<Vec<usize>>,
}

impl Planter<'_> {
    fn group(&mut self, at: Ix, strategy: Strategy, window: Window, depth: usize) -> Group {
        let children = 0..self.rng.random_range(1..4);
        Group {
            strategy,
            window,
            past: Vec::new(),
            children: children.map(|nth| self.child(at, nth, depth)).collect(),
        }
    }

    fn child(&mut self, parent: Ix, nth: usize, depth: usize) -> Plain {
        let rules = some_rules(self.rng, self.indices.len());
        let id = format!("n{nth}");
        let mut indices = self.indices[parent].clone();
        indices.push(nth);
        self.indices.push(indices);
        if depth == 1 || self.rng.random_range(0..5) < 3 {
            let ix = self.core.add_worker(parent, &id, rules.clone());
            return plain(self.core.path(ix), &rules, None);
        }
        let (strategy, window) = (strategy(self.rng), window(self.rng));
        let ix = self
            .core
            .add_supervisor(parent, &id, rules.clone(), strategy, window);
        let group = self.group(ix, strategy, window, depth - 1);
        plain(self.core.path(ix), &rules, Some(group))
    }
}

impl Pair {
    fn plant(rng: &mut StdRng) -> Self {
        // The root lives longer than its children, or there is little to see.
        let window = Window::new(rng.random_range(0..12), SECOND * rng.random_range(1..30));
        let strategy = strategy(rng);
        let mut planter = Planter {
            rng,
            core: Core::new("node", strategy, window, settings()),
            indices: vec![Vec::new()],
        };
        let group = planter.group(0, strategy, window, DEPTH);
        let mut pair = Self {
            plain: plain("node", &rules(Restart::Permanent), Some(group)),
            journal: Journal::default(),
            indices: planter.indices,
            world: World::new(planter.core),
        };
        pair.world.happens(Event::Boot);
        pair.plain.start(&mut pair.journal);
        pair
    }

    fn step(&mut self, rng: &mut StdRng) {
        let node = rng.random_range(1..self.indices.len());
        match rng.random_range(0..20) {
            0..11 => self.some_exit(rng),
            11..14 => self.passes(SECOND * rng.random_range(0..20)),
            14 => {
                let why = "odd".to_owned();
                self.command(Command::Quarantine { node, why });
                self.plain
                    .quarantine(&self.indices[node], &mut self.journal);
            }
            15..18 => {
                self.command(Command::Recover { node });
                self.plain.recover(&self.indices[node], &mut self.journal);
            }
            _ => {
                let taken = self.world.command(Command::Restart { node }).is_ok();
                let expected = self.plain.restart(&self.indices[node], &mut self.journal);
                assert_eq!(taken, expected);
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.world.command(command).expect("it is not refused");
    }

    fn some_exit(&mut self, rng: &mut StdRng) {
        let reasons = [
            ExitReason::Normal,
            ExitReason::Shutdown,
            ExitReason::Killed,
            ExitReason::Panicked("x".to_owned()),
            ExitReason::Panicked("x".to_owned()),
            ExitReason::Corrupt("x".to_owned()),
        ];
        let alive: Vec<Ix> = self.world.alive.keys().copied().collect();
        if let (Some(&node), Some(reason)) = (alive.choose(rng), reasons.choose(rng)) {
            let path = self.world.core.path(node).to_string();
            self.world.exits(&path, reason.clone());
            self.plain
                .exits(&self.indices[node], reason.clone(), &mut self.journal);
        }
    }

    fn passes(&mut self, time: Duration) {
        self.world.passes(time);
        let end = self.journal.now + time;
        while let Some(at) = self
            .plain
            .next_due(self.journal.now)
            .filter(|&at| at <= end)
        {
            self.journal.now = at;
            self.plain.wake(&mut self.journal);
        }
        self.journal.now = end;
    }

    /// How many decisions were compared.
    fn compare(&mut self, at: Place) -> usize {
        assert_eq!(self.world.take_log(), self.journal.lines, "{at}");
        let decisions = std::mem::take(&mut self.journal.lines).len();
        assert_eq!(
            self.world.exit.is_none(),
            self.plain.life == Life::Up,
            "{at}"
        );
        same(&self.world.tree(), &self.plain, self.journal.now, at);
        decisions
    }
}

/// State, generation and used part of the window of each node.
fn same(tree: &TreeNode, plain: &Plain, now: Duration, at: Place) {
    let state = match plain.life {
        _ if plain.quarantined => ChildState::Quarantined,
        Life::Up => ChildState::Running,
        Life::Down if plain.due.is_some() => ChildState::BackingOff,
        Life::Down | Life::Done => ChildState::Stopped,
    };
    assert_eq!(
        (tree.state, tree.generation.0),
        (state, plain.generation),
        "{at}: {}",
        plain.path
    );
    let Some(group) = &plain.group else { return };
    let used = count(&group.past, group.window, now);
    assert_eq!(tree.restarts_in_window, used, "{at}: {}", plain.path);
    for (tree, plain) in tree.children.iter().zip(&group.children) {
        same(tree, plain, now, at);
    }
}

/// How to come back to a failure.
#[derive(Clone, Copy)]
struct Place {
    seed: u64,
    step: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CORE_SEED={} CORE_TREES=1, step {}",
            self.seed, self.step
        )
    }
}

/// What the trees have met, so that histories in which nothing happens are noticed.
#[derive(Debug, Default)]
struct Met {
    decisions: usize,
    pauses: usize,
    quarantines: usize,
    escalations: usize,
    trees_given_up: usize,
}

impl Met {
    fn meet(&mut self, world: &World, decisions: usize) {
        self.decisions += decisions;
        self.trees_given_up += usize::from(world.exit.is_some());
        for event in &world.events {
            match event {
                TreeEvent::ChildRestarting { pause, .. } if !pause.is_zero() => self.pauses += 1,
                TreeEvent::ChildQuarantined { .. } => self.quarantines += 1,
                TreeEvent::Escalated { .. } => self.escalations += 1,
                _ => {}
            }
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |text| text.parse().expect(variable))
}

/// One tree and its history; the world as it ends, and how many decisions were compared.
fn live_through(seed: u64) -> (World, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = Pair::plant(&mut rng);
    let mut decisions = pair.compare(Place { seed, step: 0 });
    for step in 1..=STEPS {
        if pair.world.exit.is_none() {
            pair.step(&mut rng);
            decisions += pair.compare(Place { seed, step });
        }
    }
    (pair.world, decisions)
}

#[test]
fn the_core_decides_as_the_plain_model() {
    let (first, trees) = (number("CORE_SEED", 1), number("CORE_TREES", TREES));
    println!("{trees} trees, CORE_SEED={first}");
    let mut met = Met::default();
    for seed in (first..).take(usize::try_from(trees).unwrap_or(usize::MAX)) {
        let (world, decisions) = live_through(seed);
        met.meet(&world, decisions);
    }
    println!("{met:?}");
    let enough = usize::try_from(trees / 20).unwrap_or(usize::MAX);
    let Met {
        pauses,
        quarantines,
        escalations,
        trees_given_up,
        ..
    } = met;
    let often = [pauses, quarantines, escalations, trees_given_up];
    assert!(often.iter().all(|&times| times >= enough), "{often:?}");
}
