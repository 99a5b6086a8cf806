//! A chain that leaves out a sync must be found out, or the tests beside this one show nothing.

use std::collections::BTreeSet;

use crate::check::{check, follow};
use crate::double::Plan;
use crate::power::Cut;
use crate::run::{Order, Place};
use crate::script::{Lazy, Until};

/// What a power cut after the first receipts costs a chain.
fn after_a_cut(disk: Lazy, plan: Plan) -> Result<(), String> {
    let place = Place::new();
    let order = Order {
        round: 0,
        until: Until::Receipts,
        disk,
        plan,
    };
    let ended = place.start(order).wait();
    assert!(ended.done(), "{:?}", ended.said.last());
    let mut kept = BTreeSet::new();
    follow(&mut kept, &ended.said);
    let cut = place.cut(Cut::ForgetsAll);
    assert_eq!(
        check(&place.store(), &kept),
        Ok(()),
        "nothing is lost without a cut"
    );
    check(&cut, &kept)
}

#[test]
fn the_chain_as_it_is_loses_nothing() {
    assert_eq!(after_a_cut(Lazy::Nothing, Plan::Watch), Ok(()));
}

#[test]
fn a_chain_that_does_not_sync_its_log_is_found_out() {
    let why = after_a_cut(Lazy::Nothing, Plan::DeafLog).unwrap_err();
    assert!(why.contains("lost") || why.contains("to verify"), "{why}");
}

#[test]
fn a_chain_that_does_not_sync_payload_files_is_found_out() {
    let why = after_a_cut(Lazy::Files, Plan::Watch).unwrap_err();
    assert!(why.contains("to verify"), "{why}");
}

#[test]
fn a_chain_that_does_not_sync_names_is_found_out() {
    assert!(after_a_cut(Lazy::Dirs, Plan::Watch).is_err());
}
