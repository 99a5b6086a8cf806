use super::world::{MINUTE_MS, ONE, RULES, World, corrupt, taken_out};
use crate::audit::Cause;
use crate::core::{Effect, Standing};

#[test]
fn a_recovery_is_tried_once_after_five_minutes() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    assert!(world.tick_after(5 * MINUTE_MS - 1).is_empty());
    let due = world.tick_after(1);
    assert!(matches!(&due.effects[..], [Effect::Probe { path, verify: false, .. }] if path == ONE));
    assert!(matches!(world.standing(ONE), Standing::Probing(_)));
    assert!(
        world.tick_after(60 * MINUTE_MS).is_empty(),
        "one try at a time"
    );
    world.probed(ONE, Ok(()));
    assert_eq!(world.standing(ONE), Standing::Healthy);
}

#[test]
fn each_failed_try_doubles_the_pause_up_to_the_longest() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    let since_ms = world.now_ms;
    for (attempts, minutes) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        assert!(
            world.tick_after(minutes * MINUTE_MS - 1).is_empty(),
            "{attempts}"
        );
        assert_eq!(world.tick_after(1).effects.len(), 1, "{attempts}");
        let again = world.probed(ONE, Err("it does not start"));
        assert!(matches!(&again.effects[..], [Effect::Quarantine { .. }]));
        let standing = world.standing(ONE);
        let quarantine = standing.quarantine().unwrap();
        assert_eq!(quarantine.attempts as usize, attempts + 1);
        assert_eq!(
            (quarantine.since_ms, quarantine.cause),
            (since_ms, Cause::Window)
        );
    }
    assert_eq!(RULES.pause_ms(u32::MAX), 60 * MINUTE_MS);
}

#[test]
fn what_was_corrupt_is_verified_before_it_is_recovered() {
    let mut world = World::new();
    world.report(corrupt(ONE));
    for pause in [5, 10] {
        let due = world.tick_after(pause * MINUTE_MS);
        assert!(matches!(
            &due.effects[..],
            [Effect::Probe { verify: true, .. }]
        ));
        world.probed(ONE, Err("layer4.expert7 fails its hash"));
    }
    world.tick_after(20 * MINUTE_MS);
    world.probed(ONE, Ok(()));
    assert!(!world.is_out(ONE));
    world.report(taken_out(ONE));
    let standing = world.standing(ONE);
    let quarantine = standing.quarantine().unwrap();
    assert!(
        !quarantine.needs_verification,
        "a recovery clears the slate"
    );
    assert_eq!(quarantine.attempts, 0);
}

#[test]
fn damage_found_during_a_recovery_ends_it() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    world.tick_after(5 * MINUTE_MS);
    world.report(corrupt(ONE));
    assert!(matches!(world.standing(ONE), Standing::Quarantined(_)));
    let late = world.probed(ONE, Ok(()));
    assert!(late.entries.is_empty());
    assert!(world.is_out(ONE), "the late success does not lift it");
}

#[test]
fn damage_found_again_during_the_recovery_from_damage_ends_that_too() {
    let mut world = World::new();
    world.report(corrupt(ONE));
    world.tick_after(5 * MINUTE_MS);
    world.report(corrupt(ONE));
    assert!(matches!(world.standing(ONE), Standing::Quarantined(_)));
    let quarantine = world.standing(ONE);
    let attempts = quarantine.quarantine().unwrap().attempts;
    assert_eq!(attempts, 1, "the next try comes later");
}

#[test]
fn that_the_tree_holds_it_out_is_no_news_during_a_recovery() {
    let mut world = World::new();
    world.report(corrupt(ONE));
    world.tick_after(5 * MINUTE_MS);
    assert!(world.report(taken_out(ONE)).is_empty());
    assert!(matches!(world.standing(ONE), Standing::Probing(_)));
}

#[test]
fn nothing_is_tried_before_there_is_a_tree() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    let components = std::mem::take(&mut world.components);
    assert!(world.tick_after(6 * MINUTE_MS).is_empty());
    world.components = components;
    assert_eq!(world.tick_after(0).effects.len(), 1);
}

#[test]
fn a_new_generation_takes_out_again_what_was_and_fails_the_recovery_that_was_cut_short() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    let replayed = world.replayed();
    let start = replayed.start(world.now_ms);
    assert!(start.entries.is_empty());
    assert!(matches!(&start.effects[..], [Effect::Quarantine { path, .. }] if path == ONE));

    world.tick_after(5 * MINUTE_MS);
    let start = world.replayed().start(world.now_ms);
    world.follow(start);
    let Standing::Quarantined(quarantine) = world.standing(ONE) else {
        panic!("it is still being recovered");
    };
    assert_eq!(quarantine.attempts, 1);
    assert_eq!(
        quarantine.next_probe_ms,
        Some(world.now_ms + 10 * MINUTE_MS)
    );
}
