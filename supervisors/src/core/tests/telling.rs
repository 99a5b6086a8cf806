//! What the core says about itself.

use super::{
    policies::{nested, three},
    world::{SECOND, rules, settings},
};
use crate::{
    Backoff, ChildState, ExitReason, Generation, Restart, Strategy, TreeExit, Window,
    core::{Command, Core, Event, Settings},
    spec::Rules,
};

#[test]
fn callers_are_told_of_each_change_and_when_to_come_back() {
    let backoff = Backoff {
        initial: SECOND,
        max: SECOND,
        jitter_percent: 0,
    };
    let patient = Rules {
        backoff,
        ..rules(Restart::Permanent)
    };
    let mut world = three(Strategy::OneForOne, patient);
    let b = world.ix("b");
    assert_eq!(world.told[&b], (ChildState::Running, Generation(1), None));
    world.panics("b");
    assert_eq!(world.told[&b], (ChildState::Running, Generation(2), None));
    world.passes(SECOND);
    world.panics("b");
    let (state, _, retry_at) = world.told[&b];
    assert_eq!(
        (state, retry_at),
        (ChildState::BackingOff, Some(2 * SECOND))
    );
}

#[test]
fn nothing_is_told_when_nothing_has_changed() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    assert_eq!(world.core.decide(Event::Tick, world.now), []);
}

#[test]
fn a_tree_has_ended_when_its_last_child_is_down() {
    let mut world = three(Strategy::OneForOne, rules(Restart::Permanent));
    world.deaf.insert(world.ix("a"));
    world.command(Command::Stop).expect("it can be stopped");
    assert!(!world.core.has_ended(), "a still stops");
    world.exits("a", ExitReason::Shutdown);
    assert!(world.core.has_ended());
    assert_eq!(world.exit, Some(TreeExit::Stopped));
}

#[test]
fn only_supervisors_have_a_window_for_their_children() {
    let world = nested().booted();
    let window = |path| world.core.window_of_supervisor(world.ix(path));
    assert_eq!(window("inner"), Some(Window::new(1, 60 * SECOND)));
    assert_eq!((window("a"), window("inner/b")), (None, None));
}

/// The first outputs of SplitMix64 for this seed, as its reference implementation gives them
/// (<https://prng.di.unimi.it/splitmix64.c>).
#[test]
fn jitter_is_drawn_from_the_seed_by_splitmix64() {
    let settings = Settings {
        seed: 1_234_567,
        ..settings()
    };
    let mut core = Core::new("node", Strategy::OneForOne, Window::SUPERVISOR, settings);
    let expected = [
        6_457_827_717_110_365_317,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
        4_593_380_528_125_082_431,
    ];
    assert_eq!(expected.map(|_| core.draw()), expected);
}
