use blyan_supervisors::{ExitReason, TreeEvent};
use std::time::Duration;

use super::world::{CHAIN, MINUTE_MS, ONE, TWO, World, corrupt, stuck, taken_out};
use crate::audit::{Action, Cause, RecordOutcome};
use crate::core::{Decision, Effect, Indicator, Report, Standing};

fn cause(world: &World, path: &str) -> Option<Cause> {
    let standing = world.standing(path);
    standing.quarantine().map(|quarantine| quarantine.cause)
}

fn exited(reason: ExitReason) -> Report {
    Report::Exited {
        path: ONE.to_owned(),
        reason,
    }
}

#[test]
fn which_report_quarantines_for_which_cause() {
    let text = || "why".to_owned();
    let path = || ONE.to_owned();
    let table = [
        (exited(ExitReason::Panicked(text())), None),
        (exited(ExitReason::Fatal(text())), None),
        (exited(ExitReason::Killed), None),
        (exited(ExitReason::StartFailed(text())), None),
        (exited(ExitReason::Stuck(Duration::from_secs(5))), None),
        (exited(ExitReason::Corrupt(text())), Some(Cause::Corrupt)),
        (taken_out(ONE), Some(Cause::Window)),
        (corrupt(ONE), Some(Cause::Corrupt)),
        (stuck(ONE), None),
        (
            Report::VerificationFailed {
                path: path(),
                what: text(),
            },
            Some(Cause::Tampering),
        ),
        (
            Report::GenesisMismatch {
                path: path(),
                what: text(),
            },
            Some(Cause::Tampering),
        ),
        (
            Report::Denied {
                who: text(),
                what: path(),
            },
            None,
        ),
        (
            Report::UnusualUpload {
                who: text(),
                what: path(),
            },
            None,
        ),
    ];
    for (report, expected) in table {
        let mut world = World::new();
        let step = world.report(report.clone());
        assert_eq!(cause(&world, ONE), expected, "{report:?}");
        let out = step
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Quarantine { path, .. } if path == ONE));
        assert_eq!(out, expected.is_some(), "{report:?}");
        assert!(!world.is_out(TWO), "{report:?}");
    }
}

#[test]
fn what_an_admin_has_done_with_the_chain_is_written_down_and_moves_nothing() {
    let mut world = World::new();
    let step = world.report(Report::Administered {
        who: "ops".to_owned(),
        action: Action::Adopt,
        subject: "a block".to_owned(),
        reason: "it answers better".to_owned(),
        outcome: RecordOutcome::Failed,
    });
    let [written] = &step.entries[..] else {
        panic!("{step:?}")
    };
    assert_eq!(
        (
            &*written.who,
            written.action,
            &*written.subject,
            &*written.reason,
            written.outcome
        ),
        (
            "ops",
            Action::Adopt,
            "a block",
            "it answers better",
            RecordOutcome::Failed
        )
    );
    assert!(step.effects.is_empty() && step.alerts.is_empty());
    assert_eq!(cause(&world, ONE), None);
}

#[test]
fn the_same_report_again_changes_nothing() {
    for report in [corrupt(ONE), taken_out(ONE)] {
        let mut world = World::new();
        world.report(report.clone());
        let before = world.standing(ONE);
        world.now_ms += 1;
        let again = world.report(report);
        let quarantines = again.entries.iter();
        assert!(
            quarantines
                .clone()
                .all(|entry| entry.action != Action::Quarantine)
        );
        assert!(again.effects.is_empty());
        assert_eq!(world.standing(ONE), before);
    }
}

#[test]
fn stuck_three_times_within_the_window_quarantines_unless_nothing_else_serves() {
    let mut world = World::new();
    world.report(stuck(ONE));
    world.report(exited(ExitReason::Stuck(Duration::from_secs(5))));
    assert!(!world.is_out(ONE));
    world.now_ms += 60 * MINUTE_MS;
    world.report(stuck(ONE));
    assert_eq!(
        cause(&world, ONE),
        Some(Cause::Stuck),
        "the edge counts as inside"
    );

    let mut slow = World::new();
    for _ in 0..6 {
        slow.report(stuck(ONE));
        slow.now_ms += 30 * MINUTE_MS + 1;
    }
    assert!(!slow.is_out(ONE));

    for _ in 0..2 {
        world.report(stuck(TWO));
    }
    assert_eq!(world.log.last().unwrap().subject, ONE);
    world.report(stuck(TWO));
    assert!(!world.is_out(TWO), "a suspicion never takes the last one");
    assert_eq!(world.last_outcome(), RecordOutcome::Refused);
    // Damage is no suspicion: better no answer than a wrong one.
    world.report(corrupt(TWO));
    assert!(world.is_out(TWO));
}

#[test]
fn thresholds_are_those_of_sec_21_and_each_crossing_alerts_once() {
    let expected = [
        (Indicator::FailedAuthAttempts, 10, 5),
        (Indicator::UnusualUploadPatterns, 50, 60),
        (Indicator::GenesisIntegrityFailures, 1, 1),
        (Indicator::ExpertTamperingDetected, 1, 1),
        (Indicator::NodeQuarantineEvents, 3, 60),
    ];
    assert_eq!(expected.map(|(indicator, ..)| indicator), Indicator::ALL);
    for (indicator, threshold, minutes) in expected {
        assert_eq!(indicator.threshold(), threshold, "{indicator:?}");
        assert_eq!(indicator.window_ms(), minutes * MINUTE_MS, "{indicator:?}");
    }
    let denied = || Report::Denied {
        who: "127.0.0.1".to_owned(),
        what: "POST /security/failover/x".to_owned(),
    };
    let mut world = World::new();
    for _ in 0..9 {
        assert!(world.report(denied()).alerts.is_empty());
    }
    let alerts = world.report(denied()).alerts;
    assert_eq!(alerts.len(), 1);
    assert_eq!(
        (alerts[0].indicator, alerts[0].count),
        (Indicator::FailedAuthAttempts, 10)
    );
    assert_eq!(world.log.last().unwrap().action, Action::Alert);
    assert!(world.report(denied()).alerts.is_empty(), "once");
    world.now_ms += 5 * MINUTE_MS + 1;
    for _ in 0..9 {
        assert!(world.report(denied()).alerts.is_empty());
    }
    assert_eq!(
        world.report(denied()).alerts.len(),
        1,
        "and again after it has been below"
    );
}

#[test]
fn indicators_are_called_the_same_everywhere() {
    for indicator in Indicator::ALL {
        let name = serde_json::to_value(indicator).unwrap();
        assert_eq!(name, indicator.as_str());
    }
}

#[test]
fn every_kind_of_indicator_is_counted() {
    let mut world = World::new();
    let (who, what) = ("10.0.0.1".to_owned(), "odd".to_owned());
    for _ in 0..50 {
        let (who, what) = (who.clone(), what.clone());
        world.report(Report::UnusualUpload { who, what });
    }
    world.report(Report::GenesisMismatch {
        path: who.clone(),
        what,
    });
    world.report(corrupt(ONE));
    world.order(Decision::Quarantine, "serving/expert_cache");
    world.order_with(Decision::Quarantine, CHAIN, true);
    for _ in 0..10 {
        world.report(Report::Denied {
            who: who.clone(),
            what: who.clone(),
        });
    }
    let now_ms = world.now_ms;
    let states = world.core.indicators(now_ms);
    let crossed: Vec<_> = states
        .iter()
        .map(|state| (state.count, state.crossed))
        .collect();
    assert_eq!(
        crossed,
        [(10, true), (50, true), (1, true), (1, true), (3, true)]
    );
    let later = world.core.indicators(now_ms + 61 * MINUTE_MS);
    assert!(later.iter().all(|state| state.count == 0 && !state.crossed));
}

#[test]
fn refused_tries_cannot_fill_the_disk() {
    let mut world = World::new();
    for _ in 0..1_000 {
        let (who, what) = ("10.0.0.1".to_owned(), "GET /security/dashboard".to_owned());
        world.report(Report::Denied { who, what });
    }
    let denied = |world: &World| {
        let own = world
            .log
            .iter()
            .filter(|entry| entry.action == Action::Denied);
        own.count()
    };
    assert_eq!(denied(&world), 20);
    world.tick_after(MINUTE_MS - 1);
    assert_eq!(denied(&world), 20);
    world.tick_after(1);
    assert_eq!(denied(&world), 21);
    assert!(
        world
            .log
            .last()
            .unwrap()
            .reason
            .starts_with("980 more tries")
    );
    world.tick_after(MINUTE_MS);
    assert_eq!(denied(&world), 21, "said once");
}

#[test]
fn what_the_tree_took_out_unreported_is_found_at_a_tick_and_held() {
    let mut world = World::new();
    world.set_out(ONE, true);
    world.tick_after(1);
    assert_eq!(cause(&world, ONE), Some(Cause::Window));
    assert!(world.tick_after(1).is_empty());
    // Somebody started it behind the orchestrator's back.
    world.set_out(ONE, false);
    let again = world.tick_after(1);
    assert!(again.entries.is_empty());
    assert!(matches!(&again.effects[..], [Effect::Quarantine { path, .. }] if path == ONE));
}

#[test]
fn only_abnormal_exits_and_quarantines_of_the_tree_are_reports() {
    let path = || ONE.into();
    let exit = |reason| TreeEvent::ChildExited {
        path: path(),
        generation: Default::default(),
        reason,
        uptime: Duration::ZERO,
    };
    assert_eq!(Report::of(&exit(ExitReason::Shutdown)), None);
    assert_eq!(
        Report::of(&exit(ExitReason::Killed)),
        Some(exited(ExitReason::Killed))
    );
    let out = TreeEvent::ChildQuarantined {
        path: path(),
        why: "3 restarts in 60 s".to_owned(),
    };
    assert_eq!(Report::of(&out), Some(taken_out(ONE)));
    assert_eq!(
        Report::of(&TreeEvent::ChildRecovered { path: path() }),
        None
    );
}

#[test]
fn damage_that_is_found_later_makes_a_quarantine_graver_and_keeps_whose_it_is() {
    let mut world = World::new();
    world.order(Decision::Quarantine, ONE);
    world.report(corrupt(ONE));
    let Standing::Quarantined(quarantine) = world.standing(ONE) else {
        panic!("not quarantined");
    };
    assert!(quarantine.needs_verification);
    assert_eq!(
        quarantine.next_probe_ms, None,
        "an admin's stays an admin's"
    );
    world.order(Decision::Quarantine, ONE);
    let standing = world.standing(ONE);
    assert!(
        standing.quarantine().unwrap().needs_verification,
        "and stays so"
    );
}

#[test]
fn a_known_component_is_still_taken_out_when_no_further_one_is_remembered() {
    let mut world = World::new();
    world.report(stuck(ONE));
    for number in 0..2_000 {
        world.report(stuck(&format!("invented/{number}")));
    }
    world.report(stuck(ONE));
    assert!(!world.is_out(ONE));
    world.report(stuck(ONE));
    assert_eq!(cause(&world, ONE), Some(Cause::Stuck));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut world = World::new();
    for number in 0..2_000 {
        world.report(stuck(&format!("invented/{number}")));
        let (who, what) = (number.to_string(), "odd".to_owned());
        world.report(Report::UnusualUpload { who, what });
    }
    assert_eq!(world.core.stuck.len(), 1_024);
    let now_ms = world.now_ms;
    let uploads = world.core.indicators(now_ms)[1];
    assert_eq!(uploads.count, 256);
    world.now_ms += 60 * MINUTE_MS + 1;
    world.report(stuck(ONE));
    assert_eq!(world.core.stuck.len(), 1, "what is over is forgotten");
}
