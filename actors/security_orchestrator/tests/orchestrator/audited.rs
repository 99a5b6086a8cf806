use std::sync::atomic::Ordering;

use blyan_security::audit::Action;
use blyan_security::{Decision, Indicator, Report, SecurityError, SecurityEvent, Standing};

use crate::house::{House, LONG, ONE, TWO, eventually, order, up};

#[actix_rt::test]
async fn a_decision_is_on_disk_before_it_takes_effect() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    let decided = handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    assert!(matches!(decided.standing, Standing::Quarantined(_)));
    assert_eq!((decided.changed, decided.record), (true, 1));
    let done = house.node.done.lock()[0].clone();
    assert_eq!(done, (format!("quarantine {ONE}"), 1));

    let decided = handle.decide(order(Decision::Recover, ONE)).await.unwrap();
    assert_eq!(
        (decided.standing, decided.changed),
        (Standing::Healthy, true)
    );
    let decided = handle.decide(order(Decision::Failover, ONE)).await.unwrap();
    assert_eq!(decided.standing, Standing::Healthy);
    let lines = house.node.lines();
    assert_eq!(
        lines[1..],
        [format!("recover {ONE}"), format!("fail_over {ONE}")]
    );
    tree.stop(LONG).await;
    assert_eq!(house.verified().end.count, 4, "recover is two records");
}

#[actix_rt::test]
async fn two_hundred_orders_at_once_are_one_decision_and_two_hundred_records() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    let orders: Vec<_> = (0..200)
        .map(|_| {
            let handle = handle.clone();
            actix_rt::spawn(async move { handle.decide(order(Decision::Quarantine, ONE)).await })
        })
        .collect();
    let mut changed = 0;
    for order in orders {
        changed += u32::from(order.await.unwrap().unwrap().changed);
    }
    assert_eq!(changed, 1);
    let quarantines = house
        .node
        .lines()
        .iter()
        .filter(|line| line.starts_with("quarantine"))
        .count();
    assert_eq!(quarantines, 1);
    tree.stop(LONG).await;
    assert_eq!(house.verified().end.count, 200);
}

#[actix_rt::test]
async fn a_refused_order_is_a_typed_error_and_a_record() {
    let house = House::new();
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    let refused = handle
        .decide(order(Decision::Quarantine, TWO))
        .await
        .unwrap_err();
    assert!(matches!(refused, SecurityError::Refused(_)), "{refused}");
    let unknown = handle.status("nowhere").await.unwrap_err();
    assert!(matches!(unknown, SecurityError::Refused(_)), "{unknown}");
    tree.stop(LONG).await;
    assert_eq!(house.verified().end.count, 2);
    assert!(!house.node.did(&format!("quarantine {TWO}")));
}

#[actix_rt::test]
async fn each_quarantine_is_anchored_and_a_chain_that_is_down_is_asked_again() {
    let house = House::new();
    house.node.anchorable.store(false, Ordering::SeqCst);
    let (tree, handle) = house.open();
    up(&handle).await;
    handle
        .decide(order(Decision::Quarantine, ONE))
        .await
        .unwrap();
    assert!(house.node.anchors.lock().is_empty());
    house.node.anchorable.store(true, Ordering::SeqCst);
    eventually("it is anchored", async || {
        !house.node.anchors.lock().is_empty()
    })
    .await;
    eventually("the dashboard says so", async || {
        let dashboard = handle.dashboard().await.unwrap();
        dashboard.audit_anchored_count == 1 && dashboard.audit.count == 1
    })
    .await;
    // An admin's failover waits for the minute.
    handle.decide(order(Decision::Failover, TWO)).await.unwrap();
    house.pass(house.config.anchor_every_ms);
    eventually("the minute is over", async || {
        house.node.anchors.lock().len() == 2
    })
    .await;
    tree.stop(LONG).await;
    let report = house.verified();
    assert_eq!(report.last_anchor, Some(report.end));
}

#[actix_rt::test]
async fn what_happens_is_seen_by_subscribers_the_sink_and_the_dashboard() {
    let house = House::new();
    let (tree, handle) = house.open();
    let mut events = handle.events();
    up(&handle).await;
    let damage = Report::Corrupt {
        path: ONE.to_owned(),
        what: "layer4.expert7 fails its hash".to_owned(),
    };
    handle.report_and_wait(damage).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(events.recv().await.unwrap());
    }
    let [
        SecurityEvent::Recorded(quarantine),
        SecurityEvent::Recorded(alert),
        SecurityEvent::Alert(told),
    ] = &seen[..]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(
        (quarantine.action, alert.action),
        (Action::Quarantine, Action::Alert)
    );
    assert_eq!(told.indicator, Indicator::ExpertTamperingDetected);
    assert_eq!(*house.node.alerts.lock(), std::slice::from_ref(told));

    let dashboard = handle.dashboard().await.unwrap();
    let trust: Vec<_> = dashboard
        .components
        .iter()
        .map(|status| status.trust)
        .collect();
    assert_eq!((trust, dashboard.integrity_score), (vec![0, 100], 50));
    assert_eq!(dashboard.alerts, std::slice::from_ref(told));
    let indicators = handle.threat_indicators().await.unwrap();
    assert_eq!(dashboard.threat_indicators, indicators);
    let status = handle.status(ONE).await.unwrap();
    assert_eq!(status, dashboard.components[0]);
    tree.stop(LONG).await;
}
