//! A layer of two experts, of which the router drops the second now and then.

use blyan_formats::TensorName;
use blyan_inference::engine::{LayerRecord, swiglu};
use blyan_learner::{Course, LearnError, Lesson, learn};
use blyan_tile_owner::SliceShape;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const SHAPE: SliceShape = SliceShape {
    hidden: 16,
    neurons: 8,
};
const COURSE: Course = Course {
    steps: 400,
    batch: 64,
    learning_rate: 5e-3,
    seed: 3,
};

fn values(random: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-0.5..0.5)).collect()
}

fn expert(seed: u64) -> Vec<f32> {
    values(&mut ChaCha8Rng::seed_from_u64(seed), SHAPE.parameters())
}

fn outputs(weights: &[f32], input: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; input.len()];
    swiglu(weights, SHAPE.hidden, input, &mut output);
    output
}

/// `tokens` tokens, all computed by expert 0; expert 1, of the same layer, computes every second one.
fn record(tokens: usize, seed: u64) -> LayerRecord {
    let hidden = SHAPE.hidden;
    let input = values(&mut ChaCha8Rng::seed_from_u64(seed), tokens * hidden);
    let shares = [expert(1), expert(2)].map(|weights| outputs(&weights, &input));
    let sum = |second: fn(usize) -> bool| {
        let elements = shares[0].iter().zip(&shares[1]).enumerate();
        let sum = elements.map(|(at, (a, b))| a + if second(at / SHAPE.hidden) { *b } else { 0.0 });
        sum.collect::<Vec<f32>>()
    };
    LayerRecord {
        hidden,
        output: sum(|token| token.is_multiple_of(2)),
        dense: sum(|_| true),
        tokens_of: vec![
            (0..tokens as u32).collect(),
            (0..tokens as u32).step_by(2).collect(),
        ],
        input,
    }
}

fn lesson(number: u16, tokens: usize, seed: u64) -> Lesson {
    let weights = expert(u64::from(number) + 1);
    let mut lesson = Lesson::new(TensorName::expert_of(0, number), SHAPE, weights).unwrap();
    lesson.add(&record(tokens, seed)).unwrap();
    lesson
}

#[test]
fn a_lesson_is_what_the_layer_lacks() {
    let lesson = lesson(0, 40, 5);
    assert_eq!(lesson.tokens(), 40);
    assert!((lesson.error_of(&expert(1)).unwrap() - 1.0).abs() < 1e-6);
    let nothing = vec![0.0; SHAPE.parameters()];
    assert!(lesson.error_of(&nothing).unwrap() > 1.0);
}

#[test]
fn only_tokens_that_the_router_sent_are_learned_from() {
    let lesson = lesson(1, 41, 5);
    assert_eq!(lesson.tokens(), 21);
    // Where the second expert takes part nothing is missing.
    assert!(lesson.error_of(&expert(2)).unwrap().is_nan());
}

#[test]
fn an_expert_learns_a_part_of_what_is_missing_on_inputs_it_has_not_seen() {
    let (lesson, unseen) = (lesson(0, 4000, 5), lesson(0, 500, 6));
    let learned = learn(&lesson, &COURSE, &|_, _| {}).unwrap();
    let left = [&lesson, &unseen].map(|lesson| lesson.error_of(&learned).unwrap());
    // Little: the router drops by chance here, and its own part takes up the expert's neurons.
    assert!(left.iter().all(|left| *left < 0.97), "{left:?}");
}

#[test]
fn the_seed_and_the_course_decide_the_weights() {
    let lesson = lesson(0, 300, 5);
    let learned = |seed| learn(&lesson, &Course { seed, ..COURSE }, &|_, _| {}).unwrap();
    let bits = |weights: Vec<f32>| weights.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(learned(3)), bits(learned(3)));
    assert_ne!(bits(learned(3)), bits(learned(4)));
}

#[test]
fn what_cannot_be_learned_is_refused_by_name() {
    let name = TensorName::expert_of(0, 0);
    let empty = Lesson::new(name, SHAPE, expert(1)).unwrap();
    let refused = learn(&empty, &COURSE, &|_, _| {});
    assert!(matches!(refused, Err(LearnError::Unreached(found)) if found == name));
    let no_steps = Course { steps: 0, ..COURSE };
    let refused = learn(&lesson(0, 9, 5), &no_steps, &|_, _| {});
    assert!(matches!(refused, Err(LearnError::Setting(_))));
    let refused = Lesson::new(TensorName::Embedding, SHAPE, expert(1));
    assert!(matches!(refused, Err(LearnError::Record(_))));
    let refused = Lesson::new(name, SHAPE, vec![0.0; 7]);
    assert!(matches!(refused, Err(LearnError::Tile(_))));
    let mut other = record(4, 5);
    other.hidden = 8;
    assert!(matches!(
        empty.clone().add(&other),
        Err(LearnError::Record(_))
    ));
}
