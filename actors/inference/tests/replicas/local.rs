//! One sequence without actors.

use std::ops::ControlFlow;

use blyan_inference::error::InferenceError;
use blyan_inference::local::{LocalRequest, LocalSequence, generate, perplexity};
use blyan_inference::tokenizer::Transcript;
use blyan_protocol::{FinishReason, Sampling};

use crate::house::{House, Plan};
use crate::toy::{ToyEngine, answer, logits_after};

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    top_k: None,
    seed: 0,
};

fn text(len: usize) -> Vec<u32> {
    (0..len as u32)
        .map(|nth| b'a' as u32 + nth * 7 % 26)
        .collect()
}

#[actix_rt::test]
async fn an_answer_is_the_same_with_and_without_actors() {
    let house = House::open(Plan::default()).await;
    let prompt = house.prompt("a prompt of more than one chunk");
    let mut shown = String::new();
    let request = LocalRequest {
        prompt: &prompt,
        max_tokens: 50,
        top_k: 4,
        sampling: &GREEDY,
        transcript: Transcript::new(house.handle.tokenizer().vocabulary().clone(), Vec::new()),
    };
    let local = generate(&*house.engine, request, |piece| {
        shown.push_str(piece);
        ControlFlow::Continue(())
    })
    .unwrap();
    let (tokens, text, reason) = answer(&prompt, 50);
    assert_eq!((local.tokens, local.finish_reason), (tokens, reason));
    assert_eq!(shown, text);
    assert_eq!(
        house.ask("a prompt of more than one chunk", 50).await.text,
        text
    );
    house.close().await;
}

#[actix_rt::test]
async fn whoever_listens_may_end_it() {
    let house = House::open(Plan::default()).await;
    let prompt = house.prompt("hello");
    let request = LocalRequest {
        prompt: &prompt,
        max_tokens: 50,
        top_k: 4,
        sampling: &GREEDY,
        transcript: Transcript::new(house.handle.tokenizer().vocabulary().clone(), Vec::new()),
    };
    let local = generate(&*house.engine, request, |_| ControlFlow::Break(())).unwrap();
    assert_eq!(
        (local.tokens.len(), local.finish_reason),
        (1, FinishReason::Cancelled)
    );
    house.close().await;
}

#[test]
fn every_position_gets_its_logits_across_chunks() {
    let engine = ToyEngine::new(1000);
    let tokens = text(50);
    let mut sequence = LocalSequence::new(&*engine, 50, 4).unwrap();
    let mut places = Vec::new();
    sequence
        .read_each(&tokens, |place, logits| {
            assert_eq!(logits, logits_after(&tokens[..=place]));
            places.push(place);
        })
        .unwrap();
    assert_eq!(places, (0..50).collect::<Vec<_>>());
    sequence.truncate(20);
    assert_eq!(sequence.read(&tokens[20..]).unwrap(), logits_after(&tokens));
}

/// -ln p by the definition.
fn surprise(context: &[u32], token: u32) -> f64 {
    let logits = logits_after(context);
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    -(f64::from(logits[token as usize]).exp() / total).ln()
}

#[test]
fn perplexity_scores_each_token_once_with_its_windows_context() {
    let engine = ToyEngine::new(1000);
    let (window, stride) = (24, 10);
    for len in [0, 1, 2, 23, 24, 25, 34, 35, 100] {
        let tokens = text(len);
        let (mut sum, mut scored) = (0.0, 1);
        for start in (0..len).step_by(stride) {
            let end = len.min(start + window);
            let places = scored..end;
            sum += places
                .map(|place| surprise(&tokens[start..place], tokens[place]))
                .sum::<f64>();
            scored = end.max(scored);
        }
        let measured = perplexity(&*engine, &tokens, (window, stride), 4, |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(measured.tokens(), len.saturating_sub(1), "{len} tokens");
        if len > 1 {
            let expected = (sum / (len - 1) as f64).exp();
            assert!(
                (measured.value() / expected - 1.0).abs() < 1e-9,
                "{len} tokens: {} {expected}",
                measured.value()
            );
        }
    }
    assert_eq!(engine.pool.used_bytes(), 0);
}

#[test]
fn windows_that_would_leave_tokens_out_are_refused() {
    let engine = ToyEngine::new(1000);
    for (window, stride) in [(24, 24), (24, 0), (1, 1)] {
        let refused = perplexity(&*engine, &text(60), (window, stride), 4, |_| {
            ControlFlow::Continue(())
        });
        assert!(matches!(refused, Err(InferenceError::Config { .. })));
    }
}
