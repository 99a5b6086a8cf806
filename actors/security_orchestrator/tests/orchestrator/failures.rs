use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blyan_security::audit::AuditError;
use blyan_security::{Decision, Report, SecurityError, Standing};
use blyan_supervisors::{CallError, ChildState, Probe};

use crate::house::{House, LONG, ONE, TWO, eventually, order, up};

/// Panics once at the point between a durable decision and its effect.
struct Once(AtomicBool);

impl Probe for Once {
    fn hit(&self, point: &str) {
        if point == "security_decided" && !self.0.swap(true, Ordering::SeqCst) {
            panic!("killed by the test");
        }
    }
}

#[actix_rt::test]
async fn killed_between_durable_and_effect_the_next_generation_carries_it_out() {
    let house = House::new();
    let (tree, handle) = house.open_with(Arc::new(Once(AtomicBool::new(false))));
    up(&handle).await;
    let lost = handle.decide(order(Decision::Quarantine, ONE)).await;
    assert_eq!(lost, Err(SecurityError::Call(CallError::Lost)));
    assert!(house.node.lines().is_empty());
    eventually("the decision is carried out", async || {
        house.node.did(&format!("quarantine {ONE}"))
    })
    .await;
    assert_eq!(handle.quarantined().await.unwrap(), [ONE]);
    let again = handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    assert!(!again.changed, "asked again, it was decided");
    tree.stop(LONG).await;
    assert_eq!(house.verified().end.count, 2);
}

#[actix_rt::test]
async fn what_cannot_be_made_durable_is_not_decided() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    house.disk.sick.store(true, Ordering::SeqCst);
    let failed = handle
        .decide(order(Decision::Recover, ONE))
        .await
        .unwrap_err();
    // The generation ends with its answer on the way.
    let unanswered = failed == SecurityError::Call(CallError::Lost);
    assert!(
        unanswered || matches!(failed, SecurityError::Audit(_)),
        "{failed}"
    );
    assert!(
        !house.node.did(&format!("recover {ONE}")),
        "what was out stays out"
    );
    house.disk.sick.store(false, Ordering::SeqCst);
    eventually("it is up again", async || {
        handle.quarantined().await == Ok(vec![ONE.to_owned()])
    })
    .await;
    assert!(
        house
            .node
            .lines()
            .iter()
            .all(|line| !line.starts_with("recover"))
    );
    tree.stop(LONG).await;
    house.verified();
}

#[actix_rt::test]
async fn on_a_full_disk_nothing_is_decided_and_nobody_falls() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    house.disk.full.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        let refused = handle
            .decide(order(Decision::Quarantine, ONE))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, SecurityError::Audit(AuditError::NoRoom(_))),
            "{refused}"
        );
    }
    assert_eq!(handle.quarantined().await, Ok(Vec::new()));
    assert!(!house.node.did(&format!("quarantine {ONE}")));
    house.disk.full.store(false, Ordering::SeqCst);
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    assert_eq!(handle.quarantined().await, Ok(vec![ONE.to_owned()]));
    tree.stop(LONG).await;
    assert_eq!(house.verified().end.count, 1);
}

#[actix_rt::test]
async fn over_a_log_that_was_changed_nothing_is_decided() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    tree.stop(LONG).await;
    let file = house.dir().join("00000000000000000001.audit");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, &bytes).unwrap();

    let (tree, handle) = house.open();
    eventually("it gives up", async || {
        handle.child().state() == ChildState::Quarantined
    })
    .await;
    let refused = handle
        .decide(order(Decision::Recover, ONE))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, SecurityError::Call(CallError::Quarantined { .. })),
        "{refused}"
    );
    assert!(
        handle
            .report(Report::UnusualUpload {
                who: String::new(),
                what: String::new()
            })
            .is_err()
    );
    assert_eq!(
        fs::read(&file).unwrap(),
        bytes,
        "what an attacker left is evidence"
    );
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_report_is_followed_without_waiting_and_a_lost_one_is_found_in_the_tree() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    let what = "an answer".to_owned();
    handle
        .report(Report::VerificationFailed {
            path: ONE.to_owned(),
            what,
        })
        .unwrap();
    eventually("it is out", async || {
        house.node.did(&format!("quarantine {ONE}"))
    })
    .await;
    // Taken out by the tree, and nobody said so.
    house.node.components.lock()[1].quarantined = true;
    eventually("it is known", async || {
        handle.status(TWO).await.unwrap().standing != Standing::Healthy
    })
    .await;
    tree.stop(LONG).await;
}
