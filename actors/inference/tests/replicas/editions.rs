//! A model that takes over while its predecessor answers.

use std::sync::Arc;
use std::time::Duration;

use blyan_formats::BlockHash;
use blyan_inference::error::InferenceError;
use blyan_inference::handle::ChatStream;
use blyan_protocol::{ErrorCode, ModelDescription, ModelId};

use crate::house::{House, MODEL, Plan, Told, listen, model};
use crate::toy::{ToyEngine, answer_of};

const TOKENS: u32 = 60;

fn id_of(edition: u64) -> ModelId {
    let mut hash = *MODEL.0.as_bytes();
    hash[0] += edition as u8;
    ModelId(BlockHash::from_bytes(hash))
}

fn description(edition: u64) -> ModelDescription {
    ModelDescription {
        id: id_of(edition),
        ..model()
    }
}

fn check(house: &House, prompt: &str, edition: u64, told: &Told) {
    let (tokens, text, reason) = answer_of(edition, &house.prompt(prompt), TOKENS);
    assert_eq!(told.text, text, "edition {edition} of {prompt:?}");
    assert_eq!(
        (told.tokens as usize, told.reason()),
        (tokens.len(), reason)
    );
    let summary = told.end.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(summary.model, id_of(edition));
    let receipt = house.receipts.kept.lock()[&summary.id].clone();
    assert_eq!(receipt.model_id, id_of(edition));
}

/// Once a replica is there.
async fn submit(house: &House, prompt: &str) -> ChatStream {
    loop {
        match house.submit(house.request(prompt, TOKENS)).await {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error.code, ErrorCode::Unavailable),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Rounds of streams, and a new model in the middle of each; `disturb` sees each engine before it answers.
async fn change_under_load(rounds: u64, disturb: impl Fn(&Arc<ToyEngine>)) {
    let house = House::open(Plan::default()).await;
    disturb(&house.engine);
    let mut streams = Vec::new();
    let mut retired = Vec::new();
    for edition in 0..rounds {
        for nth in 0..6 {
            let prompt = format!("{} {edition} {nth}", "long ".repeat(nth * 2));
            let mut stream = submit(&house, &prompt).await;
            // Begun, and for some half way, before the change.
            let mut told = Told::default();
            for _ in 0..nth * 4 {
                match stream.next().await {
                    Some(event) => told.hear(event),
                    None => break,
                }
            }
            streams.push((edition, prompt, told, stream));
        }
        let engine = ToyEngine::of_model(edition + 1, house.engine.pool.clone());
        disturb(&engine);
        let before = house.handle.change_model(&description(edition + 1), engine);
        let before = before.unwrap();
        assert_eq!(before.model(), id_of(edition));
        assert_eq!(house.handle.model(), id_of(edition + 1));
        retired.push(actix_rt::spawn(before.end()));
    }
    for (edition, prompt, mut told, mut stream) in streams {
        while let Some(event) = stream.next().await {
            told.hear(event);
        }
        check(&house, &prompt, edition, &told);
    }
    for before in retired {
        let freed = tokio::time::timeout(Duration::from_secs(60), before).await;
        freed.expect("a retired engine was never freed").unwrap();
    }
    let told = listen(submit(&house, "after").await).await;
    check(&house, "after", rounds, &told);
    house.is_empty().await;
    house.close().await;
}

#[actix_rt::test]
async fn every_answer_ends_with_the_model_that_it_began_with() {
    change_under_load(5, |_| {}).await;
}

#[actix_rt::test]
async fn also_when_its_replica_dies_between_the_tokens() {
    change_under_load(4, |engine| {
        let steps = std::sync::atomic::AtomicU64::new(0);
        engine.before_each_step(move |_| {
            let step = steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(step % 40 != 39, "a fault in the operator");
            Ok(())
        });
    })
    .await;
}

#[actix_rt::test]
async fn a_model_of_another_shape_does_not_take_over() {
    let house = House::open(Plan::default()).await;
    let mut other = description(1);
    other.architecture.experts.per_layer += 1;
    let engine = ToyEngine::of_model(1, house.engine.pool.clone());
    let refused = house.handle.change_model(&other, engine).err();
    assert!(matches!(refused, Some(InferenceError::OtherArchitecture)));
    assert_eq!(house.handle.model(), MODEL);
    check(&house, "still", 0, &house.ask("still", TOKENS).await);
    house.close().await;
}
