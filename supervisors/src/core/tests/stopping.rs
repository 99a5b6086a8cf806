//! How children are stopped, and what is done about those that do not stop.

use std::time::Duration;

use super::{
    policies::three,
    world::{SECOND, World, rules, settings},
};
use crate::{
    ChildState, ExitReason, Restart, Shutdown, Strategy, TreeExit, Window,
    core::{Command, Core, Event},
    spec::Rules,
};

#[test]
fn shutdown_asks_then_kills_then_abandons() {
    let patient = Rules {
        shutdown: Shutdown::Timeout(5 * SECOND),
        ..rules(Restart::Permanent)
    };
    let mut world = three(Strategy::OneForOne, patient);
    world.deaf.insert(world.ix("b"));
    world.command(Command::Stop).expect("it can be stopped");
    assert_eq!(world.take_log(), ["stop c 1", "stop b 1"]);
    world.passes(5 * SECOND - Duration::from_millis(1));
    assert_eq!(world.take_log(), Vec::<String>::new());
    world.passes(Duration::from_millis(1));
    assert_eq!(world.take_log(), ["kill b 1"]);
    world.passes(settings().kill_grace);
    assert_eq!(world.take_log(), ["abandon b 1", "stop a 1"]);
    assert_eq!(
        (world.exit.clone(), world.core.zombies()),
        (Some(TreeExit::Stopped), 1)
    );
}

#[test]
fn a_brutal_kill_does_not_ask_and_infinity_does_not_hurry() {
    let with = |shutdown| Rules {
        shutdown,
        ..rules(Restart::Permanent)
    };
    let mut world = World::flat(
        Strategy::OneForOne,
        &[
            ("patient", with(Shutdown::Infinity)),
            ("brutal", with(Shutdown::Kill)),
        ],
    );
    world.deaf.insert(world.ix("patient"));
    world.command(Command::Stop).expect("it can be stopped");
    assert_eq!(world.take_log(), ["kill brutal 1", "stop patient 1"]);
    world.passes(100_000 * SECOND);
    assert_eq!((world.take_log(), world.exit.clone()), (Vec::new(), None));
    world.exits("patient", ExitReason::Shutdown);
    assert_eq!(world.exit, Some(TreeExit::Stopped));
}

#[test]
fn a_stuck_child_is_replaced_at_once_and_its_zombie_counted_until_it_returns() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    let (node, age) = (world.ix("b"), SECOND);
    let generation = world.alive[&node];
    world.happens(Event::Stuck {
        node,
        generation,
        age,
    });
    assert_eq!(world.take_log(), ["abandon b 1", "start b 2"]);
    assert_eq!(world.core.zombies(), 1);
    let reason = ExitReason::Killed;
    world.happens(Event::Exited {
        node,
        generation,
        reason,
    });
    assert_eq!(
        (world.core.zombies(), world.state("b")),
        (0, ChildState::Running)
    );
    assert_eq!(
        world.take_log(),
        Vec::<String>::new(),
        "the new generation is left alone"
    );
}

#[test]
fn a_child_that_starts_is_not_stuck_before_its_start_limit() {
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    let node = core.add_worker(0, "a", rules(Restart::Permanent));
    let mut world = World::new(core);
    world.deaf.insert(node);
    world.happens(Event::Boot);
    let generation = world.alive[&node];
    world.happens(Event::Stuck {
        node,
        generation,
        age: 10 * SECOND,
    });
    assert_eq!(world.take_log(), ["start a 1"]);
    world.passes(30 * SECOND);
    world.passes(settings().kill_grace);
    assert_eq!(world.take_log(), ["kill a 1", "abandon a 1", "start a 2"]);
    let exit = world
        .tree()
        .find("a")
        .and_then(|a| a.last_exit.clone())
        .expect("it exited");
    assert_eq!(exit.class, "start_failed");
}

#[test]
fn too_many_zombies_stop_the_tree() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    for _ in 0..3 {
        let generation = world.alive[&node];
        world.happens(Event::Stuck {
            node,
            generation,
            age: SECOND,
        });
    }
    assert_eq!(
        world.exit,
        Some(TreeExit::TooManyZombies {
            zombies: 3,
            limit: 2
        })
    );
}

#[test]
fn a_lost_thread_restarts_without_blame() {
    let mut world = three(Strategy::RestForOne, rules(Restart::Permanent));
    let node = world.ix("b");
    let generation = world.alive.remove(&node).expect("it is alive");
    world.happens(Event::ThreadLost { node, generation });
    assert_eq!(world.take_log(), ["stop c 1", "start b 2", "start c 2"]);
    assert_eq!(world.tree().restarts_in_window, 0);
}

#[test]
fn a_temporary_child_is_not_brought_back_when_its_thread_is_lost() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Temporary));
    let node = world.ix("b");
    let generation = world.alive.remove(&node).expect("it is alive");
    world.happens(Event::ThreadLost { node, generation });
    assert_eq!(world.take_log(), Vec::<String>::new());
    assert_eq!(world.state("b"), ChildState::Stopped);
}

#[test]
fn when_the_time_to_stop_is_over_the_workers_that_are_left_are_given_up_and_named() {
    let patient = Rules {
        shutdown: Shutdown::Infinity,
        ..rules(Restart::Permanent)
    };
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    core.add_worker(0, "a", patient.clone());
    let group = rules(Restart::Permanent);
    let inner = core.add_supervisor(0, "inner", group, Strategy::OneForOne, Window::SUPERVISOR);
    let deaf = core.add_worker(inner, "b", patient.clone());
    core.add_worker(inner, "c", patient);
    let mut world = World::new(core).booted();
    world.deaf.insert(deaf);
    world.command(Command::Stop).expect("it can be stopped");
    assert_eq!(world.take_log(), ["stop inner/c 1", "stop inner/b 1"]);
    let generation = world.alive[&deaf];
    world.happens(Event::StopOverrun);
    assert_eq!(world.take_log(), ["abandon a 1", "abandon inner/b 1"]);
    let left = vec!["a".to_owned(), "inner/b".to_owned()];
    assert_eq!(world.exit, Some(TreeExit::StopOverrun { left }));
    let back = Event::Exited {
        node: deaf,
        generation,
        reason: ExitReason::Shutdown,
    };
    assert_eq!(
        world.core.decide(back, world.now),
        [],
        "a tree that has ended decides nothing"
    );
}
