//! A raw `Addr` to an actor on an arbiter of its own: no deadline, no supervision.

use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message};

use crate::load::{Peer, ROOM};

struct Counter(u64);

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(ROOM);
    }
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

#[derive(Clone)]
pub struct Raw(Addr<Counter>);

pub fn start() -> Raw {
    Raw(Counter::start_in_arbiter(&Arbiter::new().handle(), |_| {
        Counter(0)
    }))
}

impl Raw {
    /// The same, with a deadline for each ask.
    pub fn with_deadline(self) -> WithDeadline {
        WithDeadline(self)
    }
}

impl Peer for Raw {
    async fn ask(&self) -> u64 {
        self.0.send(Count).await.expect("an answer")
    }

    fn tell(&self) {
        self.0.try_send(Count).expect("room");
    }
}

#[derive(Clone)]
pub struct WithDeadline(Raw);

impl Peer for WithDeadline {
    async fn ask(&self) -> u64 {
        let answer = self.0.0.send(Count).timeout(Duration::from_secs(10));
        answer.await.expect("an answer")
    }

    fn tell(&self) {
        self.0.tell();
    }
}
