//! Random trees, random histories; what holds whatever happens.

use proptest::{prelude::*, strategy::Strategy as _};

use super::world::{SECOND, World, settings};
use crate::{
    Backoff, ChildState, ExitReason, Generation, Restart, Strategy, TreeExit, Window,
    core::{Command, Core, Event, Ix, node::Phase},
    spec::Rules,
};

#[derive(Clone, Debug)]
enum Shape {
    Worker(Rules),
    Supervisor(Rules, Strategy, Window, Vec<Shape>),
}

/// What happens to the worker or node picked by the number.
#[derive(Clone, Debug)]
enum Step {
    Exits(usize, ExitReason),
    Stuck(usize),
    Quarantine(usize),
    Recover(usize),
    Restart(usize),
    /// One actor that owes an answer gives it.
    Delivers(usize),
    Passes(u32),
}

fn strategy() -> impl proptest::strategy::Strategy<Value = Strategy> {
    prop_oneof![
        Just(Strategy::OneForOne),
        Just(Strategy::RestForOne),
        Just(Strategy::OneForAll)
    ]
}

fn window() -> impl proptest::strategy::Strategy<Value = Window> {
    (0..4_u32, 1..30_u32).prop_map(|(max, within)| Window::new(max, SECOND * within))
}

fn rules() -> impl proptest::strategy::Strategy<Value = Rules> {
    let restart = prop_oneof![
        Just(Restart::Permanent),
        Just(Restart::Transient),
        Just(Restart::Temporary)
    ];
    (restart, window(), any::<bool>(), 0..3_u32).prop_map(|(restart, window, quarantine, pause)| {
        Rules {
            restart,
            window,
            quarantine,
            backoff: Backoff {
                initial: pause * SECOND,
                max: 4 * SECOND,
                jitter_percent: 10,
            },
            ..Rules::default()
        }
    })
}

fn shape() -> impl proptest::strategy::Strategy<Value = Shape> {
    rules()
        .prop_map(Shape::Worker)
        .prop_recursive(2, 12, 4, |inner| {
            let children = proptest::collection::vec(inner, 0..4);
            (rules(), strategy(), window(), children).prop_map(
                |(rules, strategy, window, children)| {
                    Shape::Supervisor(rules, strategy, window, children)
                },
            )
        })
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(ExitReason::Normal),
        Just(ExitReason::Panicked("x".to_owned())),
        Just(ExitReason::Corrupt("x".to_owned())),
    ];
    prop_oneof![
        6 => (any::<usize>(), reason).prop_map(|(pick, reason)| Step::Exits(pick, reason)),
        1 => any::<usize>().prop_map(Step::Stuck),
        1 => any::<usize>().prop_map(Step::Quarantine),
        2 => any::<usize>().prop_map(Step::Recover),
        1 => any::<usize>().prop_map(Step::Restart),
        8 => any::<usize>().prop_map(Step::Delivers),
        4 => (0..20_u32).prop_map(Step::Passes),
    ]
}

fn plant(core: &mut Core, parent: Ix, name: usize, shape: &Shape) {
    let id = format!("n{name}");
    match shape {
        Shape::Worker(rules) => {
            core.add_worker(parent, &id, rules.clone());
        }
        Shape::Supervisor(rules, strategy, window, children) => {
            let ix = core.add_supervisor(parent, &id, rules.clone(), *strategy, *window);
            for (name, child) in children.iter().enumerate() {
                plant(core, ix, name, child);
            }
        }
    }
}

fn apply(world: &mut World, nodes: usize, step: Step) {
    let alive: Vec<Ix> = world.alive.keys().copied().collect();
    let alive_at = |pick: usize| (!alive.is_empty()).then(|| alive[pick % alive.len()]);
    match step {
        Step::Exits(pick, reason) => {
            if let Some(node) = alive_at(pick) {
                let path = world.core.path(node).to_string();
                world.exits(&path, reason);
            }
        }
        Step::Stuck(pick) => {
            if let Some(node) = alive_at(pick) {
                let generation = world.alive[&node];
                world.happens(Event::Stuck {
                    node,
                    generation,
                    age: SECOND,
                });
            }
        }
        Step::Quarantine(pick) => {
            let why = "odd".to_owned();
            // The root refuses, which is an answer too.
            let _ = world.command(Command::Quarantine {
                node: pick % nodes,
                why,
            });
        }
        Step::Recover(pick) => drop(world.command(Command::Recover { node: pick % nodes })),
        Step::Restart(pick) => drop(world.command(Command::Restart { node: pick % nodes })),
        Step::Delivers(pick) => {
            world.delivers(pick);
        }
        Step::Passes(seconds) => world.passes(seconds * SECOND),
    }
}

/// What must be true when no actor owes an answer.
fn check_rest(world: &World, nodes: usize) -> Result<(), TestCaseError> {
    for node in (1..nodes).filter(|&node| !world.core.is_supervisor(node)) {
        let state = world.core.state(node);
        let up = state == ChildState::Running;
        prop_assert_eq!(
            up,
            world.alive.contains_key(&node),
            "{} is {}",
            world.core.path(node),
            state
        );
        prop_assert!(state != ChildState::Stopping && state != ChildState::Starting);
    }
    Ok(())
}

/// Callers have been told what is, whichever events led there.
fn check_told(world: &World) -> Result<(), TestCaseError> {
    for (ix, node) in world.core.nodes.iter().enumerate() {
        let retry_at = match node.phase {
            Phase::BackingOff { until } => Some(until),
            _ => None,
        };
        let is = (node.phase.state(), node.generation, retry_at);
        let nothing_yet = (ChildState::Stopped, Generation(0), None);
        let told = world.told.get(&ix).copied().unwrap_or(nothing_yet);
        prop_assert_eq!(told, is, "{}", node.path);
    }
    Ok(())
}

/// A supervisor that is down has no child that runs.
fn check_groups(node: &crate::TreeNode) -> Result<(), TestCaseError> {
    let up = |state| {
        matches!(
            state,
            ChildState::Running | ChildState::Starting | ChildState::Stopping
        )
    };
    for child in &node.children {
        prop_assert!(
            up(node.state) || !up(child.state),
            "{} is up below {}",
            child.id,
            node.id
        );
        check_groups(child)?;
    }
    Ok(())
}

/// Stops come in the reverse of the arena's order, which is depth first, and leave nothing behind.
fn stop_in_order(world: &mut World) -> Result<(), TestCaseError> {
    let had_ended = world.exit.is_some();
    world.take_log();
    prop_assert!(world.command(Command::Stop).is_ok());
    while world.delivers(0) {}
    prop_assert!(world.alive.is_empty(), "nothing is left after a stop");
    prop_assert!(had_ended || world.exit == Some(TreeExit::Stopped));
    let stops = world
        .log
        .iter()
        .filter_map(|line| line.strip_prefix("stop "));
    let stops: Vec<Ix> = stops
        .map(|rest| world.ix(rest.split(' ').next().unwrap_or_default()))
        .collect();
    prop_assert!(stops.windows(2).all(|pair| pair[0] > pair[1]), "{stops:?}");
    Ok(())
}

fn root_window() -> impl proptest::strategy::Strategy<Value = Window> {
    prop_oneof![window(), Just(Window::new(1000, SECOND))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens(
        strategy in strategy(),
        window in root_window(),
        shapes in proptest::collection::vec(shape(), 0..5),
        steps in proptest::collection::vec(step(), 0..60),
        slow in any::<bool>(),
    ) {
        let mut core = Core::new("node", strategy, window, settings());
        for (name, shape) in shapes.iter().enumerate() {
            plant(&mut core, 0, name, shape);
        }
        let mut world = World::new(core);
        world.slow = slow;
        let mut world = world.booted();
        let nodes = world.tree_size();
        for step in steps {
            if world.exit.is_some() {
                break;
            }
            apply(&mut world, nodes, step);
            check_groups(&world.tree())?;
            check_told(&world)?;
            prop_assert!(world.core.next_deadline().is_none_or(|at| at > world.now));
        }
        while world.delivers(0) {}
        if world.exit.is_none() {
            check_rest(&world, nodes)?;
        }
        stop_in_order(&mut world)?;
    }

    /// However fast it fails, a permanent child ends up quarantined, having restarted as often as its window grants.
    #[test]
    fn a_child_that_always_fails_is_quarantined(max in 0..6_u32, seconds in 0..3_u32) {
        let window = Window::new(max, 60 * SECOND);
        let mut core = Core::new("node", Strategy::OneForOne, Window::new(100, SECOND), settings());
        core.add_worker(0, "a", Rules { window, ..Rules::default() });
        let mut world = World::new(core).booted();
        for _ in 0..=max {
            prop_assert_eq!(world.state("a"), ChildState::Running);
            world.panics("a");
            world.passes((seconds + 6) * SECOND);
        }
        prop_assert_eq!(world.state("a"), ChildState::Quarantined);
    }
}
