//! kameo: supervisor and child are tasks of one runtime; the child's reference outlives restarts.

use std::time::Duration;

use kameo::{
    Actor,
    actor::{ActorRef, Spawn},
    error::Infallible,
    mailbox,
    message::{Context, Message},
    supervision::RestartPolicy,
};
use tokio::{sync::oneshot, task::yield_now};

use super::on_a_thread;
use crate::load::{Peer, ROOM, Supervised};

struct Supervisor;

impl Actor for Supervisor {
    type Args = ();
    type Error = Infallible;

    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

struct Counter(u64);

impl Actor for Counter {
    type Args = ();
    type Error = Infallible;

    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self(0))
    }
}

struct Count;

impl Message<Count> for Counter {
    type Reply = u64;

    async fn handle(&mut self, _: Count, _: &mut Context<Self, u64>) -> u64 {
        self.0 += 1;
        self.0
    }
}

struct Crash;

impl Message<Crash> for Counter {
    type Reply = ();

    async fn handle(&mut self, _: Crash, _: &mut Context<Self, ()>) {
        panic!("as ordered");
    }
}

#[derive(Clone)]
pub struct Child(ActorRef<Counter>);

pub async fn start() -> Result<Child, oneshot::error::RecvError> {
    let (started, child) = oneshot::channel();
    on_a_thread(async {
        let supervisor = Supervisor::spawn(());
        let child = Counter::supervise(&supervisor, ())
            .restart_policy(RestartPolicy::Permanent)
            .restart_limit(u32::MAX, Duration::from_secs(1))
            .spawn_with_mailbox(mailbox::bounded(ROOM))
            .await;
        // The other end waits below.
        let _ = started.send(child);
        supervisor.wait_for_shutdown().await;
    });
    child.await.map(Child)
}

impl Peer for Child {
    async fn ask(&self) -> u64 {
        self.0.ask(Count).send().await.expect("an answer")
    }

    fn tell(&self) {
        self.0.tell(Count).try_send().expect("room");
    }
}

impl Supervised for Child {
    async fn crash(&self) -> u64 {
        let died = self.0.ask(Crash).send().await;
        died.expect_err("a panic answers nothing");
        loop {
            // Handled by the next generation, or bounced while it is made.
            match self.0.ask(Count).send().await {
                Ok(count) => return count,
                Err(_) => yield_now().await,
            }
        }
    }
}
