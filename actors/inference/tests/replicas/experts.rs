//! Experts that are corrupt or not to be had.

use std::sync::Arc;

use blyan_formats::TensorName;
use blyan_inference::step::StepError;
use blyan_protocol::{ErrorCode, LeaseError};

use crate::house::{House, Plan, listen};
use crate::toy::answer;

fn expert(number: u16) -> TensorName {
    TensorName::expert_of(1, number)
}

#[actix_rt::test]
async fn an_expert_found_corrupt_ends_who_needs_it_and_nobody_else() {
    let house = House::open(Plan::default()).await;
    // As the real engine: a step that needs all four meets the damage, one that can choose leaves it out.
    let experts = Arc::clone(&house.experts);
    house.engine.before_each_step(move |step| {
        if !step.top_k.contains(&4) || step.contexts.iter().all(|context| context.len() < 40) {
            return Ok(());
        }
        let payload = experts.spoil(expert(2));
        Err(StepError::Expert(LeaseError::Corrupt {
            name: expert(2),
            payload,
            fault: "tree".into(),
        }))
    });
    let mut streams = Vec::new();
    for nth in 0..4 {
        let prompt = format!("a prompt that is long enough to matter {nth}");
        let mut request = house.request(&prompt, 40);
        request.top_k_experts = (nth % 2 == 0).then_some(3);
        match house.submit(request).await {
            Ok(stream) => streams.push((nth, prompt, actix_rt::spawn(listen(stream)))),
            // Found by an earlier one already.
            Err(error) => assert_eq!((nth % 2, error.code), (1, ErrorCode::ExpertCorrupt)),
        }
    }
    for (nth, prompt, stream) in streams {
        let told = stream.await.unwrap();
        if nth % 2 == 0 {
            assert_eq!(told.text, answer(&house.prompt(&prompt), 40).1);
        } else {
            assert_eq!(told.error(), ErrorCode::ExpertCorrupt);
            let error = told.end.unwrap().unwrap_err();
            assert_eq!(error.expert.unwrap().name, "layer1.expert2");
        }
    }
    assert_eq!((house.generation(1), house.generation(2)), (1, 1));
    house.close().await;
}

#[actix_rt::test]
async fn what_is_known_to_be_corrupt_is_refused_at_the_door() {
    let house = House::open(Plan::default()).await;
    let payload = house.experts.spoil(expert(3));
    let refused = house
        .submit(house.request("all experts", 9))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::ExpertCorrupt);
    let fault = refused.expert.unwrap();
    assert_eq!(
        (fault.name.as_str(), fault.hash),
        ("layer1.expert3", payload.to_string())
    );
    let mut fewer = house.request("three experts", 9);
    fewer.top_k_experts = Some(3);
    listen(house.submit(fewer.clone()).await.unwrap()).await;
    // One that is always on cannot be left out.
    house.experts.spoil(expert(0));
    fewer.top_k_experts = Some(1);
    let refused = house.submit(fewer).await.unwrap_err();
    assert_eq!(refused.expert.unwrap().name, "layer1.expert0");
    assert_eq!(
        house.receipts.kept.lock().len(),
        1,
        "a refused request has no receipt"
    );
    house.close().await;
}

#[actix_rt::test]
async fn damage_that_stays_unknown_to_the_table_does_not_spin() {
    let house = House::open(Plan::default()).await;
    let payload = blyan_formats::PayloadHash::of_bytes(b"unknown");
    house.engine.before_each_step(move |_| {
        Err(StepError::Expert(LeaseError::Corrupt {
            name: expert(2),
            payload,
            fault: "tree".into(),
        }))
    });
    assert_eq!(
        house.ask("hello", 9).await.error(),
        ErrorCode::PoisonedRequest
    );
    house.close().await;
}

#[actix_rt::test]
async fn an_expert_that_comes_late_costs_a_retry_and_one_that_never_comes_the_request() {
    let house = House::open(Plan::default()).await;
    let late = std::sync::atomic::AtomicBool::new(true);
    house.engine.before_each_step(move |_| {
        if late.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err(StepError::Expert(LeaseError::Timeout { name: expert(1) }));
        }
        Ok(())
    });
    assert_eq!(
        house.ask("late", 9).await.text,
        answer(&house.prompt("late"), 9).1
    );
    house.engine.before_each_step(|_| {
        Err(StepError::Expert(LeaseError::Unavailable {
            name: expert(1),
            why: "gone".into(),
        }))
    });
    assert_eq!(
        house.ask("never", 9).await.error(),
        ErrorCode::ExpertUnavailable
    );
    house.engine.before_each_step(|_| {
        Err(StepError::Expert(LeaseError::TooLarge {
            name: expert(1),
            needs_bytes: 2,
            bound_bytes: 1,
        }))
    });
    assert_eq!(
        house.ask("too large", 9).await.error(),
        ErrorCode::ExpertUnavailable
    );
    house.close().await;
}
