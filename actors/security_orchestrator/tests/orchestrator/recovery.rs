use std::sync::atomic::Ordering;

use blyan_security::{Decision, Report, SecurityError, Standing};

use crate::house::{FIVE_MINUTES_MS, House, LONG, ONE, eventually, order, up};

fn corrupt() -> Report {
    Report::Corrupt {
        path: ONE.to_owned(),
        what: "layer4.expert7 fails its hash".to_owned(),
    }
}

#[actix_rt::test]
async fn five_minutes_after_a_quarantine_by_rule_a_recovery_is_tried() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    let out = Report::TakenOut {
        path: ONE.to_owned(),
        why: "3 restarts in 60 s".to_owned(),
    };
    handle.report_and_wait(out).await.unwrap();
    assert_eq!(handle.quarantined().await.unwrap(), [ONE]);
    house.pass(FIVE_MINUTES_MS);
    eventually("it is back", async || {
        handle.status(ONE).await.unwrap().standing == Standing::Healthy
    })
    .await;
    assert!(house.node.did(&format!("recover {ONE}")));
    assert!(!house.node.did(&format!("verify {ONE}")));
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn what_was_corrupt_lifts_only_after_a_verification() {
    let house = House::new();
    house.node.damaged.store(true, Ordering::SeqCst);
    let (tree, handle) = house.open();
    up(&handle).await;
    handle.report_and_wait(corrupt()).await.unwrap();
    let mut forced = order(Decision::Recover, ONE);
    forced.force = true;
    let failed = handle.decide(forced.clone()).await.unwrap_err();
    assert!(
        matches!(failed, SecurityError::NotEffective { .. }),
        "{failed}"
    );
    assert!(!house.node.did(&format!("recover {ONE}")));
    let standing = handle.status(ONE).await.unwrap().standing;
    assert_eq!(
        standing.quarantine().map(|quarantine| quarantine.attempts),
        Some(1)
    );
    house.node.damaged.store(false, Ordering::SeqCst);
    let decided = handle.decide(forced).await.unwrap();
    assert_eq!(decided.standing, Standing::Healthy);
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn what_does_not_start_stays_out_and_says_why() {
    let house = House::new();
    house.node.startable.store(false, Ordering::SeqCst);
    let (tree, handle) = house.open();
    up(&handle).await;
    let failed = handle
        .decide(order(Decision::Failover, ONE))
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("it does not start"), "{failed}");
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    let failed = handle
        .decide(order(Decision::Recover, ONE))
        .await
        .unwrap_err();
    assert!(
        matches!(failed, SecurityError::NotEffective { .. }),
        "{failed}"
    );
    assert_eq!(handle.quarantined().await.unwrap(), [ONE]);
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_new_process_takes_out_again_what_was_acknowledged() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    let before = handle.status(ONE).await.unwrap().standing;
    tree.stop(LONG).await;
    for component in house.node.components.lock().iter_mut() {
        component.quarantined = false;
    }
    house.node.done.lock().clear();
    let (tree, handle) = house.open();
    up(&handle).await;
    assert_eq!(handle.status(ONE).await.unwrap().standing, before);
    eventually("it is out", async || {
        house.node.did(&format!("quarantine {ONE}"))
    })
    .await;
    tree.stop(LONG).await;
}

#[actix_rt::test]
async fn a_quarantine_holds_before_anybody_is_served() {
    let mut house = House::new();
    house.config.tick_ms = 10_000;
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    tree.stop(LONG).await;
    let components = std::mem::take(&mut *house.node.components.lock());
    let (tree, handle) = house.open();
    up(&handle).await;
    handle.enforce().await.unwrap();
    // Only now there is a tree, and the next tick is far.
    house.node.components.lock().extend(components);
    house.node.components.lock()[0].quarantined = false;
    handle.enforce().await.unwrap();
    assert!(house.node.components.lock()[0].quarantined);
    tree.stop(LONG).await;
}
