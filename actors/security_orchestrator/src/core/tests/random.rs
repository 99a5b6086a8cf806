use proptest::prelude::*;

use super::world::{CHAIN, ONE, TWO, World, corrupt, stuck, taken_out};
use crate::core::{Decision, NODE, Report, Standing};

#[derive(Clone, Debug)]
enum Event {
    Order(Decision, &'static str, bool),
    Report(Report),
    Tick(u64),
    Probed(&'static str, bool),
    TreeTakes(&'static str, bool),
    Restart,
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![ONE, TWO, CHAIN, "serving", NODE, "nowhere"])
}

fn event() -> impl Strategy<Value = Event> {
    let decision = prop::sample::select(vec![
        Decision::Quarantine,
        Decision::Recover,
        Decision::Failover,
    ]);
    let report = (path(), 0_usize..4).prop_map(|(path, kind)| match kind {
        0 => corrupt(path),
        1 => taken_out(path),
        2 => stuck(path),
        _ => Report::VerificationFailed {
            path: path.to_owned(),
            what: "an answer".to_owned(),
        },
    });
    prop_oneof![
        (decision, path(), any::<bool>())
            .prop_map(|(decision, path, force)| Event::Order(decision, path, force)),
        report.prop_map(Event::Report),
        (0_u64..900_000).prop_map(Event::Tick),
        (path(), any::<bool>()).prop_map(|(path, well)| Event::Probed(path, well)),
        (path(), any::<bool>()).prop_map(|(path, out)| Event::TreeTakes(path, out)),
        Just(Event::Restart),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Order(decision, path, force) => drop(world.order_with(*decision, path, *force)),
        Event::Report(report) => drop(world.report(report.clone())),
        Event::Tick(pause_ms) => drop(world.tick_after(*pause_ms)),
        Event::Probed(path, true) => drop(world.probed(path, Ok(()))),
        Event::Probed(path, false) => drop(world.probed(path, Err("no"))),
        Event::TreeTakes(path, out) => world.set_out(path, *out),
        Event::Restart => {
            world.core = world.replayed();
            let start = world.core.start(world.now_ms);
            world.follow(start);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens, a replay of the log stands where the live state stands, a component leaves quarantine by a
    /// recovery that went well alone, and until then nothing forgets that it needs a verification.
    #[test]
    fn a_replay_is_the_live_state(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            let before: Vec<_> = [ONE, TWO, CHAIN].map(|path| world.standing(path)).into();
            happen(&mut world, event);
            let replayed = world.replayed();
            prop_assert_eq!(replayed.standings(), world.core.standings());
            for (path, before) in [ONE, TWO, CHAIN].into_iter().zip(before) {
                let after = world.standing(path);
                let lifted = before != Standing::Healthy && after == Standing::Healthy;
                let by_probe = matches!(event, Event::Probed(of, true) if *of == path)
                    && matches!(before, Standing::Probing(_));
                prop_assert!(!lifted || by_probe, "{:?}: {:?}", event, before);
                let needed = before.quarantine().is_some_and(|before| before.needs_verification);
                let needs = after.quarantine().is_none_or(|after| after.needs_verification);
                prop_assert!(!needed || needs, "{:?} forgot the verification", event);
            }
        }
    }
}
