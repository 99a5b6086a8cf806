//! What OTP's own supervisors did with random trees, see `tests/otp/README.md`: the core must do the same.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use super::world::{World, settings};
use crate::{
    Backoff, ExitReason, Restart, Shutdown, Strategy, TreeExit, Window,
    core::{Command, Core, Ix},
    spec::Rules,
};

const VECTORS: &str = include_str!("../../../tests/otp/vectors.jsonl");

/// Arrays, so that a thousand trees stay small.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shape {
    /// Restart type, strategy, intensity, period in seconds, children.
    Supervisor(Restart, Strategy, u32, u64, Vec<Shape>),
    Worker(Restart, HowToStop),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HowToStop {
    Millis(u64),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Kill,
    Infinity,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    /// Workers that ended before their supervisor saw the first of them end, as `path reason`.
    Fail {
        fail: Vec<String>,
        then: Vec<String>,
    },
    /// Seconds that passed.
    Pass { pass: u64 },
    /// Whoever started the tree stopped it.
    Stop { stop: Vec<String> },
}

#[derive(Deserialize)]
struct Vector {
    root: Shape,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Header {
    otp: String,
    stdlib: String,
    seed: u64,
    trees: usize,
}

impl From<&HowToStop> for Shutdown {
    fn from(how: &HowToStop) -> Self {
        match how {
            HowToStop::Millis(limit) => Self::Timeout(Duration::from_millis(*limit)),
            HowToStop::Word(Word::Kill) => Self::Kill,
            HowToStop::Word(Word::Infinity) => Self::Infinity,
        }
    }
}

/// OTP has no window for one child, and no pauses.
fn otp_rules(restart: Restart, shutdown: Shutdown) -> Rules {
    Rules {
        restart,
        shutdown,
        quarantine: false,
        backoff: Backoff::NONE,
        ..Rules::default()
    }
}

fn window(intensity: u32, period: u64) -> Window {
    Window::new(intensity, Duration::from_secs(period))
}

fn plant(core: &mut Core, parent: Ix, children: &[Shape]) {
    for (child, id) in children.iter().zip('a'..='z') {
        let id = id.to_string();
        match child {
            Shape::Worker(restart, shutdown) => {
                core.add_worker(parent, &id, otp_rules(*restart, shutdown.into()));
            }
            Shape::Supervisor(restart, strategy, intensity, period, children) => {
                let rules = otp_rules(*restart, Shutdown::default());
                let window = window(*intensity, *period);
                let ix = core.add_supervisor(parent, &id, rules, *strategy, window);
                plant(core, ix, children);
            }
        }
    }
}

fn grow(root: &Shape) -> World {
    let Shape::Supervisor(_, strategy, intensity, period, children) = root else {
        panic!("a worker is no tree");
    };
    let window = window(*intensity, *period);
    let mut core = Core::new("node", *strategy, window, settings());
    plant(&mut core, 0, children);
    World::new(core).booted()
}

fn reason(text: &str) -> ExitReason {
    match text {
        "normal" => ExitReason::Normal,
        "shutdown" | "shutdown_why" => ExitReason::Shutdown,
        "crash" => ExitReason::Panicked("crash".to_owned()),
        "kill" => ExitReason::Killed,
        other => panic!("{other} is no reason"),
    }
}

/// The log without generations, which OTP does not count.
fn take_story(world: &mut World) -> Vec<String> {
    let line = |line: String| match line.rsplit_once(' ') {
        Some((rest, _)) if !line.starts_with("gives up") => rest.to_owned(),
        _ => line,
    };
    world.take_log().into_iter().map(line).collect()
}

fn split(failure: &str) -> (&str, &str) {
    failure.split_once(' ').expect("a path and a reason")
}

fn replay(number: usize, vector: &Vector) -> World {
    let mut world = grow(&vector.root);
    for (at, step) in vector.steps.iter().enumerate() {
        let expected = match step {
            Step::Fail { fail, then } => {
                let exits = fail.iter().map(|failure| split(failure));
                let exits: Vec<_> = exits.map(|(path, text)| (path, reason(text))).collect();
                world.exit_together(&exits);
                then.as_slice()
            }
            Step::Pass { pass } => {
                world.passes(Duration::from_secs(*pass));
                &[]
            }
            Step::Stop { stop } => {
                world.command(Command::Stop).expect("it can be stopped");
                stop.as_slice()
            }
        };
        assert_eq!(take_story(&mut world), expected, "tree {number}, step {at}");
    }
    world
}

fn vectors() -> (Header, Vec<Vector>) {
    let mut lines = VECTORS.lines();
    let header = lines.next().expect("a first line");
    let header = serde_json::from_str(header).expect("the first line says where they come from");
    let vectors = lines.map(|line| serde_json::from_str(line).expect("a tree in each line"));
    (header, vectors.collect())
}

#[test]
fn decides_as_otp_did() {
    let (header, vectors) = vectors();
    let Header {
        otp,
        stdlib,
        seed,
        trees,
    } = header;
    println!("{trees} trees of OTP {otp} (stdlib {stdlib}), seed {seed}");
    assert_eq!(vectors.len(), trees);
    for (number, vector) in vectors.iter().enumerate() {
        let world = replay(number, vector);
        match vector.steps.last() {
            Some(Step::Stop { .. }) => assert_eq!(world.exit, Some(TreeExit::Stopped)),
            _ => assert!(matches!(world.exit, Some(TreeExit::Escalated { .. }))),
        }
    }
}

/// What the vectors have met, so that a generator that has become tame is noticed.
#[derive(Default)]
struct Met {
    depth: usize,
    policies: BTreeSet<(String, String, String)>,
    together: usize,
    passes: usize,
    nested_escalations: usize,
    trees_given_up: usize,
}

fn child<'a>(shape: &'a Shape, id: &str) -> &'a Shape {
    let Shape::Supervisor(.., children) = shape else {
        panic!("a worker has no children");
    };
    let letter = id.bytes().next().expect("an id has a letter");
    &children[usize::from(letter - b'a')]
}

fn depth(shape: &Shape) -> usize {
    match shape {
        Shape::Worker(..) => 0,
        Shape::Supervisor(.., children) => 1 + children.iter().map(depth).max().unwrap_or(0),
    }
}

impl Met {
    fn meet(&mut self, vector: &Vector) {
        self.depth = self.depth.max(depth(&vector.root));
        for step in &vector.steps {
            match step {
                Step::Fail { fail, then } => {
                    self.together += usize::from(fail.len() > 1);
                    fail.iter().for_each(|one| self.failure(&vector.root, one));
                    let gave_up = then
                        .iter()
                        .filter_map(|line| line.strip_prefix("gives up "));
                    for path in gave_up {
                        self.trees_given_up += usize::from(path == "node");
                        self.nested_escalations += usize::from(path != "node");
                    }
                }
                Step::Pass { .. } => self.passes += 1,
                Step::Stop { .. } => {}
            }
        }
    }

    fn failure(&mut self, root: &Shape, failure: &str) {
        let (path, reason) = split(failure);
        let (mut above, mut node) = (root, root);
        for id in path.split('/') {
            (above, node) = (node, child(node, id));
        }
        if let (Shape::Supervisor(_, strategy, ..), Shape::Worker(restart, _)) = (above, node) {
            let policy = (
                format!("{strategy:?}"),
                format!("{restart:?}"),
                reason.to_owned(),
            );
            self.policies.insert(policy);
        }
    }
}

#[test]
fn the_vectors_meet_every_policy() {
    let (_, vectors) = vectors();
    let mut met = Met::default();
    vectors.iter().for_each(|vector| met.meet(vector));
    println!(
        "{} policies, depth {}, {} failures together, {} nested and {} whole trees gave up, time passed {} times",
        met.policies.len(),
        met.depth,
        met.together,
        met.nested_escalations,
        met.trees_given_up,
        met.passes
    );
    assert!(vectors.len() >= 1000);
    assert_eq!((met.policies.len(), met.depth), (3 * 3 * 5, 3));
    let often = [
        met.together,
        met.nested_escalations,
        met.trees_given_up,
        met.passes,
    ];
    assert!(often.iter().all(|&times| times >= 100), "{often:?}");
}
