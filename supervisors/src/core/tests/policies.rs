//! One case for each rule.

use std::time::Duration;

use super::world::{SECOND, World, rules, settings};
use crate::{
    Backoff, ChildState, ExitReason, Restart, Strategy, TreeEvent, TreeExit, Window,
    core::{Command, Core, Event},
    spec::Rules,
};

/// Workers a, b, c; a and c are permanent.
pub(super) fn three(strategy: Strategy, b: Rules) -> World {
    let permanent = || rules(Restart::Permanent);
    World::flat(
        strategy,
        &[("a", permanent()), ("b", b), ("c", permanent())],
    )
}

#[test]
fn a_temporary_sibling_is_stopped_with_its_group_and_not_started_again() {
    for strategy in [Strategy::RestForOne, Strategy::OneForAll] {
        let mut world = World::flat(
            strategy,
            &[
                ("a", rules(Restart::Permanent)),
                ("b", rules(Restart::Temporary)),
                ("c", rules(Restart::Permanent)),
            ],
        );
        world.panics("a");
        let expected = ["stop c 1", "stop b 1", "start a 2", "start c 2"];
        assert_eq!(world.take_log(), expected, "{strategy:?}");
        assert_eq!(world.state("b"), ChildState::Stopped);
    }
}

#[test]
fn a_finished_transient_sibling_starts_again_with_its_group() {
    let mut world = three(Strategy::OneForAll, rules(Restart::Transient));
    world.exits("b", ExitReason::Normal);
    assert_eq!(world.take_log(), Vec::<String>::new());
    world.panics("a");
    assert_eq!(
        world.take_log(),
        ["stop c 1", "start a 2", "start b 2", "start c 2"]
    );
}

#[test]
fn the_window_slides() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    for _ in 0..3 {
        world.panics("b");
        world.passes(SECOND);
    }
    // The first of the three restarts has just left the window.
    world.passes(58 * SECOND);
    world.panics("b");
    assert_eq!(world.state("b"), ChildState::Running);
    // Now three are in it, exactly at its edge.
    world.panics("b");
    assert_eq!(world.state("b"), ChildState::Quarantined);
}

#[test]
fn each_pause_doubles_and_the_first_restart_is_immediate() {
    let backoff = Backoff {
        initial: SECOND,
        max: 3 * SECOND,
        jitter_percent: 0,
    };
    let window = Window::new(5, 60 * SECOND);
    let mut world = three(
        Strategy::OneForOne,
        Rules {
            backoff,
            window,
            ..rules(Restart::Permanent)
        },
    );
    let mut pauses = Vec::new();
    for _ in 0..5 {
        world.panics("b");
        let last_pause = world.events.iter().rev().find_map(|event| match event {
            TreeEvent::ChildRestarting { pause, .. } => Some(*pause),
            _ => None,
        });
        let pause = last_pause.expect("a restart was granted");
        pauses.push(pause.as_secs());
        world.passes(pause);
        assert_eq!(world.state("b"), ChildState::Running);
    }
    assert_eq!(pauses, [0, 1, 2, 3, 3]);
}

#[test]
fn jitter_only_lengthens_and_depends_on_the_seed_alone() {
    let backoff = Backoff::default();
    let draws: Vec<Duration> = (0..1000_u64)
        .map(|draw| backoff.jittered(4, draw * 7919))
        .collect();
    let (least, most) = (backoff.pause(4), backoff.pause(4).mul_f64(1.1));
    assert!(draws.iter().all(|pause| (least..=most).contains(pause)));
    assert!(draws.iter().any(|pause| *pause > least));
    assert_eq!(backoff.jittered(4, 42), backoff.jittered(4, 42));
}

#[test]
fn a_quarantined_child_holds_those_down_that_need_it() {
    for (strategy, down) in [
        (Strategy::OneForOne, vec![]),
        (Strategy::RestForOne, vec!["c"]),
        (Strategy::OneForAll, vec!["a", "c"]),
    ] {
        let mut world = three(strategy, rules(Restart::Permanent));
        for _ in 0..4 {
            world.panics("b");
        }
        assert_eq!(world.state("b"), ChildState::Quarantined);
        for id in ["a", "c"] {
            let state = if down.contains(&id) {
                ChildState::Stopped
            } else {
                ChildState::Running
            };
            assert_eq!(world.state(id), state, "{strategy:?} {id}");
        }
        let node = world.ix("b");
        world
            .command(Command::Recover { node })
            .expect("it can be recovered");
        assert!(
            ["a", "b", "c"]
                .iter()
                .all(|id| world.state(id) == ChildState::Running)
        );
    }
}

#[test]
fn the_supervisors_window_counts_all_children_together() {
    let mut core = Core::new(
        "node",
        Strategy::OneForOne,
        Window::new(4, 60 * SECOND),
        settings(),
    );
    for id in ["a", "b"] {
        core.add_worker(0, id, rules(Restart::Permanent));
    }
    let mut world = World::new(core).booted();
    for id in ["a", "b", "a", "b"] {
        world.panics(id);
    }
    assert_eq!(world.exit, None);
    world.take_log();
    world.panics("a");
    assert_eq!(world.take_log(), ["gives up node", "stop b 3"]);
    let why = "more than 4 restarts within 60s, last exit: a panicked: boom".to_owned();
    assert_eq!(world.exit, Some(TreeExit::Escalated { why }));
}

#[test]
fn a_child_without_quarantine_fills_the_supervisors_window() {
    let edge = Rules {
        quarantine: false,
        ..rules(Restart::Permanent)
    };
    let mut world = three(Strategy::OneForOne, edge);
    for _ in 0..10 {
        world.panics("b");
    }
    assert_eq!(
        (world.exit.clone(), world.state("b")),
        (None, ChildState::Running)
    );
    world.panics("b");
    assert!(matches!(world.exit, Some(TreeExit::Escalated { .. })));
}

/// node: a, inner (b, c), d; the inner supervisor grants one restart.
pub(super) fn nested() -> World {
    let mut core = Core::new("node", Strategy::RestForOne, Window::SUPERVISOR, settings());
    core.add_worker(0, "a", rules(Restart::Permanent));
    let window = Window::new(1, 60 * SECOND);
    let inner = core.add_supervisor(
        0,
        "inner",
        rules(Restart::Permanent),
        Strategy::OneForOne,
        window,
    );
    core.add_worker(inner, "b", rules(Restart::Permanent));
    core.add_worker(inner, "c", rules(Restart::Permanent));
    core.add_worker(0, "d", rules(Restart::Permanent));
    World::new(core)
}

#[test]
fn a_tree_starts_depth_first_and_stops_the_other_way_round() {
    let mut world = nested();
    world.happens(Event::Boot);
    assert_eq!(
        world.take_log(),
        [
            "start a 1",
            "start inner/b 1",
            "start inner/c 1",
            "start d 1"
        ]
    );
    world.command(Command::Stop).expect("it can be stopped");
    assert_eq!(
        world.take_log(),
        ["stop d 1", "stop inner/c 1", "stop inner/b 1", "stop a 1"]
    );
    assert_eq!(world.exit, Some(TreeExit::Stopped));
}

#[test]
fn an_escalation_is_an_exit_of_the_supervisor_and_its_parents_strategy_applies() {
    let mut world = nested().booted();
    world.panics("inner/b");
    assert_eq!(world.take_log(), ["start inner/b 2"]);
    world.panics("inner/c");
    let expected = [
        "gives up inner",
        "stop inner/b 2",
        "stop d 1",
        "start inner/b 3",
        "start inner/c 2",
        "start d 2",
    ];
    assert_eq!(world.take_log(), expected);
    assert_eq!(world.tree().restarts_in_window, 1);
    let inner = world
        .tree()
        .find("inner")
        .cloned()
        .expect("it is in the tree");
    assert_eq!(
        (inner.generation.0, inner.restarts_in_window),
        (2, 0),
        "its own window begins anew"
    );
}

#[test]
fn a_supervisor_that_escalates_too_often_is_quarantined_whole() {
    let mut world = nested().booted();
    // Its start and three restarts, each of which ends at the second panic.
    for _ in 0..2 * 4 {
        world.panics("inner/b");
    }
    assert_eq!(world.state("inner"), ChildState::Quarantined);
    assert_eq!(
        world.tree().find("inner").map(|inner| inner.generation.0),
        Some(4)
    );
    assert_eq!(
        (world.state("inner/b"), world.state("d")),
        (ChildState::Stopped, ChildState::Stopped)
    );
    let node = world.ix("inner");
    world
        .command(Command::Recover { node })
        .expect("it can be recovered");
    assert_eq!(
        (world.state("inner/b"), world.state("d")),
        (ChildState::Running, ChildState::Running)
    );
}

#[test]
fn a_quarantine_outlives_the_restart_of_its_supervisor() {
    let mut world = nested().booted();
    let node = world.ix("inner/c");
    world
        .command(Command::Quarantine {
            node,
            why: "odd".to_owned(),
        })
        .expect("it can be quarantined");
    world.panics("inner/b");
    world.panics("inner/b");
    assert_eq!(world.state("inner"), ChildState::Running);
    assert_eq!(world.state("inner/c"), ChildState::Quarantined);
}

#[test]
fn a_failed_start_is_retried_in_its_turn_and_holds_up_those_after_it() {
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    core.add_worker(0, "a", rules(Restart::Permanent));
    core.add_worker(0, "b", rules(Restart::Permanent));
    let mut world = World::new(core);
    world.deaf.insert(1);
    world.happens(Event::Boot);
    for _ in 0..3 {
        world.exits("a", ExitReason::StartFailed("no".to_owned()));
    }
    assert_eq!(
        world.take_log(),
        ["start a 1", "start a 2", "start a 3", "start a 4"]
    );
    world.exits("a", ExitReason::StartFailed("no".to_owned()));
    assert_eq!(world.state("a"), ChildState::Quarantined);
    assert_eq!(world.take_log(), ["start b 1"]);
}

#[test]
fn starts_that_take_longer_than_the_window_still_use_it_up() {
    let slow = Rules {
        start_limit: 90 * SECOND,
        ..rules(Restart::Permanent)
    };
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    core.add_worker(0, "a", slow);
    let mut world = World::new(core);
    world.deaf.insert(1);
    world.happens(Event::Boot);
    for _ in 0..4 {
        world.passes(90 * SECOND);
        assert_eq!(
            world.log.last().map(|line| line.starts_with("kill a")),
            Some(true)
        );
        world.exits("a", ExitReason::Killed);
    }
    assert_eq!(world.state("a"), ChildState::Quarantined);
}

#[test]
fn a_person_restarts_a_child_with_its_group_and_without_blame() {
    let mut world = three(Strategy::RestForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    world
        .command(Command::Restart { node })
        .expect("it can be restarted");
    assert_eq!(
        world.take_log(),
        ["stop c 1", "stop b 1", "start b 2", "start c 2"]
    );
    assert_eq!(
        world.tree().find("b").map(|b| b.restarts_in_window),
        Some(0)
    );
}

#[test]
fn exits_of_earlier_generations_are_ignored() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    let generation = world.alive[&node];
    world.panics("b");
    world.take_log();
    let reason = ExitReason::Fatal("late".to_owned());
    world.happens(Event::Exited {
        node,
        generation,
        reason,
    });
    assert_eq!(
        (world.take_log(), world.state("b")),
        (Vec::new(), ChildState::Running)
    );
}

#[test]
fn last_exits_are_dated() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    world.passes(Duration::from_millis(1500));
    world.panics("b");
    let exit = world
        .tree()
        .find("b")
        .and_then(|b| b.last_exit.clone())
        .expect("it exited");
    assert_eq!(
        (exit.class.as_str(), exit.at_ms),
        ("panicked", settings().started_unix_ms + 1500)
    );
}
