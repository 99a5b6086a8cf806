//! The scheduler against a plain model: a made-up language model whose next token is a function of all tokens before,
//! computed from what each replica was given to read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blyan_protocol::{ErrorCode, FinishReason, PublicError, Sampling};
use blyan_supervisors::Generation;
use proptest::prelude::*;

use super::*;
use crate::tokenizer::Transcript;
use crate::tokenizer::testing::{END, bytewise};

const SHAPE: StepShape = StepShape {
    rows_max: 3,
    chunk_max: 4,
};
const SLOTS: usize = 4;
const ADMITTED_MAX: usize = 8;
const SLOW_READER: u64 = 50;
const STEP_LIMIT: u64 = 40;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn owner(replica: u32, generation: u64) -> Owner {
    Owner {
        replica: ReplicaId(replica),
        generation: Generation(generation),
    }
}

fn limits() -> Limits {
    Limits {
        admitted_max: ADMITTED_MAX,
        slow_reader: ms(SLOW_READER),
        step: ms(STEP_LIMIT),
    }
}

fn request(prompt: &[u32], max_new: u32) -> NewSequence {
    NewSequence {
        prompt: prompt.to_vec(),
        max_new,
        top_k: 16,
        sampling: Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            seed: 0,
        },
        transcript: Transcript::new(bytewise(), Vec::new()),
        deadline: ms(1_000_000),
    }
}

/// The made-up model: letters, now and then the end.
fn next_token(context: &[u32]) -> u32 {
    let hash = context.iter().fold(17_u32, |sum, token| {
        sum.wrapping_mul(31).wrapping_add(*token + 1)
    });
    if hash.is_multiple_of(23) {
        END
    } else {
        u32::from(b'a') + hash % 26
    }
}

/// The text that the model answers.
fn answer(prompt: &[u32], max_new: u32) -> (String, FinishReason) {
    let (mut context, mut text) = (prompt.to_vec(), String::new());
    for _ in 0..max_new {
        let token = next_token(&context);
        if token == END {
            return (text, FinishReason::Stop);
        }
        context.push(token);
        text.push(char::from_u32(token).unwrap());
    }
    (text, FinishReason::Length)
}

/// A replica as its actor would be: its generation and its memories.
#[derive(Debug, Default)]
struct Worker {
    generation: u64,
    alive: bool,
    memories: BTreeMap<SequenceId, Vec<u32>>,
    planned: Vec<PlannedRow>,
}

#[derive(Debug)]
struct Told {
    prompt: Vec<u32>,
    max_new: u32,
    text: String,
    tokens: u32,
    ended: Option<Ended>,
    settled: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Submit(Vec<u32>, u32),
    Start(u32),
    Lose(u32),
    Pull(u32),
    Plan(u32),
    Publish(u32),
    FailStep(u32),
    FailLease(u32, bool),
    StaleCalls(u32),
    Cancel(usize),
    ToggleReader(usize),
    Wait(u64),
    Settle(usize),
}

struct World {
    core: Scheduler,
    now: Moment,
    workers: BTreeMap<u32, Worker>,
    told: BTreeMap<SequenceId, Told>,
    not_reading: BTreeSet<SequenceId>,
}

impl World {
    fn new() -> Self {
        let workers = (1..=2)
            .map(|replica| (replica, Worker::default()))
            .collect();
        Self {
            core: Scheduler::new(limits()),
            now: Duration::ZERO,
            workers,
            told: BTreeMap::new(),
            not_reading: BTreeSet::new(),
        }
    }

    fn owner(&self, replica: u32) -> Owner {
        owner(replica, self.workers[&replica].generation)
    }

    fn worker(&mut self, replica: u32) -> &mut Worker {
        self.workers.get_mut(&replica).unwrap()
    }

    fn nth(&self, nth: usize) -> Option<SequenceId> {
        let count = self.told.len().max(1);
        self.told.keys().nth(nth % count).copied()
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Token(id, event) => {
                    let told = self.told.get_mut(&id).unwrap();
                    assert!(told.ended.is_none(), "{id:?}: a token after the end");
                    assert_eq!(event.index, told.tokens, "{id:?}: a gap or a double");
                    told.tokens += 1;
                    told.text.push_str(&event.text);
                }
                Effect::Ended(id, ended) => {
                    let told = self.told.get_mut(&id).unwrap();
                    assert!(told.ended.replace(*ended).is_none(), "{id:?} ended twice");
                }
                Effect::Terminate(replica) => assert!(self.workers.contains_key(&replica.0)),
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Submit(prompt, max_new) => self.submit(prompt, max_new),
            Op::Start(replica) => self.start(replica),
            Op::Lose(replica) => {
                let effects = self.core.replica_lost(self.owner(replica), self.now);
                *self.worker(replica) = Worker {
                    generation: self.workers[&replica].generation,
                    ..Worker::default()
                };
                self.carry_out(effects);
            }
            Op::Pull(replica) => self.pull(replica),
            Op::Plan(replica) => self.plan(replica),
            Op::Publish(replica) => self.publish(replica),
            Op::FailStep(replica) => {
                let outcome = self.core.step_failed(self.owner(replica), self.now);
                self.after_failure(replica, outcome);
            }
            Op::FailLease(replica, hopeless) => {
                let error = PublicError::new(ErrorCode::ExpertUnavailable, "", "");
                let outcome =
                    self.core
                        .lease_failed(self.owner(replica), &error, hopeless, self.now);
                self.after_failure(replica, outcome);
            }
            Op::StaleCalls(replica) => self.stale_calls(replica),
            Op::Cancel(nth) => {
                let effect = self.nth(nth).and_then(|id| self.core.cancel(id, self.now));
                self.carry_out(effect.into_iter().collect());
            }
            Op::ToggleReader(nth) => self.toggle_reader(nth),
            Op::Wait(time) => {
                self.now += ms(time);
                let effects = self.core.expire(self.now);
                self.carry_out(effects);
            }
            Op::Settle(nth) => self.settle(nth),
        }
        self.check();
    }

    fn submit(&mut self, prompt: Vec<u32>, max_new: u32) {
        let full = self.told.values().filter(|told| !told.settled).count() >= ADMITTED_MAX;
        match self.core.submit(request(&prompt, max_new), self.now) {
            Ok(id) => {
                assert!(!full);
                let told = Told {
                    prompt,
                    max_new,
                    text: String::new(),
                    tokens: 0,
                    ended: None,
                    settled: false,
                };
                assert!(self.told.insert(id, told).is_none());
            }
            Err(refusal) => assert!(full && refusal == Refusal::Overloaded),
        }
    }

    fn start(&mut self, replica: u32) {
        let generation = self.workers[&replica].generation + 1;
        *self.worker(replica) = Worker {
            generation,
            alive: true,
            ..Worker::default()
        };
        let effects = self
            .core
            .register(owner(replica, generation), self.now)
            .unwrap();
        self.carry_out(effects);
        assert_eq!(
            self.core.register(owner(replica, generation), self.now),
            Err(Fenced)
        );
    }

    fn pull(&mut self, replica: u32) {
        if !self.workers[&replica].planned.is_empty() {
            return; // an actor does not look for work while it computes
        }
        let owner = self.owner(replica);
        let Ok(owned) = self.core.owned(owner) else {
            return assert!(!self.workers[&replica].alive);
        };
        let worker = self.worker(replica);
        worker.memories.retain(|id, _| owned.contains(id));
        let free = SLOTS - worker.memories.len();
        let waiting = self.core.waiting();
        let pulled = self.core.pull(owner, free).unwrap();
        assert!(pulled.len() <= free.min(waiting));
        for (id, context) in pulled {
            let told = &self.told[&id];
            assert_eq!(context, told.prompt.len() + told.max_new as usize);
            assert!(
                self.worker(replica)
                    .memories
                    .insert(id, Vec::new())
                    .is_none()
            );
        }
    }

    fn plan(&mut self, replica: u32) {
        if !self.workers[&replica].planned.is_empty() {
            return;
        }
        let not_reading = self.not_reading.clone();
        let turn = |id| match not_reading.contains(&id) {
            true => Turn::ReaderFull,
            false => Turn::Now,
        };
        let planned = self.core.plan(self.owner(replica), SHAPE, self.now, turn);
        let Ok(planned) = planned else {
            return assert!(!self.workers[&replica].alive);
        };
        assert!(planned.len() <= SHAPE.rows_max);
        assert!(planned.iter().filter(|row| row.tokens.len() > 1).count() <= 1);
        for row in &planned {
            assert!((1..=SHAPE.chunk_max).contains(&row.tokens.len()));
            assert!(row.draw.is_none() || !not_reading.contains(&row.id));
            assert_eq!(self.workers[&replica].memories[&row.id].len(), row.start);
        }
        self.worker(replica).planned = planned;
    }

    fn publish(&mut self, replica: u32) {
        let planned = std::mem::take(&mut self.worker(replica).planned);
        let done = planned.into_iter().map(|row| {
            let memory = self
                .workers
                .get_mut(&replica)
                .unwrap()
                .memories
                .get_mut(&row.id)
                .unwrap();
            memory.extend(&row.tokens);
            let drawn = row
                .draw
                .map_or(Drawn::Nothing, |_| Drawn::Token(next_token(memory)));
            RowDone {
                id: row.id,
                drawn,
                experts: BTreeMap::new(),
                loaded: 0,
            }
        });
        let done: Vec<_> = done.collect();
        match self
            .core
            .publish(self.owner(replica), done, ms(1), self.now)
        {
            Ok(effects) => self.carry_out(effects),
            Err(Fenced) => assert!(!self.workers[&replica].alive),
        }
    }

    fn after_failure(&mut self, replica: u32, outcome: Result<Vec<Effect>, Fenced>) {
        self.worker(replica).planned.clear();
        match outcome {
            Ok(effects) => self.carry_out(effects),
            Err(Fenced) => assert!(!self.workers[&replica].alive),
        }
    }

    /// What a zombie of an older generation says changes nothing.
    fn stale_calls(&mut self, replica: u32) {
        let stale = owner(replica, self.workers[&replica].generation.saturating_sub(1));
        let before = format!("{:?}", self.core);
        assert_eq!(self.core.register(stale, self.now), Err(Fenced));
        assert_eq!(self.core.replica_lost(stale, self.now), Vec::new());
        assert_eq!(self.core.pull(stale, SLOTS), Err(Fenced));
        assert_eq!(
            self.core.plan(stale, SHAPE, self.now, |_| Turn::Now),
            Err(Fenced)
        );
        assert_eq!(
            self.core.publish(stale, Vec::new(), ms(1), self.now),
            Err(Fenced)
        );
        assert_eq!(self.core.step_failed(stale, self.now), Err(Fenced));
        assert_eq!(format!("{:?}", self.core), before);
    }

    fn toggle_reader(&mut self, nth: usize) {
        let Some(id) = self.nth(nth) else { return };
        if self.not_reading.remove(&id) {
            self.core.reader_back(id);
        } else {
            self.not_reading.insert(id);
        }
    }

    fn settle(&mut self, nth: usize) {
        let Some(id) = self.nth(nth) else { return };
        let told = self.told.get_mut(&id).unwrap();
        if told.ended.is_some() {
            told.settled = true;
            self.core.settle(id);
        }
    }

    /// Nobody is lost, nobody is in two places, and what was told is the answer so far.
    fn check(&self) {
        let unsettled = self.told.values().filter(|told| !told.settled).count();
        assert_eq!(self.core.admitted(), unsettled);
        let running: Vec<_> = self
            .workers
            .keys()
            .map(|replica| self.core.owned(self.owner(*replica)))
            .collect();
        let running: Vec<_> = running.into_iter().flatten().flatten().collect();
        let distinct: BTreeSet<_> = running.iter().collect();
        assert_eq!(distinct.len(), running.len());
        let open = self
            .told
            .values()
            .filter(|told| told.ended.is_none())
            .count();
        assert_eq!(self.core.waiting() + running.len(), open);
        for told in self.told.values() {
            told.check();
        }
    }

    /// Everyone reads, both replicas run: everything comes to its end.
    fn run_to_the_end(&mut self) {
        self.not_reading.clear();
        for replica in [1, 2] {
            self.apply(Op::Start(replica));
        }
        for _ in 0..2000 {
            if self.told.values().all(|told| told.ended.is_some()) {
                return;
            }
            for replica in [1, 2] {
                self.apply(Op::Pull(replica));
                self.apply(Op::Plan(replica));
                self.apply(Op::Publish(replica));
            }
        }
        panic!("something never ended: {:?}", self.told);
    }
}

impl Told {
    fn check(&self) {
        let (whole, reason) = answer(&self.prompt, self.max_new);
        assert!(
            whole.starts_with(&self.text),
            "{:?} is not the beginning of {whole:?}",
            self.text
        );
        let Some(ended) = &self.ended else { return };
        assert_eq!(ended.usage.completion_tokens, self.tokens);
        assert_eq!(ended.usage.prompt_tokens as usize, self.prompt.len());
        match &ended.ending {
            Ending::Finished(FinishReason::Cancelled) => {}
            Ending::Finished(finished) => assert_eq!((&self.text, *finished), (&whole, reason)),
            Ending::Failed(error) => assert!(
                matches!(
                    error.code,
                    ErrorCode::PoisonedRequest
                        | ErrorCode::SlowReader
                        | ErrorCode::ExpertUnavailable
                ),
                "{error}"
            ),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let replica = 1_u32..=2;
    let prompt = prop::collection::vec(97_u32..123, 1..14);
    prop_oneof![
        8 => (prompt, 1_u32..30).prop_map(|(prompt, max_new)| Op::Submit(prompt, max_new)),
        2 => replica.clone().prop_map(Op::Start),
        1 => replica.clone().prop_map(Op::Lose),
        10 => replica.clone().prop_map(Op::Pull),
        20 => replica.clone().prop_map(Op::Plan),
        18 => replica.clone().prop_map(Op::Publish),
        2 => replica.clone().prop_map(Op::FailStep),
        1 => (replica.clone(), any::<bool>()).prop_map(|(replica, hopeless)| Op::FailLease(replica, hopeless)),
        1 => replica.prop_map(Op::StaleCalls),
        1 => any::<usize>().prop_map(Op::Cancel),
        2 => any::<usize>().prop_map(Op::ToggleReader),
        2 => (0_u64..20).prop_map(Op::Wait),
        4 => any::<usize>().prop_map(Op::Settle),
    ]
}

proptest! {
    #[test]
    fn no_sequence_is_lost_or_doubled_and_each_ends_once(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.run_to_the_end();
    }
}

/// A world with running replicas and these prompts, all pulled by replica 1.
fn running(prompts: &[usize]) -> World {
    let mut world = World::new();
    world.apply(Op::Start(1));
    for len in prompts {
        world.apply(Op::Submit(vec![97; *len], 1000));
    }
    world.apply(Op::Pull(1));
    world
}

fn planned_lens(world: &mut World) -> Vec<usize> {
    world.apply(Op::Plan(1));
    let lens = world.workers[&1]
        .planned
        .iter()
        .map(|row| row.tokens.len())
        .collect();
    world.apply(Op::Publish(1));
    lens
}

#[test]
fn one_prefill_chunk_goes_with_the_decodes() {
    let mut world = running(&[2, 9, 9]);
    assert_eq!(planned_lens(&mut world), [2]);
    assert_eq!(planned_lens(&mut world), [1, 4]);
    let lens: Vec<_> = (0..8).map(|_| planned_lens(&mut world)).collect();
    for step in &lens {
        assert!(step.iter().filter(|len| **len > 1).count() <= 1, "{lens:?}");
        assert!(step.contains(&1), "the decode was left out: {lens:?}");
    }
}

#[test]
fn an_idle_replica_gets_its_share() {
    let mut world = World::new();
    world.apply(Op::Start(1));
    world.apply(Op::Start(2));
    world.apply(Op::Submit(vec![97], 5));
    world.apply(Op::Submit(vec![98], 5));
    world.apply(Op::Pull(1));
    assert_eq!(world.core.owned(owner(1, 1)).unwrap().len(), 1);
    world.apply(Op::Pull(1));
    assert_eq!(
        world.core.waiting(),
        1,
        "the second is left to the idle replica"
    );
    world.apply(Op::Pull(2));
    assert_eq!(world.core.waiting(), 0);
}

#[test]
fn a_sequence_that_fails_three_steps_is_poisoned_and_its_neighbours_live() {
    let mut world = running(&[2, 2]);
    let poison = *world.told.keys().next().unwrap();
    for _ in 0..200 {
        world.apply(Op::Plan(1));
        let with_poison = world.workers[&1].planned.iter().any(|row| row.id == poison);
        world.apply(if with_poison {
            Op::FailStep(1)
        } else {
            Op::Publish(1)
        });
    }
    let ended = world.told[&poison].ended.as_ref().unwrap();
    assert!(
        matches!(&ended.ending, Ending::Failed(error) if error.code == ErrorCode::PoisonedRequest)
    );
    assert!(world.told.values().any(|told| told.tokens > 0));
    world.run_to_the_end();
}

#[test]
fn a_step_that_is_lost_with_its_replica_counts_as_failed() {
    let mut world = running(&[2]);
    for _ in 0..3 {
        world.apply(Op::Plan(1));
        world.apply(Op::Start(1));
        world.apply(Op::Pull(1));
    }
    let told = world.told.values().next().unwrap();
    assert!(
        matches!(&told.ended.as_ref().unwrap().ending, Ending::Failed(error) if error.code == ErrorCode::PoisonedRequest)
    );
}

#[test]
fn a_replica_that_dies_between_steps_is_not_held_against_its_sequences() {
    let mut world = running(&[2]);
    for _ in 0..5 {
        world.apply(Op::Plan(1));
        world.apply(Op::Publish(1));
        world.apply(Op::Lose(1));
        world.apply(Op::Start(1));
        world.apply(Op::Pull(1));
    }
    world.run_to_the_end();
    let told = world.told.values().next().unwrap();
    assert!(matches!(
        told.ended.as_ref().unwrap().ending,
        Ending::Finished(_)
    ));
}

#[test]
fn a_reader_that_stays_away_is_given_up_and_one_that_comes_back_is_not() {
    let mut world = running(&[2, 2]);
    planned_lens(&mut world);
    planned_lens(&mut world);
    world.apply(Op::ToggleReader(0));
    world.apply(Op::ToggleReader(1));
    world.apply(Op::Plan(1));
    assert!(world.workers[&1].planned.is_empty());
    assert_eq!(world.core.next_expiry(), Some(world.now + ms(SLOW_READER)));
    world.apply(Op::Wait(SLOW_READER - 1));
    world.apply(Op::ToggleReader(1));
    world.apply(Op::Wait(1));
    let endings: Vec<_> = world
        .told
        .values()
        .map(|told| told.ended.clone().map(|ended| ended.ending))
        .collect();
    assert!(
        matches!(&endings[..], [Some(Ending::Failed(error)), None] if error.code == ErrorCode::SlowReader)
    );
}

#[test]
fn the_deadline_holds_in_the_queue_too() {
    let mut core = Scheduler::new(limits());
    let id = core
        .submit(
            NewSequence {
                deadline: ms(10),
                ..request(&[97], 5)
            },
            ms(0),
        )
        .unwrap();
    assert_eq!(core.next_expiry(), Some(ms(10)));
    assert_eq!(core.expire(ms(9)), Vec::new());
    let effects = core.expire(ms(10));
    let [Effect::Ended(ended, end)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*ended, id);
    assert!(matches!(&end.ending, Ending::Failed(error) if error.code == ErrorCode::Timeout));
}

#[test]
fn a_step_over_its_limit_is_to_be_terminated_once() {
    let mut world = running(&[2]);
    world.apply(Op::Plan(1));
    let late = world.now + ms(STEP_LIMIT);
    assert_eq!(world.core.next_expiry(), Some(late));
    assert_eq!(world.core.expire(late), [Effect::Terminate(ReplicaId(1))]);
    assert_eq!(world.core.expire(late), Vec::new());
}

#[test]
fn an_expert_that_is_not_to_be_had_ends_only_who_needs_it() {
    let mut world = running(&[2, 2]);
    let needy = *world.told.keys().next().unwrap();
    for _ in 0..20 {
        world.apply(Op::Plan(1));
        let fails = world.workers[&1].planned.iter().any(|row| row.id == needy);
        world.apply(if fails {
            Op::FailLease(1, false)
        } else {
            Op::Publish(1)
        });
    }
    let ended = world.told[&needy].ended.as_ref().unwrap();
    assert!(
        matches!(&ended.ending, Ending::Failed(error) if error.code == ErrorCode::ExpertUnavailable)
    );
    let other = world.told.values().last().unwrap();
    assert!(
        other.tokens > 0
            && !matches!(&other.ended, Some(ended) if matches!(ended.ending, Ending::Failed(_)))
    );
}

#[test]
fn an_end_says_how_far_the_sequence_came() {
    let phase = |plans: usize| {
        let mut world = running(&[2 * SHAPE.chunk_max]);
        for _ in 0..plans {
            world.apply(Op::Plan(1));
            world.apply(Op::Publish(1));
        }
        world.apply(Op::Cancel(0));
        let told = world.told.values().next().unwrap();
        told.ended.as_ref().map(|ended| ended.phase)
    };
    let phases: Vec<_> = (0..3).map(phase).collect();
    let expected = [Phase::Queue, Phase::Prefill, Phase::Decode].map(Some);
    assert_eq!(phases, expected);
}

#[test]
fn nothing_is_admitted_after_the_end() {
    let mut world = running(&[2, 2, 2, 2, 2]);
    let error = PublicError::new(ErrorCode::ShuttingDown, "", "");
    let effects = world.core.shut_down(&error, world.now);
    world.carry_out(effects);
    assert!(world.told.values().all(|told| told.ended.is_some()));
    assert_eq!(
        world.core.submit(request(&[97], 1), world.now),
        Err(Refusal::ShuttingDown)
    );
}
