//! One receipt for each admitted request, whatever the storage does.

use std::sync::atomic::Ordering;
use std::time::Duration;

use blyan_inference::handle::shutting_down;
use blyan_protocol::ErrorCode;

use crate::house::{House, Plan, listen};

#[actix_rt::test]
async fn a_receipt_is_durable_before_the_last_event() {
    let house = House::open(Plan::default()).await;
    for nth in 0..20 {
        let request = house.request(&format!("{nth}"), 5);
        let id = request.id;
        listen(house.submit(request).await.unwrap()).await;
        assert!(
            house.receipts.kept.lock().contains_key(&id),
            "the end came before the receipt"
        );
    }
    house.close().await;
}

#[actix_rt::test]
async fn a_storage_that_fails_and_panics_is_asked_again() {
    let house = House::open(Plan::default()).await;
    house.receipts.failures_left.store(2, Ordering::SeqCst);
    house.receipts.panics_left.store(1, Ordering::SeqCst);
    house.ask("hello", 5).await;
    house.is_empty().await;
    assert_eq!(house.receipts.kept.lock().len(), 1);
    assert_eq!(house.receipts.doubles.load(Ordering::SeqCst), 0);
    house.close().await;
}

#[actix_rt::test]
async fn while_the_storage_hangs_answers_still_end_and_receipts_are_bounded() {
    let mut plan = Plan::default();
    plan.config.replicas = 1;
    plan.config.slots_per_replica = 1;
    plan.config.queue_len_max = 1;
    let house = House::open(plan).await;
    house.receipts.hang.store(true, Ordering::SeqCst);
    for nth in 0..2 {
        house.ask(&format!("{nth}"), 5).await;
    }
    assert_eq!(house.receipts.kept.lock().len(), 0);
    let refused = house.submit(house.request("third", 5)).await.unwrap_err();
    assert_eq!(
        refused.code,
        ErrorCode::Overloaded,
        "pending receipts hold their places"
    );
    assert_eq!(
        house
            .handle
            .drain(&shutting_down(), Duration::from_millis(50))
            .await,
        2
    );
    house.receipts.hang.store(false, Ordering::SeqCst);
    assert_eq!(
        house
            .handle
            .drain(&shutting_down(), Duration::from_secs(30))
            .await,
        0
    );
    assert_eq!(house.receipts.kept.lock().len(), 2);
    house.close().await;
}
