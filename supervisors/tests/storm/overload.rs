//! Ten times more calls than an actor can serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, AtomicResponse, Context, Handler, Message, WrapFuture};
use blyan_supervisors::{CallError, ChildRef, ChildSpec, SupervisorSpec, Tree, TreeOptions};
use parking_lot::Mutex;
use rand::Rng;

use crate::{LONG, quantile, setting};

/// What one call takes.
const SERVICE: Duration = Duration::from_millis(2);
/// Calls admitted at once: what bounds how long an admitted one waits.
const MAILBOX: usize = 8;
/// Below this a run is too short for its slowest hundredth to mean anything.
const LONG_RUN_S: u64 = 30;

struct Clerk(Arc<AtomicU64>);

impl Actor for Clerk {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype("()")]
struct Serve;

impl Handler<Serve> for Clerk {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Serve, _: &mut Self::Context) -> Self::Result {
        self.0.fetch_add(1, Ordering::SeqCst);
        AtomicResponse::new(Box::pin(tokio::time::sleep(SERVICE).into_actor(self)))
    }
}

#[derive(Default)]
struct Seen {
    accepted: Mutex<Vec<Duration>>,
    refused: Mutex<Vec<Duration>>,
}

/// Calls at random moments, `rate` a second on average, whether the ones before were answered or not.
async fn load(child: &ChildRef<Clerk>, rate: f64, time: Duration) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let (began, mut due) = (Instant::now(), 0.0);
    let mut calls = tokio::task::JoinSet::new();
    while due < time.as_secs_f64() {
        due -= (1.0 - rand::rng().random::<f64>()).ln() / rate;
        let at = began + Duration::from_secs_f64(due);
        tokio::time::sleep_until(at.into()).await;
        let (child, seen) = (child.clone(), Arc::clone(&seen));
        calls.spawn(async move {
            let began = Instant::now();
            match child.call(Serve, LONG).await {
                Ok(()) => seen.accepted.lock().push(began.elapsed()),
                Err(CallError::Full { .. }) => seen.refused.lock().push(began.elapsed()),
                Err(other) => panic!("refused as {other:?}"),
            }
        });
        while let Some(done) = calls.try_join_next() {
            done.expect("a call panics");
        }
    }
    while let Some(done) = calls.join_next().await {
        done.expect("a call panics");
    }
    seen
}

/// Calls a second that the actor serves, one after the other.
async fn capacity(child: &ChildRef<Clerk>) -> f64 {
    let began = Instant::now();
    for _ in 0..100 {
        child.call(Serve, LONG).await.expect("it is idle");
    }
    100.0 / began.elapsed().as_secs_f64()
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[actix_rt::test]
async fn ten_times_too_many_calls_are_refused_at_once_and_the_rest_is_served_as_before() {
    let seconds = setting("BLYAN_OVERLOAD_S", 1);
    let time = Duration::from_secs(seconds);
    let served = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&served);
    let spec = ChildSpec::new("clerk", move |_| Ok(Clerk(Arc::clone(&counter))));
    let spec = spec.mailbox_len_max(MAILBOX);
    let child = spec.child_ref();
    let tree = Tree::start(
        SupervisorSpec::new("node").child(spec),
        TreeOptions::default(),
    )
    .expect("the spec is well-formed");
    child.wait_running(LONG).await.expect("it starts");

    let capacity = capacity(&child).await;
    let usual = load(&child, 0.8 * capacity, time).await;
    let before = resident_bytes();
    let over = load(&child, 10.0 * capacity, time).await;
    let grown = resident_bytes().saturating_sub(before);

    let (accepted, refused) = (over.accepted.lock().len(), over.refused.lock().len());
    let usual_p99 = quantile(&mut usual.accepted.lock(), 0.99);
    let over_p99 = quantile(&mut over.accepted.lock(), 0.99);
    println!(
        "capacity {capacity:.0}/s; at 80 %: p99 {usual_p99:?} of {}; at ten times: {accepted} served, p99 {over_p99:?}, \
         {refused} refused, p99 {:?}; resident memory grew by {grown} bytes",
        usual.accepted.lock().len(),
        quantile(&mut over.refused.lock(), 0.99),
    );
    assert!(
        accepted > 0 && refused > accepted,
        "the load was not enough"
    );
    assert!(child.mailbox_depth() <= MAILBOX);
    assert!(grown < 8 << 20, "memory grew by {grown} bytes");
    if seconds >= LONG_RUN_S {
        assert!(over_p99 <= 2 * usual_p99, "who was admitted waited longer");
    }

    let flood: Vec<_> = (0..MAILBOX)
        .map(|_| {
            let child = child.clone();
            actix_rt::spawn(async move { child.call(Serve, LONG).await })
        })
        .collect();
    while child.mailbox_depth() < MAILBOX {
        tokio::task::yield_now().await;
    }
    let then = served.load(Ordering::SeqCst);
    tree.stop(LONG).await;
    let more = served.load(Ordering::SeqCst) - then;
    assert!(more <= 1, "{more} messages were begun after the stop");
    for call in flood {
        let answer = call.await.expect("a call panics");
        assert!(
            matches!(answer, Ok(()) | Err(CallError::Lost)),
            "{answer:?}"
        );
    }
}
