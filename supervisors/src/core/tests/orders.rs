//! What a person may order, and what comes of it.

use std::time::Duration;

use super::{
    policies::{nested, three},
    world::{SECOND, World, rules, settings},
};
use crate::{
    Backoff, ChildState, ExitReason, Restart, Strategy, TreeEvent, Window,
    core::{Command, Core, Effect, Ix},
    spec::Rules,
};

fn quarantine(node: Ix) -> Command {
    let why = "odd".to_owned();
    Command::Quarantine { node, why }
}

fn recoveries(world: &World) -> usize {
    let recovered = |event: &&TreeEvent| matches!(event, TreeEvent::ChildRecovered { .. });
    world.events.iter().filter(recovered).count()
}

#[test]
fn a_quarantine_refuses_messages_to_all_below_it_before_the_first_of_them_stops() {
    let mut world = nested().booted();
    let node = world.ix("inner");
    let effects = world.core.command(quarantine(node), world.now);
    let order: Vec<(&str, Ix)> = effects
        .expect("it can be quarantined")
        .iter()
        .filter_map(|effect| match effect {
            Effect::Shut { node, .. } => Some(("shut", *node)),
            Effect::Stop { node, .. } => Some(("stop", *node)),
            _ => None,
        })
        .collect();
    let [b, c, d] = ["inner/b", "inner/c", "d"].map(|path| world.ix(path));
    let expected = [("shut", node), ("shut", b), ("shut", c), ("stop", d)];
    assert_eq!(order, expected);
}

#[test]
fn the_root_is_neither_quarantined_nor_restarted_nor_removed() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    for order in [
        quarantine(0),
        Command::Restart { node: 0 },
        Command::Remove { node: 0 },
    ] {
        assert!(world.command(order.clone()).is_err(), "{order:?}");
    }
    assert_eq!(world.take_log(), Vec::<String>::new());
}

#[test]
fn a_recovery_is_told_where_there_was_something_to_recover_from() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    world.command(quarantine(node)).expect("it is no root");
    world.command(Command::Recover { node }).expect("it is out");
    assert_eq!(
        (recoveries(&world), world.state("b")),
        (1, ChildState::Running)
    );
    world
        .command(Command::Recover { node })
        .expect("nothing to do");
    assert_eq!(recoveries(&world), 1);
}

#[test]
fn a_quarantine_may_be_taken_back_while_the_child_still_stops() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    world.slow = true;
    world.command(quarantine(node)).expect("it is no root");
    world
        .command(Command::Recover { node })
        .expect("it stops yet");
    assert_eq!(recoveries(&world), 1);
    while world.delivers(0) {}
    assert_eq!(world.take_log(), ["stop b 1", "start b 2"]);
    assert_eq!(world.state("b"), ChildState::Running);
}

#[test]
fn a_removed_child_is_gone_once_it_is_down() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Temporary));
    let (a, b) = (world.ix("a"), world.ix("b"));
    world.slow = true;
    world
        .command(Command::Remove { node: b })
        .expect("it is no root");
    assert_eq!(
        (world.core.find("b"), world.core.is_gone(b)),
        (None, false),
        "its name is free, its actor still lives"
    );
    assert_eq!(world.tree_size(), 4);
    assert!(world.delivers(0), "it has stopped");
    assert_eq!((world.core.is_gone(b), world.tree_size()), (true, 3));
    assert!(!world.core.is_gone(a), "its neighbour lives");
    assert_eq!(world.take_log(), ["stop b 1"]);
}

#[test]
fn a_child_that_is_down_is_not_gone_before_it_is_removed() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Temporary));
    let b = world.ix("b");
    world.exits("b", ExitReason::Normal);
    assert_eq!((world.core.is_gone(b), world.tree_size()), (false, 4));
}

#[test]
fn a_supervisor_is_removed_with_all_below_it_and_nothing_else() {
    let mut world = nested().booted();
    let node = world.ix("inner");
    world
        .command(Command::Remove { node })
        .expect("it is no root");
    assert_eq!(world.take_log(), ["stop inner/c 1", "stop inner/b 1"]);
    let find = |path| world.core.find(path);
    assert_eq!((find("inner"), find("inner/b")), (None, None));
    assert_eq!(world.tree_size(), 3, "node, a and d");
}

#[test]
fn a_quarantined_child_that_is_removed_holds_no_sibling_down() {
    let mut world = three(Strategy::RestForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    world.command(quarantine(node)).expect("it is no root");
    assert_eq!(world.state("c"), ChildState::Stopped);
    world
        .command(Command::Remove { node })
        .expect("it is no root");
    assert_eq!(world.state("c"), ChildState::Running);
}

#[test]
fn a_child_can_be_removed_while_its_supervisor_is_down() {
    let mut world = nested().booted();
    let [inner, node] = ["inner", "inner/b"].map(|path| world.ix(path));
    world.command(quarantine(inner)).expect("it is no root");
    world
        .command(Command::Remove { node })
        .expect("it is no root");
    assert_eq!(world.tree_size(), 5, "node, a, inner, inner/c and d");
    world.take_log();
    world
        .command(Command::Recover { node: inner })
        .expect("it is out");
    assert_eq!(world.take_log(), ["start inner/c 2", "start d 2"]);
}

/// Supervisors x and y with a worker each, two levels below them; x and y have to pause before their second restart.
fn two_groups() -> World {
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    let patient = Rules {
        backoff: Backoff {
            initial: SECOND,
            max: SECOND,
            jitter_percent: 0,
        },
        ..rules(Restart::Permanent)
    };
    let (strategy, none) = (Strategy::OneForOne, Window::new(0, SECOND));
    for id in ["x", "y"] {
        let group = core.add_supervisor(0, id, patient.clone(), strategy, none);
        let inner = core.add_supervisor(group, "inner", rules(Restart::Permanent), strategy, none);
        core.add_worker(inner, "w", rules(Restart::Permanent));
    }
    World::new(core).booted()
}

#[test]
fn a_stop_and_a_start_that_fall_together_are_both_carried_through() {
    let mut world = two_groups();
    world.panics("y/inner/w");
    world.panics("y/inner/w");
    assert_eq!(world.state("y"), ChildState::BackingOff);
    world.take_log();
    // The order comes at the instant at which the pause ends, ahead of the tick.
    world.now += SECOND;
    let node = world.ix("x");
    world
        .command(Command::Restart { node })
        .expect("it is no root");
    let expected = ["start y/inner/w 3", "stop x/inner/w 1", "start x/inner/w 2"];
    assert_eq!(world.take_log(), expected);
    world.passes(Duration::ZERO);
    assert_eq!(world.take_log(), Vec::<String>::new());
}
