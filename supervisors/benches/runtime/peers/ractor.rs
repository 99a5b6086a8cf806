//! ractor: supervisor and child are tasks of one runtime. A new child is a new reference, which the supervisor hands
//! out as applications have to.

use ractor::{
    Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent, rpc::CallResult,
};
use tokio::sync::{oneshot, watch};

use super::on_a_thread;
use crate::load::{Peer, Supervised};

enum Message {
    Tell,
    Ask(RpcReplyPort<u64>),
    /// Holds the way back for as long as the message lives.
    Crash {
        _reply: RpcReplyPort<()>,
    },
}

struct Counter;

impl Actor for Counter {
    type Msg = Message;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        count: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        *count += 1;
        match message {
            Message::Tell => {}
            Message::Ask(reply) => reply.send(*count)?,
            Message::Crash { .. } => panic!("as ordered"),
        }
        Ok(())
    }
}

type Child = Option<ActorRef<Message>>;

struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = watch::Sender<Child>;
    type Arguments = watch::Sender<Child>;

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        child: watch::Sender<Child>,
    ) -> Result<watch::Sender<Child>, ActorProcessingErr> {
        spawn_child(&myself, &child).await?;
        Ok(child)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        child: &mut watch::Sender<Child>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(..) = event {
            spawn_child(&myself, child).await?;
        }
        Ok(())
    }
}

async fn spawn_child(
    supervisor: &ActorRef<()>,
    child: &watch::Sender<Child>,
) -> Result<(), ActorProcessingErr> {
    let (spawned, _) = Actor::spawn_linked(None, Counter, (), supervisor.get_cell()).await?;
    child.send_replace(Some(spawned));
    Ok(())
}

#[derive(Clone)]
pub struct Current(watch::Receiver<Child>);

pub async fn start() -> Result<Current, oneshot::error::RecvError> {
    let (child, mut current) = watch::channel(None);
    let (started, up) = oneshot::channel();
    on_a_thread(async {
        let spawned = Actor::spawn(None, Supervisor, child).await;
        let (_, supervisor) = spawned.expect("a supervisor");
        // The other end waits below.
        let _ = started.send(());
        // Ends with the supervisor, which does not.
        let _ = supervisor.await;
    });
    up.await?;
    current.mark_unchanged();
    Ok(Current(current))
}

impl Current {
    fn child(&self) -> ActorRef<Message> {
        self.0.borrow().clone().expect("a child")
    }
}

impl Peer for Current {
    async fn ask(&self) -> u64 {
        let asked = self.child().call(Message::Ask, None).await;
        asked.expect("a child").unwrap()
    }

    fn tell(&self) {
        self.child().cast(Message::Tell).expect("a child");
    }
}

impl Supervised for Current {
    async fn crash(&self) -> u64 {
        let mut next = self.0.clone();
        next.mark_unchanged();
        let died = self
            .child()
            .call(|_reply| Message::Crash { _reply }, None)
            .await;
        assert!(!died.is_ok_and(|reply| reply.is_success()));
        next.changed().await.expect("a supervisor");
        match self.child().call(Message::Ask, None).await {
            Ok(CallResult::Success(count)) => count,
            other => panic!("a new child does not answer: {other:?}"),
        }
    }
}
