//! The actor whose calls are counted, and one generation of it.

use std::sync::{Arc, Mutex};

use actix::{
    Actor, ActorFutureExt, Context, Handler, Message, MessageResponse, ResponseActFuture,
    WrapFuture,
};
use shuttle::{future::block_on, thread};
use tokio::sync::mpsc;

use crate::{
    ChildSpec, Generation, NoProbe,
    control::Control,
    runner::{ExitGuard, Launch, Report, generation},
};

/// Which call was handled by which generation, in order.
pub(super) type Ledger = Arc<Mutex<Vec<Answer>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, MessageResponse)]
pub(super) struct Answer {
    pub(super) call: usize,
    pub(super) generation: Generation,
}

pub(super) struct Clerk {
    pub(super) ledger: Ledger,
    pub(super) generation: Generation,
    /// Where a stuck clerk waits, its thread blocked, until the other side is dropped.
    pub(super) stuck: Option<shuttle::sync::mpsc::Receiver<()>>,
}

impl Actor for Clerk {
    type Context = Context<Self>;
}

impl Clerk {
    fn enter(&self, call: usize) -> Answer {
        let answer = Answer {
            call,
            generation: self.generation,
        };
        self.ledger.lock().expect("not poisoned").push(answer);
        if let Some(stuck) = &self.stuck {
            let _ = stuck.recv();
        }
        answer
    }
}

#[derive(Message)]
#[rtype(Answer)]
pub(super) struct Enter(pub(super) usize);

impl Handler<Enter> for Clerk {
    type Result = Answer;

    fn handle(&mut self, message: Enter, _: &mut Context<Self>) -> Answer {
        self.enter(message.0)
    }
}

/// Answered later, by a future of the actor.
#[derive(Message)]
#[rtype(Answer)]
pub(super) struct EnterLater(pub(super) usize);

impl Handler<EnterLater> for Clerk {
    type Result = ResponseActFuture<Self, Answer>;

    fn handle(&mut self, message: EnterLater, _: &mut Context<Self>) -> Self::Result {
        let answer = self.enter(message.0);
        Box::pin(
            shuttle::future::yield_now()
                .into_actor(self)
                .map(move |(), _, _| answer),
        )
    }
}

/// A generation on a thread of its own.
pub(super) struct Living {
    pub(super) control: Arc<Control>,
    reports: mpsc::UnboundedReceiver<Report>,
    thread: thread::JoinHandle<()>,
}

impl Living {
    pub(super) fn start(spec: &Arc<ChildSpec<Clerk>>, number: u64) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let control = Control::new();
        let launch = Launch {
            path: Arc::from("clerk"),
            control: Arc::clone(&control),
            probe: Arc::new(NoProbe),
            guard: ExitGuard {
                node: 1,
                generation: Generation(number),
                reports: sender,
                reported: false,
            },
        };
        let spec = Arc::clone(spec);
        let thread = thread::spawn(move || block_on(generation(&spec, launch)));
        Self {
            control,
            reports,
            thread,
        }
    }

    /// Waits for the end, which is reported exactly once.
    pub(super) fn ended(mut self) {
        let mut exits = 0;
        while let Some(report) = block_on(self.reports.recv()) {
            exits += u32::from(matches!(report, Report::Exited { .. }));
        }
        self.thread.join().expect("the wrapper does not panic");
        assert_eq!(exits, 1);
    }
}
