//! Bounds: queue, deadline, slow readers, memory.

use std::time::Duration;

use blyan_inference::handle::InferenceHandle;
use blyan_inference::step::StepError;
use blyan_protocol::{ChatEvent, ErrorCode, FinishReason, Outcome};

use crate::house::{House, Plan, Told, listen, parts};
use crate::toy::answer;

fn one_replica(slots: usize, queue: usize) -> Plan {
    let mut plan = Plan::default();
    plan.config.replicas = 1;
    plan.config.slots_per_replica = slots;
    plan.config.queue_len_max = queue;
    plan
}

/// A prompt with a long answer.
fn talkative(house: &House, tokens: u32) -> String {
    let mut prompts = (0..2000).map(|nth| format!("tell {nth}"));
    let long = |prompt: &String| answer(&house.prompt(prompt), tokens).2 == FinishReason::Length;
    prompts.find(long).expect("the toy model never says much")
}

#[actix_rt::test]
async fn one_request_too_many_is_refused_with_a_time_to_come_back() {
    let house = House::open(one_replica(1, 2)).await;
    house.engine.before_each_step(|step| {
        while !step.terminate.is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(StepError::Terminated)
    });
    let mut streams = Vec::new();
    for nth in 0..3 {
        streams.push(
            house
                .submit(house.request(&format!("{nth}"), 9))
                .await
                .unwrap(),
        );
    }
    let refused = house
        .submit(house.request("one more", 9))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::Overloaded);
    assert!(refused.retry_after_ms.is_some());
    house.engine.before_each_step(|_| Ok(()));
    drop(streams);
    house.is_empty().await;
    house.ask("now", 9).await;
    assert_eq!(
        house.receipts.kept.lock().len(),
        4,
        "a refused request has no receipt"
    );
    house.close().await;
}

#[actix_rt::test]
async fn a_deadline_ends_running_and_waiting_requests() {
    let house = House::open(one_replica(1, 8)).await;
    house.engine.before_each_step(|_| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    });
    let prompt = talkative(&house, 400);
    let within = Duration::from_millis(100);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let request = house.request(&prompt, 400);
        streams.push(actix_rt::spawn(listen(
            house.handle.submit(request, within).await.unwrap(),
        )));
    }
    for stream in streams {
        assert_eq!(stream.await.unwrap().error(), ErrorCode::Timeout);
    }
    house.is_empty().await;
    let timeout = Outcome::Failed {
        code: ErrorCode::Timeout,
    };
    assert!(
        house
            .receipts
            .kept
            .lock()
            .values()
            .all(|receipt| receipt.outcome == timeout)
    );
    house.close().await;
}

#[actix_rt::test]
async fn a_reader_that_stops_reading_is_given_up_and_holds_nobody_up() {
    let mut plan = one_replica(2, 8);
    plan.config.stream_buffer_events = 3;
    plan.config.slow_reader_timeout_ms = 200;
    let house = House::open(plan).await;
    let prompt = talkative(&house, 300);
    let lazy = house.submit(house.request(&prompt, 300)).await.unwrap();
    let eager = house.ask("eager", 60).await;
    assert_eq!(eager.text, answer(&house.prompt("eager"), 60).1);
    house.is_empty().await;
    let told = listen(lazy).await;
    assert_eq!(told.error(), ErrorCode::SlowReader);
    assert!(
        answer(&house.prompt(&prompt), 300)
            .1
            .starts_with(&told.text)
    );
    house.close().await;
}

#[actix_rt::test]
async fn a_slow_reader_gets_everything() {
    let mut plan = one_replica(2, 8);
    plan.config.stream_buffer_events = 1;
    let house = House::open(plan).await;
    let prompt = talkative(&house, 40);
    let mut stream = house.submit(house.request(&prompt, 40)).await.unwrap();
    let mut told = Told::default();
    while let Some(event) = stream.next().await {
        told.hear(event);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert_eq!(told.text, answer(&house.prompt(&prompt), 40).1);
    house.close().await;
}

#[actix_rt::test]
async fn who_finds_no_memory_waits_for_it() {
    let mut plan = one_replica(4, 32);
    plan.memory_tokens = 150;
    let house = House::open(plan).await;
    let mut streams = Vec::new();
    for nth in 0..12 {
        let prompt = format!("memory {nth}");
        let stream = house.submit(house.request(&prompt, 60)).await.unwrap();
        streams.push((prompt, actix_rt::spawn(listen(stream))));
    }
    for (prompt, stream) in streams {
        assert_eq!(
            stream.await.unwrap().text,
            answer(&house.prompt(&prompt), 60).1
        );
    }
    house.is_empty().await;
    house.close().await;
}

#[actix_rt::test]
async fn the_context_bounds_prompt_and_answer() {
    let house = House::open(Plan::default()).await;
    let overhead = house.prompt("").len();
    let fits = "x".repeat(511 - overhead);
    let mut stream = house.submit(house.request(&fits, 100)).await.unwrap();
    let first = stream.next().await;
    assert_eq!(
        first,
        Some(ChatEvent::Started {
            prompt_tokens: 511,
            max_tokens: 1
        })
    );
    let told = listen(stream).await;
    assert_eq!(told.tokens, 1);
    let too_long = house
        .submit(house.request(&format!("{fits}x"), 1))
        .await
        .unwrap_err();
    assert_eq!(too_long.code, ErrorCode::ContextTooLong);
    house.close().await;
}

#[actix_rt::test]
async fn a_default_that_the_model_cannot_serve_is_refused_at_the_start() {
    for experts in [0, 5] {
        let mut plan = Plan::default();
        plan.config.top_k_experts_default = Some(experts);
        let refused = InferenceHandle::new(parts(&plan))
            .err()
            .expect("it was taken");
        assert_eq!(
            refused.to_string(),
            "inference.top_k_experts_default must be 1 to 4 for this model"
        );
    }
}
