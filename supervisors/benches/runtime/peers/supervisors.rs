//! Ours: an actix actor behind a `ChildRef`. Every ask has a deadline and a bound on admission.

use std::time::Duration;

use actix::{Actor, Arbiter, Context, Handler, Message};
use blyan_supervisors::{
    Backoff, ChildRef, ChildSpec, SpecError, SupervisorSpec, Tree, TreeHandle, TreeOptions, Window,
};
use tokio::sync::oneshot;

use crate::load::{Peer, ROOM, Supervised};

const DEADLINE: Duration = Duration::from_secs(10);
/// Never used up. Short, since what lies in a window is counted at each restart.
const WIDE: Window = Window::new(1_000_000, Duration::from_millis(1));

struct Counter(u64);

impl Actor for Counter {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(u64)]
struct Count;

impl Handler<Count> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.0 += 1;
        self.0
    }
}

#[derive(Message)]
#[rtype("()")]
struct Crash;

impl Handler<Crash> for Counter {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("as ordered");
    }
}

#[derive(Clone)]
pub struct Ours {
    child: ChildRef<Counter>,
    /// Keeps the tree commanded.
    _tree: TreeHandle,
}

/// As a node has it: the child and the supervision each on a thread of its own.
pub async fn start() -> Result<Ours, Box<dyn std::error::Error>> {
    let child = ChildRef::unbound();
    let tree = grow(&child, TreeOptions::default())?;
    running(child, tree).await
}

/// Supervision and child on one thread, as tasks of one runtime are.
pub async fn start_on_one_thread() -> Result<Ours, Box<dyn std::error::Error>> {
    let child = ChildRef::unbound();
    let (planted, tree) = oneshot::channel();
    let bound = child.clone();
    Arbiter::new().spawn_fn(move || {
        let options = TreeOptions {
            local: true,
            ..TreeOptions::default()
        };
        // The other end waits below.
        let _ = planted.send(grow(&bound, options));
    });
    running(child, tree.await??).await
}

fn grow(child: &ChildRef<Counter>, options: TreeOptions) -> Result<TreeHandle, SpecError> {
    let spec = ChildSpec::new("counter", |_| Ok(Counter(0)))
        .bind(child)
        .mailbox_len_max(ROOM)
        .backoff(Backoff::NONE)
        .window(WIDE);
    let root = SupervisorSpec::new("bench").window(WIDE).child(spec);
    Tree::start(root, options)
}

async fn running(
    child: ChildRef<Counter>,
    tree: TreeHandle,
) -> Result<Ours, Box<dyn std::error::Error>> {
    child.wait_running(DEADLINE).await?;
    Ok(Ours { child, _tree: tree })
}

impl Peer for Ours {
    async fn ask(&self) -> u64 {
        self.child.call(Count, DEADLINE).await.expect("an answer")
    }

    fn tell(&self) {
        self.child.try_tell(Count).expect("room");
    }
}

impl Supervised for Ours {
    async fn crash(&self) -> u64 {
        let died = self.child.call(Crash, DEADLINE).await;
        died.expect_err("a panic answers nothing");
        loop {
            let running = self.child.wait_running(DEADLINE).await;
            running.expect("a new generation");
            if let Ok(count) = self.child.call(Count, DEADLINE).await {
                return count;
            }
        }
    }
}
