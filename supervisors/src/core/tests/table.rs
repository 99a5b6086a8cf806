//! Strategy by restart type by exit reason, as the crate's README prints it.

use super::{
    policies::three,
    world::{SECOND, rules},
};
use crate::{ChildState, ExitReason, Restart, Strategy};

const STRATEGIES: [Strategy; 3] = [
    Strategy::OneForOne,
    Strategy::RestForOne,
    Strategy::OneForAll,
];
const RESTARTS: [Restart; 3] = [Restart::Permanent, Restart::Transient, Restart::Temporary];

fn reasons() -> Vec<ExitReason> {
    let text = || "x".to_owned();
    vec![
        ExitReason::Normal,
        ExitReason::Shutdown,
        ExitReason::Fatal(text()),
        ExitReason::Panicked(text()),
        ExitReason::Stuck(SECOND),
        ExitReason::Corrupt(text()),
        ExitReason::Killed,
        ExitReason::StartFailed(text()),
        ExitReason::Escalated(text()),
    ]
}

/// What OTP does when b exits: written out by hand, apart from the core.
fn expected(strategy: Strategy, restart: Restart, reason: &ExitReason) -> Vec<&'static str> {
    let normal = matches!(reason, ExitReason::Normal | ExitReason::Shutdown);
    let restarted = match restart {
        Restart::Permanent => true,
        Restart::Transient => !normal,
        Restart::Temporary => false,
    };
    match (
        strategy,
        matches!(reason, ExitReason::Corrupt(_)),
        restarted,
    ) {
        (Strategy::OneForOne, true, _) => vec![],
        (Strategy::RestForOne, true, _) => vec!["stop c 1"],
        (Strategy::OneForAll, true, _) => vec!["stop c 1", "stop a 1"],
        (_, false, false) => vec![],
        (Strategy::OneForOne, false, true) => vec!["start b 2"],
        (Strategy::RestForOne, false, true) => vec!["stop c 1", "start b 2", "start c 2"],
        (Strategy::OneForAll, false, true) => vec![
            "stop c 1",
            "stop a 1",
            "start a 2",
            "start b 2",
            "start c 2",
        ],
    }
}

/// What follows when b exits, checked; reasons with the same consequence stand together.
fn consequences(strategy: Strategy, restart: Restart) -> Vec<(Vec<String>, String)> {
    let mut rows: Vec<(Vec<String>, String)> = Vec::new();
    for reason in reasons() {
        let mut world = three(strategy, rules(restart));
        world.exits("b", reason.clone());
        let follows = world.take_log();
        assert_eq!(follows, expected(strategy, restart, &reason));
        let corrupt = matches!(reason, ExitReason::Corrupt(_));
        assert_eq!(world.state("b") == ChildState::Quarantined, corrupt);
        let row = match (follows.is_empty(), corrupt) {
            (_, true) => ["b is quarantined".to_owned()]
                .into_iter()
                .chain(follows)
                .collect::<Vec<_>>()
                .join(", "),
            (true, false) => "b stays down".to_owned(),
            (false, false) => follows.join(", "),
        };
        match rows.iter_mut().find(|(_, text)| *text == row) {
            Some((reasons, _)) => reasons.push(reason.class().to_owned()),
            None => rows.push((vec![reason.class().to_owned()], row)),
        }
    }
    rows
}

fn table() -> String {
    let mut table = "| strategy | b is | b exits | what follows |\n|---|---|---|---|\n".to_owned();
    for strategy in STRATEGIES {
        for restart in RESTARTS {
            for (reasons, follows) in consequences(strategy, restart) {
                let reasons = reasons.join(", ");
                table += &format!("| {strategy:?} | {restart:?} | {reasons} | {follows} |\n");
            }
        }
    }
    table
}

#[test]
fn strategy_by_restart_by_reason() {
    let table = table();
    println!("{table}");
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&table), "the README has another table");
}
