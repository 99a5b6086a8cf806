//! Clients that go away at any moment.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blyan_protocol::{ErrorCode, FinishReason, Outcome, Receipt, RequestId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::house::{House, Plan, Told, listen, seed};
use crate::toy::answer;

/// Requests that are admitted, over all clients.
const CASES: usize = 1200;
const CLIENTS: usize = 12;

/// What a client does after some events.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Stay,
    Cancel,
    Leave,
    Doze,
}

struct Client {
    house: Rc<House>,
    rng: StdRng,
    admitted: Vec<(RequestId, Option<Outcome>)>,
}

impl Client {
    async fn run(mut self, cases: usize) -> Self {
        while self.admitted.len() < cases {
            self.one_case().await;
        }
        self
    }

    async fn one_case(&mut self) {
        let words = self.rng.random_range(0..80);
        let prompt = format!("{} {}", "word ".repeat(words), self.rng.random::<u32>());
        let max_tokens = self.rng.random_range(1..40);
        let request = self.house.request(&prompt, max_tokens);
        let id = request.id;
        match self.house.submit(request).await {
            Ok(stream) => {
                let outcome = self.follow(stream, &prompt, max_tokens).await;
                self.admitted.push((id, outcome));
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Overloaded);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Returns what the receipt has to say, where the client saw the end.
    async fn follow(
        &mut self,
        mut stream: blyan_inference::handle::ChatStream,
        prompt: &str,
        max_tokens: u32,
    ) -> Option<Outcome> {
        let mood = [Mood::Stay, Mood::Cancel, Mood::Leave, Mood::Doze][self.rng.random_range(0..4)];
        let patience = [0, 1, 1, 2, 6, 12][self.rng.random_range(0..6)];
        let mut told = Told::default();
        for _ in 0..patience {
            let Some(event) = stream.next().await else {
                break;
            };
            told.hear(event);
        }
        if self.rng.random() {
            self.doze().await;
        }
        match mood {
            Mood::Stay => {}
            Mood::Cancel => stream.cancel(),
            Mood::Leave => return None,
            Mood::Doze => self.doze().await,
        }
        while let Some(event) = stream.next().await {
            told.hear(event);
        }
        self.check(&told, mood, prompt, max_tokens)
    }

    async fn doze(&mut self) {
        let micros = self.rng.random_range(0..8000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    fn check(&self, told: &Told, mood: Mood, prompt: &str, max_tokens: u32) -> Option<Outcome> {
        let (_, whole, reason) = answer(&self.house.prompt(prompt), max_tokens);
        assert!(
            whole.starts_with(&told.text),
            "{:?} is not the beginning of {whole:?}",
            told.text
        );
        match told.reason() {
            FinishReason::Cancelled => {
                assert_eq!(mood, Mood::Cancel);
                Some(Outcome::Cancelled)
            }
            finished => {
                assert_eq!((&told.text, finished), (&whole, reason));
                Some(Outcome::Finished)
            }
        }
    }
}

fn client(house: &Rc<House>, seed: u64) -> Client {
    let rng = StdRng::seed_from_u64(seed);
    Client {
        house: Rc::clone(house),
        rng,
        admitted: Vec::new(),
    }
}

/// How many were cancelled before their first step, while their prompt was read, and after.
fn phases<'a>(receipts: impl Iterator<Item = &'a Receipt>) -> [usize; 3] {
    let mut counts = [0; 3];
    for receipt in receipts.filter(|receipt| receipt.outcome == Outcome::Cancelled) {
        let phase = match (receipt.experts.is_empty(), receipt.tokens_out) {
            (true, _) => 0,
            (false, 0) => 1,
            (false, _) => 2,
        };
        counts[phase] += 1;
    }
    counts
}

#[actix_rt::test]
async fn clients_that_go_away_at_random_leave_nothing_behind() {
    let seed = seed();
    let mut plan = Plan::default();
    plan.config.queue_len_max = 6;
    plan.config.stream_buffer_events = 4;
    let house = Rc::new(House::open(plan).await);
    listen(house.submit(house.request("warm up", 5)).await.unwrap()).await;
    house.is_empty().await;
    house.receipts.kept.lock().clear();
    house.engine.before_each_step(|_| {
        std::thread::sleep(Duration::from_micros(200));
        Ok(())
    });
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();

    let clients: Vec<_> = (0..CLIENTS)
        .map(|nth| {
            actix_rt::spawn(client(&house, seed.wrapping_add(nth as u64)).run(CASES / CLIENTS))
        })
        .collect();
    let mut admitted = Vec::new();
    for client in clients {
        admitted.extend(client.await.unwrap().admitted);
    }
    house.is_empty().await;

    let kept = std::mem::take(&mut *house.receipts.kept.lock());
    let ids: BTreeSet<_> = admitted.iter().map(|(id, _)| *id).collect();
    assert_eq!(
        ids,
        kept.keys().copied().collect(),
        "receipts and admitted requests differ"
    );
    assert_eq!(house.receipts.doubles.load(Ordering::SeqCst), 0);
    for (id, outcome) in &admitted {
        assert!(
            outcome
                .as_ref()
                .is_none_or(|outcome| kept[id].outcome == *outcome),
            "{:?}",
            kept[id]
        );
    }
    let phases = phases(kept.values());
    eprintln!(
        "{} admitted, cancelled in queue, prefill, decode: {phases:?}",
        admitted.len()
    );
    assert!(
        phases.iter().all(|count| *count >= CASES / 100),
        "too few of a phase: {phases:?}"
    );
    house
        .until("no task is left", |_| {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
                <= tasks
        })
        .await;
    Rc::into_inner(house).unwrap().close().await;
}

#[actix_rt::test]
async fn a_cancelled_request_is_computed_no_further() {
    let house = House::open(Plan::default()).await;
    let mut request = house.request("a long one", 400);
    request.messages[0].content = (0..200)
        .map(|nth| format!("{nth}"))
        .find(|prompt| answer(&house.prompt(prompt), 300).0.len() == 300)
        .expect("the toy model never says much");
    let mut stream = house.submit(request).await.unwrap();
    let mut told = Told::default();
    for _ in 0..10 {
        told.hear(stream.next().await.unwrap());
    }
    stream.cancel();
    while let Some(event) = stream.next().await {
        told.hear(event);
    }
    assert_eq!(told.reason(), FinishReason::Cancelled);
    house.is_empty().await;
    let steps = house.engine.steps.load(Ordering::SeqCst);
    assert!(steps < 300, "{steps} steps");
    house.ask("next", 3).await;
    house.close().await;
}
