//! Starts that fail: they count even where each takes longer than the window is long.

use super::world::{SECOND, World, rules, settings};
use crate::{
    ChildState, ExitReason, Restart, Strategy, TreeExit, Window,
    core::{Core, Event},
    spec::Rules,
};

/// A child whose start a test has to end, below a root that grants two restarts in ten seconds.
fn starting(rules: Rules) -> World {
    let window = Window::new(2, 10 * SECOND);
    let mut core = Core::new("node", Strategy::OneForOne, window, settings());
    let node = core.add_worker(0, "a", rules);
    let mut world = World::new(core);
    world.deaf.insert(node);
    world.happens(Event::Boot);
    world
}

/// The start goes on for twice the window, and then fails.
fn fails_late(world: &mut World) {
    world.passes(20 * SECOND);
    world.exits("a", ExitReason::StartFailed("no".to_owned()));
}

#[test]
fn a_child_whose_starts_fail_late_is_quarantined() {
    let mut world = starting(Rules {
        window: Window::new(3, 10 * SECOND),
        ..rules(Restart::Permanent)
    });
    for _ in 0..3 {
        fails_late(&mut world);
        assert_eq!(world.state("a"), ChildState::Starting);
    }
    fails_late(&mut world);
    assert_eq!(world.state("a"), ChildState::Quarantined);
    assert_eq!(world.exit, None, "the root's smaller window is not meant");
}

#[test]
fn without_quarantine_its_supervisor_gives_up_instead() {
    let mut world = starting(Rules {
        quarantine: false,
        ..rules(Restart::Permanent)
    });
    for _ in 0..2 {
        fails_late(&mut world);
        assert_eq!(world.state("a"), ChildState::Starting);
    }
    fails_late(&mut world);
    assert!(matches!(world.exit, Some(TreeExit::Escalated { .. })));
}

#[test]
fn a_start_that_succeeds_forgives_those_that_failed() {
    let mut world = starting(Rules {
        quarantine: false,
        ..rules(Restart::Permanent)
    });
    for _ in 0..3 {
        fails_late(&mut world);
        fails_late(&mut world);
        let node = world.ix("a");
        let generation = world.alive[&node];
        world.happens(Event::Started { node, generation });
        assert_eq!(world.state("a"), ChildState::Running);
        world.passes(20 * SECOND);
        world.panics("a");
    }
    assert_eq!(world.exit, None);
}
