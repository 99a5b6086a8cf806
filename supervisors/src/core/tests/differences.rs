//! Where the rules differ from OTP's on purpose, and no other test says so.

use super::world::{SECOND, World, rules, settings};
use crate::{
    ChildState, ExitReason, Restart, Strategy, Window,
    core::{Command, Core},
};

/// OTP's supervisor would exit with `shutdown`, after which a transient child stays down.
#[test]
fn a_transient_supervisor_that_gives_up_is_restarted() {
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings());
    let (rules_of, window) = (rules(Restart::Transient), Window::new(0, SECOND));
    let inner = core.add_supervisor(0, "inner", rules_of, Strategy::OneForOne, window);
    core.add_worker(inner, "a", rules(Restart::Permanent));
    let mut world = World::new(core).booted();
    world.panics("inner/a");
    assert_eq!(world.take_log(), ["gives up inner", "start inner/a 2"]);
}

/// OTP forgets a temporary child that has ended.
#[test]
fn a_person_may_start_a_finished_child_again() {
    let worker = ("a", rules(Restart::Temporary));
    let mut world = World::flat(Strategy::OneForOne, &[worker]);
    world.exits("a", ExitReason::Normal);
    assert_eq!(world.state("a"), ChildState::Stopped);
    let node = world.ix("a");
    world
        .command(Command::Recover { node })
        .expect("it can be started");
    assert_eq!(world.take_log(), ["start a 2"]);
}

/// OTP hears of no exit while it starts a group: it would start c and d, and then stop both because b is gone.
#[test]
fn an_exit_is_heard_while_a_group_starts() {
    let worker = |id| (id, rules(Restart::Permanent));
    let workers = ["a", "b", "c", "d"].map(worker);
    let mut world = World::flat(Strategy::RestForOne, &workers);
    world.slow = true;
    world.panics("c");
    assert!(world.delivers(0), "d has stopped");
    assert_eq!(world.take_log(), ["stop d 1", "start c 2"]);
    world.panics("b");
    while world.delivers(0) {}
    assert_eq!(
        world.take_log(),
        ["stop c 2", "start b 2", "start c 3", "start d 2"]
    );
}
