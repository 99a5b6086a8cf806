//! Clients that go away at any moment.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blyan_protocol::{ErrorCode, FinishReason, Outcome, RequestId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::house::{House, Plan, Told, listen, seed};
use crate::toy::answer;

const CASES: usize = 1200;
const CLIENTS: usize = 24;

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
    cancelled_early: usize,
}

impl Client {
    async fn run(mut self, cases: usize) -> Self {
        for _ in 0..cases {
            self.one_case().await;
        }
        self
    }

    async fn one_case(&mut self) {
        let words = self.rng.random_range(0..40);
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
        let patience = self.rng.random_range(0..12);
        let mut told = Told::default();
        for _ in 0..patience {
            let Some(event) = stream.next().await else { break };
            told.hear(event);
        }
        match mood {
            Mood::Stay => {}
            Mood::Cancel => stream.cancel(),
            Mood::Leave => {
                self.cancelled_early += usize::from(told.end.is_none());
                return None;
            }
            Mood::Doze => tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..8))).await,
        }
        while let Some(event) = stream.next().await {
            told.hear(event);
        }
        self.check(&told, mood, prompt, max_tokens)
    }

    fn check(&mut self, told: &Told, mood: Mood, prompt: &str, max_tokens: u32) -> Option<Outcome> {
        let (_, whole, reason) = answer(&self.house.prompt(prompt), max_tokens);
        assert!(whole.starts_with(&told.text), "{:?} is not the beginning of {whole:?}", told.text);
        match told.reason() {
            FinishReason::Cancelled => {
                assert_eq!(mood, Mood::Cancel);
                self.cancelled_early += 1;
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
    Client { house: Rc::clone(house), rng, admitted: Vec::new(), cancelled_early: 0 }
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
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();

    let clients: Vec<_> = (0..CLIENTS)
        .map(|nth| actix_rt::spawn(client(&house, seed.wrapping_add(nth as u64)).run(CASES / CLIENTS)))
        .collect();
    let (mut admitted, mut cancelled_early) = (Vec::new(), 0);
    for client in clients {
        let client = client.await.unwrap();
        cancelled_early += client.cancelled_early;
        admitted.extend(client.admitted);
    }
    house.is_empty().await;

    let kept = std::mem::take(&mut *house.receipts.kept.lock());
    let ids: BTreeSet<_> = admitted.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, kept.keys().copied().collect(), "receipts and admitted requests differ");
    assert_eq!(house.receipts.doubles.load(Ordering::SeqCst), 0);
    for (id, outcome) in &admitted {
        assert!(outcome.as_ref().is_none_or(|outcome| kept[id].outcome == *outcome), "{:?}", kept[id]);
    }
    eprintln!("{} admitted, {cancelled_early} of them ended early", admitted.len());
    assert!(admitted.len() > CASES / 3 && cancelled_early > CASES / 10, "too little happened");
    house.until("no task is left", |_| tokio::runtime::Handle::current().metrics().num_alive_tasks() <= tasks).await;
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
    for _ in 0..10 {
        stream.next().await.unwrap();
    }
    stream.cancel();
    let told = listen(stream).await;
    assert_eq!(told.reason(), FinishReason::Cancelled);
    house.is_empty().await;
    let steps = house.engine.steps.load(Ordering::SeqCst);
    assert!(steps < 300, "{steps} steps");
    house.ask("next", 3).await;
    house.close().await;
}
