use super::world::{CHAIN, ONE, SECURITY, TWO, World, corrupt, stuck, taken_out};
use crate::audit::{Action, Cause, RecordOutcome};
use crate::core::{Decision, Effect, NODE, Refusal, Standing, Step, Verdict};

#[test]
fn an_order_again_changes_nothing_and_is_written_down_all_the_same() {
    let mut world = World::new();
    assert_eq!(world.order(Decision::Quarantine, ONE).1, Verdict::Carry);
    let before = world.standing(ONE);
    world.now_ms += 5;
    let (step, verdict) = world.order(Decision::Quarantine, ONE);
    assert_eq!((verdict, step.effects.len()), (Verdict::Unchanged, 0));
    assert_eq!(world.last_outcome(), RecordOutcome::Unchanged);
    assert_eq!(world.standing(ONE), before);

    assert_eq!(world.order(Decision::Recover, ONE).1, Verdict::Carry);
    assert_eq!(
        world.order(Decision::Recover, ONE).1,
        Verdict::Unchanged,
        "one try at a time"
    );
    world.probed(ONE, Ok(()));
    assert_eq!(world.order(Decision::Recover, ONE).1, Verdict::Unchanged);
    assert_eq!(world.log.len(), 6);
    for _ in 0..2 {
        let (step, verdict) = world.order(Decision::Failover, ONE);
        assert_eq!(verdict, Verdict::Carry, "repeatable");
        assert!(matches!(&step.effects[..], [Effect::Failover { .. }]));
        assert_eq!(
            world.standing(ONE),
            Standing::Healthy,
            "it stays in service"
        );
    }
}

#[test]
fn what_nothing_would_serve_without_is_refused_unless_forced() {
    let alone = ["storage", CHAIN, "serving", "serving/replicas", NODE];
    for path in alone {
        let mut world = World::new();
        let refused = Verdict::Refused(Refusal::NothingWouldServe(path.to_owned()));
        assert_eq!(world.order(Decision::Quarantine, path).1, refused, "{path}");
        assert_eq!(world.last_outcome(), RecordOutcome::Refused);
        assert!(!world.is_out(path));
        let forced = world.order_with(Decision::Quarantine, path, true).1;
        assert_eq!(forced, Verdict::Carry, "{path}");
        assert!(world.is_out(path));
    }
    let mut world = World::new();
    assert_eq!(world.order(Decision::Quarantine, ONE).1, Verdict::Carry);
    let last = Verdict::Refused(Refusal::NothingWouldServe(TWO.to_owned()));
    assert_eq!(world.order(Decision::Quarantine, TWO).1, last);
    assert_eq!(world.order(Decision::Quarantine, ONE).1, Verdict::Unchanged);
    // A name that merely begins the same is another component.
    let other = Verdict::Refused(Refusal::Unknown("serving/repl".to_owned()));
    assert_eq!(world.order(Decision::Quarantine, "serving/repl").1, other);
}

#[test]
fn what_the_tree_holds_out_already_takes_nothing_from_service() {
    let mut world = World::new();
    world.order(Decision::Quarantine, ONE);
    world.set_out(TWO, true);
    assert_eq!(world.order(Decision::Quarantine, TWO).1, Verdict::Carry);
    assert!(world.is_out(TWO));
}

#[test]
fn a_step_in_which_anything_follows_is_not_empty() {
    assert!(Step::default().is_empty());
    let mut world = World::new();
    let full = world.order(Decision::Quarantine, ONE).0;
    let alerted = world.report(corrupt(TWO));
    let entries = Step {
        entries: full.entries,
        ..Step::default()
    };
    let effects = Step {
        effects: full.effects,
        ..Step::default()
    };
    let alerts = Step {
        alerts: alerted.alerts,
        ..Step::default()
    };
    for step in [entries, effects, alerts] {
        assert!(!step.is_empty(), "{step:?}");
    }
}

#[test]
fn decisions_are_called_the_same_everywhere() {
    for decision in [Decision::Quarantine, Decision::Recover, Decision::Failover] {
        let name = serde_json::to_value(decision).unwrap();
        assert_eq!(name, decision.to_string());
    }
}

#[test]
fn what_is_not_there_is_refused() {
    for decision in [Decision::Quarantine, Decision::Recover, Decision::Failover] {
        let mut world = World::new();
        let unknown = Verdict::Refused(Refusal::Unknown("x".to_owned()));
        assert_eq!(world.order_with(decision, "x", true).1, unknown);
        assert_eq!(world.log.len(), 1);
    }
    let mut world = World::new();
    world.order(Decision::Quarantine, ONE);
    world.components.clear();
    assert_eq!(
        world.order(Decision::Recover, ONE).1,
        Verdict::Carry,
        "the log knows it"
    );
}

#[test]
fn what_is_quarantined_is_not_failed_over() {
    let refused = Verdict::Refused(Refusal::Quarantined(ONE.to_owned()));
    let mut world = World::new();
    world.set_out(ONE, true);
    assert_eq!(
        world.order(Decision::Failover, ONE).1,
        refused,
        "the tree's word is enough"
    );
    world.report(taken_out(ONE));
    assert_eq!(world.order(Decision::Failover, ONE).1, refused);
    world.order(Decision::Recover, ONE);
    assert_eq!(world.order(Decision::Failover, ONE).1, refused);
}

#[test]
fn an_admin_takes_a_quarantine_by_rule_over() {
    let mut world = World::new();
    world.report(taken_out(ONE));
    assert_eq!(world.order(Decision::Quarantine, ONE).1, Verdict::Carry);
    let standing = world.standing(ONE);
    let quarantine = standing.quarantine().unwrap();
    assert_eq!(
        (quarantine.cause, quarantine.next_probe_ms),
        (Cause::Operator, None)
    );
    assert!(
        world.tick_after(u64::from(u32::MAX)).is_empty(),
        "nobody but an admin tries"
    );
}

#[test]
fn a_quarantine_during_a_recovery_holds_whatever_comes_of_that() {
    for result in [Ok(()), Err("no")] {
        let mut world = World::new();
        world.order(Decision::Quarantine, ONE);
        world.order(Decision::Recover, ONE);
        assert_eq!(world.order(Decision::Quarantine, ONE).1, Verdict::Carry);
        let step = world.probed(ONE, result);
        assert!(step.entries.is_empty());
        assert!(matches!(&step.effects[..], [Effect::Quarantine { .. }]));
        assert!(world.is_out(ONE));
    }
}

#[test]
fn force_never_skips_a_verification() {
    let mut world = World::new();
    world.report(corrupt(ONE));
    let (step, _) = world.order_with(Decision::Recover, ONE, true);
    assert!(matches!(
        &step.effects[..],
        [Effect::Probe { verify: true, .. }]
    ));
}

#[test]
fn a_recovery_of_what_the_tree_alone_holds_out_is_two_entries() {
    let mut world = World::new();
    world.set_out(ONE, true);
    let (step, verdict) = world.order(Decision::Recover, ONE);
    let actions: Vec<_> = step.entries.iter().map(|entry| entry.action).collect();
    assert_eq!(
        (verdict, actions),
        (Verdict::Carry, vec![Action::Quarantine, Action::Probe])
    );
    assert!(matches!(
        &step.effects[..],
        [Effect::Probe { verify: false, .. }]
    ));
    assert_eq!(world.log.last().unwrap().who, "admin");
    world.probed(ONE, Ok(()));
    assert_eq!(world.standing(ONE), Standing::Healthy);
}

#[test]
fn a_failover_that_did_not_end_well_is_written_down() {
    let mut world = World::new();
    world.order(Decision::Failover, ONE);
    let step = world
        .core
        .failover_failed(ONE, "admin", "it did not come back", world.now_ms);
    world.follow(step);
    assert_eq!(world.last_outcome(), RecordOutcome::Failed);
    assert!(!world.is_out(ONE));
}

#[test]
fn what_decides_is_never_taken_out() {
    let refused = Verdict::Refused(Refusal::Decides(SECURITY.to_owned()));
    let mut world = World::new();
    for decision in [Decision::Quarantine, Decision::Failover] {
        assert_eq!(world.order_with(decision, SECURITY, true).1, refused);
    }
    for report in [corrupt(SECURITY), taken_out(SECURITY), stuck(SECURITY)] {
        for _ in 0..5 {
            world.report(report.clone());
        }
    }
    assert!(!world.is_out(SECURITY));
    let whole = world.order_with(Decision::Quarantine, NODE, true).1;
    assert_eq!(whole, Verdict::Carry, "the node is what serves");
}

#[test]
fn what_the_tree_takes_out_along_with_something_above_comes_back_with_that() {
    for above in ["serving/replicas", NODE] {
        let mut world = World::new();
        world.order_with(Decision::Quarantine, above, true);
        world.set_out(ONE, true);
        world.report(taken_out(ONE));
        assert!(world.tick_after(u64::from(u32::MAX)).is_empty(), "{above}");
        let refused = Verdict::Refused(Refusal::Quarantined(above.to_owned()));
        assert_eq!(world.order(Decision::Recover, ONE).1, refused);
        assert_eq!(world.order(Decision::Failover, TWO).1, refused);
        // Its own damage is another matter.
        world.report(corrupt(ONE));
        assert!(world.is_out(ONE));
    }
}

#[test]
fn the_node_as_a_whole_is_out_by_decision_alone() {
    let mut world = World::new();
    let mut whole = world.components[0].clone();
    whole.path = NODE.to_owned();
    (whole.needed, whole.quarantined) = (false, true);
    world.components.push(whole);
    assert!(world.tick_after(1).is_empty());
    assert_eq!(world.order(Decision::Recover, NODE).1, Verdict::Unchanged);
}
