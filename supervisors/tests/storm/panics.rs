//! Panics in every place where an actor's code runs, under load.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, AsyncContext, AtomicResponse, Context, Handler, Message,
    ResponseActFuture, ResponseFuture, WrapFuture,
};
use blyan_supervisors::{
    Backoff, CallError, ChildRef, ChildSpec, StartContext, SupervisorSpec, Tree, TreeOptions,
    Window,
};
use parking_lot::Mutex;

use crate::{LONG, quantile, setting};

const CHILDREN: usize = 3;
const CALLERS: usize = 4;

/// Where a panic strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Handler,
    ActFuture,
    Future,
    Atomic,
    Timer,
    Task,
    Started,
    Stopped,
    Drop,
}

const PLACES: [Place; 9] = [
    Place::Handler,
    Place::ActFuture,
    Place::Future,
    Place::Atomic,
    Place::Timer,
    Place::Task,
    Place::Started,
    Place::Stopped,
    Place::Drop,
];

/// What outlives the generations of one child.
#[derive(Default)]
struct Shared {
    /// Which hook of the life cycle panics next.
    armed: Mutex<Option<Place>>,
    struck: AtomicU64,
    /// How often each call was handled.
    handled: Mutex<HashMap<u64, u32>>,
}

impl Shared {
    fn strike(&self, place: Place) -> ! {
        self.struck.fetch_add(1, Ordering::SeqCst);
        panic!("boom in {place:?}")
    }

    fn strike_if_armed(&self, place: Place) {
        let mut armed = self.armed.lock();
        if *armed == Some(place) {
            *armed = None;
            drop(armed);
            self.strike(place);
        }
    }
}

struct Victim {
    start: StartContext,
    shared: Arc<Shared>,
}

impl Actor for Victim {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.shared.strike_if_armed(Place::Started);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.strike_if_armed(Place::Stopped);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.shared.strike_if_armed(Place::Drop);
        }
    }
}

/// A call with a name of its own.
#[derive(Message)]
#[rtype(u64)]
struct Work(u64);

impl Handler<Work> for Victim {
    type Result = u64;

    fn handle(&mut self, Work(name): Work, _: &mut Self::Context) -> u64 {
        *self.shared.handled.lock().entry(name).or_default() += 1;
        name
    }
}

/// Panics in the handler, after its answer in a timer or a task, or at the end or start of a generation.
#[derive(Message)]
#[rtype("()")]
struct Boom(Place);

impl Handler<Boom> for Victim {
    type Result = ();

    fn handle(&mut self, Boom(place): Boom, ctx: &mut Self::Context) {
        let shared = Arc::clone(&self.shared);
        match place {
            Place::Timer => {
                ctx.run_later(Duration::ZERO, move |_, _| shared.strike(place));
            }
            Place::Task => self.start.spawn(async move { shared.strike(place) }),
            Place::Started | Place::Stopped | Place::Drop => {
                *shared.armed.lock() = Some(place);
                ctx.stop();
            }
            _ => shared.strike(place),
        }
    }
}

macro_rules! boom_in_future {
    ($message:ident, $result:ident < $($of:ty),+ >, |$future:ident, $actor:ident| $make:expr) => {
        #[derive(Message)]
        #[rtype("()")]
        struct $message(Place);

        impl Handler<$message> for Victim {
            type Result = $result<$($of),+>;

            fn handle(&mut self, message: $message, _: &mut Self::Context) -> Self::Result {
                let (shared, $actor) = (Arc::clone(&self.shared), self);
                let $future = async move {
                    tokio::task::yield_now().await;
                    shared.strike(message.0)
                };
                $make
            }
        }
    };
}

boom_in_future!(BoomActFuture, ResponseActFuture<Self, ()>, |future, actor| Box::pin(
    future.into_actor(actor)
));
boom_in_future!(BoomFuture, ResponseFuture<()>, |future, _actor| Box::pin(
    future
));
boom_in_future!(BoomAtomic, AtomicResponse<Self, ()>, |future, actor| {
    AtomicResponse::new(Box::pin(future.into_actor(actor)))
});

async fn boom(child: &ChildRef<Victim>, place: Place) -> Result<(), CallError> {
    match place {
        Place::ActFuture => child.call(BoomActFuture(place), LONG).await,
        Place::Future => child.call(BoomFuture(place), LONG).await,
        Place::Atomic => child.call(BoomAtomic(place), LONG).await,
        _ => child.call(Boom(place), LONG).await,
    }
}

/// Calls of the load and what became of them.
#[derive(Default)]
struct Books {
    next: AtomicU64,
    answered: Mutex<Vec<u64>>,
    /// By the word for the refusal: the calls.
    refused: Mutex<HashMap<&'static str, Vec<u64>>>,
}

impl Books {
    async fn call(&self, child: &ChildRef<Victim>) -> bool {
        let name = self.next.fetch_add(1, Ordering::SeqCst);
        let called = tokio::time::timeout(2 * LONG, child.call(Work(name), LONG)).await;
        match called.expect("a caller hangs") {
            Ok(answer) => {
                assert_eq!(answer, name);
                self.answered.lock().push(name);
                true
            }
            Err(refusal) => {
                let kind = refusal.code();
                self.refused.lock().entry(kind).or_default().push(name);
                false
            }
        }
    }

    /// Answered: handled once. Refused before it was handled: never. Lost: at most once.
    fn check(&self, handled: &HashMap<u64, u32>) {
        let times = |name: &u64| handled.get(name).copied().unwrap_or(0);
        assert!(self.answered.lock().iter().all(|name| times(name) == 1));
        for (kind, names) in &*self.refused.lock() {
            let most = match *kind {
                "down" | "full" | "quarantined" => 0,
                "lost" => 1,
                other => panic!("a call ended as {other}"),
            };
            assert!(names.iter().all(|name| times(name) <= most), "{kind}");
        }
    }
}

fn silence_the_expected() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let expected = panic
            .payload_as_str()
            .is_some_and(|text| text.starts_with("boom"));
        if !expected {
            usual(panic);
        }
    }));
}

async fn strike_and_time(
    child: ChildRef<Victim>,
    shared: Arc<Shared>,
    panics: u64,
) -> Vec<Duration> {
    let mut recoveries = Vec::new();
    for round in 0..panics {
        let place = PLACES[round as usize % PLACES.len()];
        let before = (child.generation(), shared.struck.load(Ordering::SeqCst));
        let began = Instant::now();
        let answer = boom(&child, place).await;
        assert!(
            matches!(answer, Ok(()) | Err(CallError::Lost)),
            "{place:?}: {answer:?}"
        );
        let books = Books::default();
        books.next.store(u64::MAX / 2 + round, Ordering::SeqCst);
        let back = async {
            while child.generation() == before.0
                || shared.struck.load(Ordering::SeqCst) == before.1
                || !books.call(&child).await
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, back)
            .await
            .unwrap_or_else(|_| panic!("not back after a panic in {place:?}"));
        recoveries.push(began.elapsed());
        assert_eq!(shared.struck.load(Ordering::SeqCst), before.1 + 1);
    }
    recoveries
}

#[actix_rt::test]
async fn panics_everywhere_leave_no_caller_without_an_answer_or_a_typed_refusal() {
    silence_the_expected();
    let panics = setting("BLYAN_PANICS", 540);
    let endless = Window::new(1_000_000, Duration::from_secs(3600));
    let mut root = SupervisorSpec::new("node").window(endless);
    let mut children = Vec::new();
    for number in 0..CHILDREN {
        let shared = Arc::new(Shared::default());
        let made = Arc::clone(&shared);
        let spec = ChildSpec::new(format!("victim-{number}"), move |start| {
            Ok(Victim {
                start,
                shared: Arc::clone(&made),
            })
        });
        let spec = spec.window(endless).backoff(Backoff::NONE);
        children.push((spec.child_ref(), shared, Arc::new(Books::default())));
        root = root.child(spec);
    }
    let tree = Tree::start(root, TreeOptions::default()).expect("the spec is well-formed");
    tree.wait_running("node", LONG).await.expect("it starts");

    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    let mut strikes = Vec::new();
    for (child, shared, books) in &children {
        for _ in 0..CALLERS {
            let (child, books, stop) = (child.clone(), Arc::clone(books), Arc::clone(&stop));
            load.push(actix_rt::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    books.call(&child).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        let strike = strike_and_time(
            child.clone(),
            Arc::clone(shared),
            panics.div_ceil(CHILDREN as u64),
        );
        strikes.push(actix_rt::spawn(strike));
    }
    let mut recoveries = Vec::new();
    for strike in strikes {
        recoveries.extend(strike.await.expect("the strikes go on"));
    }
    stop.store(true, Ordering::Relaxed);
    for caller in load {
        caller.await.expect("no caller panics");
    }
    let (mut answered, mut refused) = (0, HashMap::new());
    for (_, shared, books) in &children {
        books.check(&shared.handled.lock());
        answered += books.answered.lock().len();
        for (kind, names) in &*books.refused.lock() {
            *refused.entry(*kind).or_insert(0) += names.len();
        }
    }
    assert!(answered > 0);
    println!(
        "{} panics in {PLACES:?}; {answered} calls answered, refused: {refused:?}; panic to next answer: median {:?}, p99 {:?}, longest {:?}",
        recoveries.len(),
        quantile(&mut recoveries, 0.5),
        quantile(&mut recoveries, 0.99),
        quantile(&mut recoveries, 1.0),
    );
    tree.stop(LONG).await;
}
