//! Replicas that die, hang or fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blyan_inference::actor::Ping;
use blyan_inference::core::ReplicaId;
use blyan_inference::handle::shutting_down;
use blyan_inference::step::StepError;
use blyan_protocol::{ErrorCode, Outcome};
use blyan_supervisors::{Generation, Window};

use crate::house::{House, PATIENCE, Plan, listen};
use crate::toy::answer;

fn countdown(count: u64) -> impl Fn() -> bool + Send + Sync {
    let left = AtomicU64::new(count);
    move || {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    }
}

fn mentions(context: &[u32], word: &str) -> bool {
    let bytes: Vec<u8> = context
        .iter()
        .filter(|token| **token < 256)
        .map(|token| *token as u8)
        .collect();
    String::from_utf8_lossy(&bytes).contains(word)
}

#[actix_rt::test]
async fn a_stream_goes_on_after_a_panic_with_the_same_tokens() {
    let house = House::open(Plan::default()).await;
    let steps = AtomicU64::new(0);
    house.engine.before_each_step(move |_| {
        let step = steps.fetch_add(1, Ordering::SeqCst);
        assert!(step != 9 && step != 30, "a step that panics");
        Ok(())
    });
    let mut streams = Vec::new();
    for nth in 0..6 {
        let prompt = format!("panic {nth}");
        let stream = house.submit(house.request(&prompt, 50)).await.unwrap();
        streams.push((prompt, actix_rt::spawn(listen(stream))));
    }
    for (prompt, stream) in streams {
        let told = stream.await.unwrap();
        let (_, text, reason) = answer(&house.prompt(&prompt), 50);
        assert_eq!((told.text.as_str(), told.reason()), (text.as_str(), reason));
    }
    assert_eq!(house.generation(1) + house.generation(2), 4, "two restarts");
    house.is_empty().await;
    house.close().await;
}

#[actix_rt::test]
async fn a_request_that_kills_every_replica_is_ended_and_the_others_are_answered() {
    let house = House::open(Plan::default()).await;
    house.engine.before_each_step(|step| {
        assert!(
            !step
                .contexts
                .iter()
                .any(|context| mentions(context, "poison")),
            "poisoned"
        );
        Ok(())
    });
    let mut streams = Vec::new();
    for prompt in ["one", "poison", "two", "three", "four"] {
        let stream = house.submit(house.request(prompt, 40)).await.unwrap();
        streams.push((prompt, actix_rt::spawn(listen(stream))));
    }
    for (prompt, stream) in streams {
        let told = stream.await.unwrap();
        if prompt == "poison" {
            assert_eq!(told.error(), ErrorCode::PoisonedRequest);
        } else {
            assert_eq!(told.text, answer(&house.prompt(prompt), 40).1);
        }
    }
    house.is_empty().await;
    let kept = house.receipts.kept.lock().clone();
    let poisoned = Outcome::Failed {
        code: ErrorCode::PoisonedRequest,
    };
    assert_eq!(
        kept.values()
            .filter(|receipt| receipt.outcome == poisoned)
            .count(),
        1
    );
    assert_eq!(kept.len(), 5);
    house.close().await;
}

/// As inside the operator, where a panic is caught: the step fails, the replica lives.
#[actix_rt::test]
async fn a_poison_prompt_ends_alone_and_costs_no_replica() {
    let house = House::open(Plan::default()).await;
    house.engine.before_each_step(|step| {
        match step
            .contexts
            .iter()
            .any(|context| mentions(context, "poison"))
        {
            true => Err(StepError::Panicked("poisoned".into())),
            false => Ok(()),
        }
    });
    for round in 0..100 {
        let mut streams = Vec::new();
        for nth in 0..8 {
            let prompt = match nth == round % 8 {
                true => format!("poison {round}"),
                false => format!("chat {nth} of {round}"),
            };
            let stream = house.submit(house.request(&prompt, 20)).await.unwrap();
            streams.push((prompt, actix_rt::spawn(listen(stream))));
        }
        for (prompt, stream) in streams {
            let told = stream.await.unwrap();
            if prompt.starts_with("poison") {
                assert_eq!(told.error(), ErrorCode::PoisonedRequest, "{prompt}");
            } else {
                let (_, text, reason) = answer(&house.prompt(&prompt), 20);
                assert_eq!((told.text.as_str(), told.reason()), (text.as_str(), reason));
            }
        }
    }
    assert_eq!((house.generation(1), house.generation(2)), (1, 1));
    house.is_empty().await;
    assert_eq!(house.receipts.kept.lock().len(), 800);
    house.close().await;
}

#[actix_rt::test]
async fn failed_steps_are_tried_again_without_a_restart() {
    let house = House::open(Plan::default()).await;
    let fails = countdown(2);
    house.engine.before_each_step(move |_| match fails() {
        true => Err(StepError::Runtime("a passing fault".into())),
        false => Ok(()),
    });
    let told = house.ask("hello", 30).await;
    assert_eq!(told.text, answer(&house.prompt("hello"), 30).1);
    assert_eq!((house.generation(1), house.generation(2)), (1, 1));
    house.close().await;
}

#[actix_rt::test]
async fn a_step_over_its_time_is_terminated_and_tried_again() {
    let mut plan = Plan::default();
    plan.config.step_timeout_ms = 50;
    let house = House::open(plan).await;
    let hangs = countdown(1);
    house.engine.before_each_step(move |step| {
        if !hangs() {
            return Ok(());
        }
        while !step.terminate.is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(StepError::Terminated)
    });
    let told = house.ask("hello", 30).await;
    assert_eq!(told.text, answer(&house.prompt("hello"), 30).1);
    assert_eq!((house.generation(1), house.generation(2)), (1, 1));
    house.close().await;
}

#[actix_rt::test]
async fn a_stuck_replica_is_replaced_and_its_memory_stays_until_its_thread_returns() {
    let plan = Plan {
        stuck_limit: Duration::from_millis(150),
        ..Plan::default()
    };
    let house = House::open(plan).await;
    let (released, stuck) = (Arc::new(AtomicBool::new(false)), countdown(1));
    let release = Arc::clone(&released);
    house.engine.before_each_step(move |step| {
        if step
            .contexts
            .iter()
            .any(|context| mentions(context, "unlucky"))
            && stuck()
        {
            while !release.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    });
    let unlucky = house.submit(house.request("unlucky", 30)).await.unwrap();
    let unlucky = actix_rt::spawn(listen(unlucky));
    let lucky = house.ask("lucky", 30).await;
    assert_eq!(
        lucky.text,
        answer(&house.prompt("lucky"), 30).1,
        "another stream was held up"
    );
    assert_eq!(
        unlucky.await.unwrap().text,
        answer(&house.prompt("unlucky"), 30).1
    );
    assert_eq!(house.generation(1) + house.generation(2), 3);
    house
        .until("nobody in the house", |house| house.handle.load() == (0, 0))
        .await;
    house
        .until("only the zombie's memory is left", |house| {
            let zombie = house.prompt("unlucky").len() + 30;
            house.engine.pool.used_bytes() == house.engine.pool_bytes(zombie)
        })
        .await;
    assert_eq!(house.tree.zombies(), 1);
    released.store(true, Ordering::SeqCst);
    house.is_empty().await;
    house
        .until("the zombie is gone", |house| house.tree.zombies() == 0)
        .await;
    assert_eq!(house.receipts.kept.lock().len(), 2);
    house.close().await;
}

#[actix_rt::test]
async fn when_every_replica_is_quarantined_requests_are_refused_at_once() {
    let plan = Plan {
        window: Window::new(1, Duration::from_secs(600)),
        ..Plan::default()
    };
    let house = House::open(plan).await;
    // Nobody dies before all have been admitted.
    let armed = Arc::new(AtomicBool::new(false));
    let trigger = Arc::clone(&armed);
    house.engine.before_each_step(move |_| {
        while !trigger.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no replica survives this");
    });
    let mut streams = Vec::new();
    for nth in 0..4 {
        let stream = house
            .submit(house.request(&format!("request {nth}"), 9))
            .await
            .unwrap();
        streams.push(actix_rt::spawn(listen(stream)));
    }
    armed.store(true, Ordering::SeqCst);
    for stream in streams {
        let code = stream.await.unwrap().error();
        assert!(
            matches!(code, ErrorCode::Quarantined | ErrorCode::PoisonedRequest),
            "{code}"
        );
    }
    house
        .until("all are quarantined", |house| {
            house
                .handle
                .ready()
                .is_err_and(|error| error.code == ErrorCode::Quarantined)
        })
        .await;
    let refused = house.submit(house.request("late", 9)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Quarantined);
    assert!(refused.retry_after_ms.is_some());
    house.is_empty().await;
    house.engine.before_each_step(|_| Ok(()));
    house.tree.recover("inference-1").await.unwrap();
    house
        .until("a replica is back", |house| house.handle.ready().is_ok())
        .await;
    assert_eq!(
        house.ask("hello", 9).await.text,
        answer(&house.prompt("hello"), 9).1
    );
    house.close().await;
}

#[actix_rt::test]
async fn a_busy_replica_answers_between_steps_and_its_streams_survive_its_quarantine() {
    let house = House::open(Plan::default()).await;
    house.engine.before_each_step(|_| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let mut streams = Vec::new();
    for nth in 0..8 {
        let prompt = format!("busy {nth}");
        let stream = house.submit(house.request(&prompt, 200)).await.unwrap();
        streams.push((prompt, actix_rt::spawn(listen(stream))));
    }
    for (replica, number) in house.replicas.iter().zip(1..) {
        let report = replica.call(Ping, PATIENCE).await.unwrap();
        assert_eq!(
            (report.replica, report.generation),
            (ReplicaId(number), Generation(1))
        );
    }
    house
        .tree
        .quarantine("inference-2", "a test")
        .await
        .unwrap();
    for (prompt, stream) in streams {
        let told = stream.await.unwrap();
        assert_eq!(told.text, answer(&house.prompt(&prompt), 200).1);
    }
    house.is_empty().await;
    house.close().await;
}

#[actix_rt::test]
async fn a_shutdown_tells_every_open_stream_first() {
    let house = House::open(Plan::default()).await;
    house.engine.before_each_step(|_| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    });
    let mut streams = Vec::new();
    for nth in 0..10 {
        let stream = house
            .submit(house.request(&format!("open {nth}"), 400))
            .await
            .unwrap();
        streams.push(actix_rt::spawn(listen(stream)));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(
        house
            .handle
            .drain(&shutting_down(), Duration::from_secs(20))
            .await,
        0
    );
    let mut told_so = 0;
    for stream in streams {
        let told = stream.await.unwrap();
        told_so += usize::from(
            matches!(&told.end, Some(Err(error)) if error.code == ErrorCode::ShuttingDown),
        );
    }
    assert!(told_so > 0);
    assert_eq!(house.receipts.kept.lock().len(), 10);
    let late = house.submit(house.request("late", 9)).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::ShuttingDown);
    house.close().await;
}
