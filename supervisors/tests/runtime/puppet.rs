//! An actor that does whatever a test wants of it, and a journal of what it did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, AsyncContext, AtomicResponse, Context, Handler, Message, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use blyan_supervisors::{
    Backoff, ChildRef, ChildSpec, ExitReason, StartContext, SupervisorSpec, Tree, TreeHandle,
    TreeOptions, Window,
};
use parking_lot::Mutex;

/// Long enough for anything that is going to happen on a loaded machine.
pub const LONG: Duration = Duration::from_secs(20);

/// What happened, in order, over all actors of a test.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn note(&self, line: String) {
        self.0.lock().push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub fn has(&self, line: &str) -> bool {
        self.0.lock().iter().any(|noted| noted == line)
    }
}

pub struct Puppet {
    pub start: StartContext,
    name: String,
    count: u64,
    journal: Journal,
    panic_in_stopped: bool,
    panic_in_drop: bool,
}

impl Puppet {
    pub fn new(start: StartContext, journal: &Journal) -> Self {
        Self {
            name: start.path().to_string(),
            start,
            count: 0,
            journal: journal.clone(),
            panic_in_stopped: false,
            panic_in_drop: false,
        }
    }

    pub fn panicking(mut self, in_stopped: bool, in_drop: bool) -> Self {
        self.panic_in_stopped = in_stopped;
        self.panic_in_drop = in_drop;
        self
    }
}

impl Actor for Puppet {
    type Context = Context<Self>;

    fn started(&mut self, _ctx: &mut Self::Context) {
        let generation = self.start.generation();
        self.journal
            .note(format!("start {} {generation}", self.name));
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.journal.note(format!("stopped {}", self.name));
        assert!(!self.panic_in_stopped, "boom in stopped");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.journal.note(format!("drop {}", self.name));
        assert!(!self.panic_in_drop, "boom in drop");
    }
}

/// Counts up; the answer is the count in this generation.
#[derive(Message)]
#[rtype(u64)]
pub struct Count;

impl Handler<Count> for Puppet {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.count += 1;
        self.count
    }
}

/// Says which thread the actor lives on.
#[derive(Message)]
#[rtype(String)]
pub struct Thread;

impl Handler<Thread> for Puppet {
    type Result = String;

    fn handle(&mut self, _: Thread, _: &mut Self::Context) -> String {
        format!("{:?}", std::thread::current().id())
    }
}

/// Where a panic strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Handler,
    Later,
    Task,
}

#[derive(Message)]
#[rtype("()")]
pub struct Boom(pub Where);

impl Handler<Boom> for Puppet {
    type Result = ();

    fn handle(&mut self, Boom(place): Boom, ctx: &mut Self::Context) {
        match place {
            Where::Later => {
                ctx.run_later(Duration::from_millis(1), |_, _| panic!("boom in later"));
            }
            Where::Task => self.start.spawn(async { panic!("boom in task") }),
            Where::Handler => panic!("boom in handler"),
        }
    }
}

#[derive(Message)]
#[rtype("()")]
pub struct BoomActFuture;

impl Handler<BoomActFuture> for Puppet {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: BoomActFuture, _: &mut Self::Context) -> Self::Result {
        Box::pin(
            async {
                tokio::task::yield_now().await;
                panic!("boom in act future")
            }
            .into_actor(self),
        )
    }
}

#[derive(Message)]
#[rtype("()")]
pub struct BoomFuture;

impl Handler<BoomFuture> for Puppet {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: BoomFuture, _: &mut Self::Context) -> Self::Result {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("boom in future")
        })
    }
}

#[derive(Message)]
#[rtype("()")]
pub struct BoomAtomic;

impl Handler<BoomAtomic> for Puppet {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: BoomAtomic, _: &mut Self::Context) -> Self::Result {
        let boom = async {
            tokio::task::yield_now().await;
            panic!("boom in atomic")
        };
        AtomicResponse::new(Box::pin(boom.into_actor(self)))
    }
}

/// Blocks the actor's thread until the latch opens.
#[derive(Message)]
#[rtype("()")]
pub struct Block(pub Latch);

impl Handler<Block> for Puppet {
    type Result = ();

    fn handle(&mut self, Block(latch): Block, _: &mut Self::Context) {
        latch.wait();
    }
}

/// Never answers, without blocking.
#[derive(Message)]
#[rtype("()")]
pub struct Hang;

impl Handler<Hang> for Puppet {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Hang, _: &mut Self::Context) -> Self::Result {
        Box::pin(std::future::pending().into_actor(self))
    }
}

/// Makes the actor leave by its exit handle.
#[derive(Message)]
#[rtype("()")]
pub struct Leave(pub ExitReason);

impl Handler<Leave> for Puppet {
    type Result = ();

    fn handle(&mut self, Leave(reason): Leave, _: &mut Self::Context) {
        self.start.exit_handle().exit(reason);
    }
}

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
pub struct Latch(Arc<(Mutex<bool>, parking_lot::Condvar, AtomicU64)>);

impl Latch {
    pub fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Waits until so many threads have come to it.
    pub async fn reached_by(&self, threads: u64) {
        eventually("a thread blocks", || {
            self.0.2.load(Ordering::SeqCst) == threads
        })
        .await;
    }

    fn wait(&self) {
        self.0.2.fetch_add(1, Ordering::SeqCst);
        let mut open = self.0.0.lock();
        while !*open {
            self.0.1.wait(&mut open);
        }
    }
}

/// A puppet without back-off.
pub fn puppet(id: &str, journal: &Journal) -> ChildSpec<Puppet> {
    let journal = journal.clone();
    ChildSpec::new(id, move |start| Ok(Puppet::new(start, &journal))).backoff(Backoff::NONE)
}

/// A window that is never used up.
pub fn endless() -> Window {
    Window::new(1_000_000, Duration::from_secs(3600))
}

pub fn start(spec: SupervisorSpec) -> TreeHandle {
    Tree::start(spec, TreeOptions::default()).expect("the spec is well-formed")
}

/// A tree of one puppet with an endless window.
pub async fn start_one(id: &str) -> (TreeHandle, ChildRef<Puppet>, Journal) {
    let journal = Journal::default();
    let spec = puppet(id, &journal).window(endless());
    let child = spec.child_ref();
    let tree = start(SupervisorSpec::new("node").window(endless()).child(spec));
    child.wait_running(LONG).await.expect("it starts");
    (tree, child, journal)
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Calls until the child is back, and returns the first answer.
pub async fn count_when_back(child: &ChildRef<Puppet>) -> u64 {
    let asking = async {
        loop {
            if let Ok(count) = child.call(Count, LONG).await {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, asking)
        .await
        .expect("it comes back")
}

/// A factory that fails so often before it succeeds.
pub fn failing_starts(
    failures: u64,
    journal: &Journal,
) -> impl Fn(StartContext) -> Result<Puppet, ExitReason> + use<> {
    let (tried, journal) = (Arc::new(AtomicU64::new(0)), journal.clone());
    move |start| {
        if tried.fetch_add(1, Ordering::SeqCst) < failures {
            return Err("not yet".into());
        }
        Ok(Puppet::new(start, &journal))
    }
}
