//! What there is without any framework: a channel and a task.

use tokio::sync::{mpsc, oneshot};

use super::on_a_thread;
use crate::load::{Peer, ROOM};

enum Count {
    Tell,
    Ask(oneshot::Sender<u64>),
}

#[derive(Clone)]
pub struct Channels(mpsc::Sender<Count>);

pub fn start() -> Channels {
    let (sender, receiver) = mpsc::channel(ROOM);
    on_a_thread(count(receiver));
    Channels(sender)
}

async fn count(mut messages: mpsc::Receiver<Count>) {
    let mut counted = 0;
    while let Some(message) = messages.recv().await {
        counted += 1;
        if let Count::Ask(reply) = message {
            // Who asked may have gone.
            let _ = reply.send(counted);
        }
    }
}

impl Peer for Channels {
    async fn ask(&self) -> u64 {
        let (reply, answer) = oneshot::channel();
        self.0.send(Count::Ask(reply)).await.expect("a receiver");
        answer.await.expect("an answer")
    }

    fn tell(&self) {
        self.0.try_send(Count::Tell).expect("room");
    }
}
