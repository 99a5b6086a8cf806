//! The stable handle of a child and what stands behind it.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{Actor, Context, Handler, Message};
use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    CallError, ChildState, Generation,
    admission::Admission,
    inbox::{BoxedParcel, Letter},
    sync::{Mutex, step},
};

/// The wait of one message in so many is measured: reading the clock is a good part of what a message costs.
const WAIT_SAMPLE: usize = 64;
/// Hint of a refusal by a child that is on its way up or down.
const SOON: Duration = Duration::from_millis(250);
/// Hint of a refusal by a child that is down until something else happens.
const LATER: Duration = Duration::from_secs(1);
/// Hint of a refusal by a quarantined child.
const AFTER_A_PERSON_LOOKED: Duration = Duration::from_secs(30);

/// What callers see of a child between generations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) state: ChildState,
    pub(crate) generation: Generation,
    pub(crate) retry_at: Option<Instant>,
}

/// A generation that takes messages.
pub(crate) struct Live<A: Actor> {
    pub(crate) generation: Generation,
    pub(crate) parcels: mpsc::UnboundedSender<BoxedParcel<A>>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) token: CancellationToken,
}

/// One per child for the life of the tree: open while a generation takes messages.
pub(crate) struct Gate<A: Actor> {
    live: ArcSwapOption<Live<A>>,
    /// The newest generation that was shut; it and those before it never open again.
    shut: Mutex<Generation>,
    status: Mutex<Status>,
    /// Tells those who wait for a generation that one takes messages.
    opened: Notify,
    path: OnceLock<Arc<str>>,
}

impl<A: Actor> Gate<A> {
    fn new() -> Arc<Self> {
        let status = Mutex::new(Status {
            state: ChildState::Stopped,
            generation: Generation(0),
            retry_at: None,
        });
        Arc::new(Self {
            live: ArcSwapOption::empty(),
            shut: Mutex::new(Generation(0)),
            status,
            opened: Notify::new(),
            path: OnceLock::new(),
        })
    }

    /// The child's place; empty before the tree has started.
    pub(crate) fn path(&self) -> &str {
        self.path.get().map_or("", |path| path)
    }

    /// The generation that takes messages now.
    pub(crate) fn live(&self) -> Option<Arc<Live<A>>> {
        step();
        self.live.load_full()
    }

    /// Returns when a generation takes messages, which may have ended since.
    async fn until_open(&self) {
        let mut opened = pin!(self.opened.notified());
        loop {
            // In line before the look, so that no opening falls in between.
            opened.as_mut().enable();
            if self.live().is_some() {
                return;
            }
            opened.as_mut().await;
            opened.set(self.opened.notified());
        }
    }

    /// Lets messages through to this generation, unless it was shut before it could open.
    pub(crate) fn open(&self, live: Live<A>) {
        let shut = self.shut.lock();
        if live.generation > *shut {
            let generation = live.generation;
            self.live.store(Some(Arc::new(live)));
            self.publish(Status {
                state: ChildState::Running,
                generation,
                retry_at: None,
            });
            step();
            self.opened.notify_waiters();
        }
    }
}

/// The gate as the supervisor sees it, whatever the actor's type.
pub(crate) trait GateControl: Send + Sync {
    /// Gives the gate its place in the tree; false when it has one already.
    fn place(&self, path: &Arc<str>) -> bool;
    /// Refuses messages to this generation and those before it.
    fn shut(&self, generation: Generation);
    fn publish(&self, status: Status);
    /// Messages admitted and not yet answered.
    fn depth(&self) -> usize;
}

impl<A: Actor> GateControl for Gate<A> {
    fn place(&self, path: &Arc<str>) -> bool {
        self.path.set(Arc::clone(path)).is_ok()
    }

    fn shut(&self, generation: Generation) {
        let mut shut = self.shut.lock();
        *shut = (*shut).max(generation);
        let live = self.live.load();
        if live.as_ref().is_some_and(|live| live.generation <= *shut) {
            self.live.store(None);
        }
    }

    fn publish(&self, status: Status) {
        *self.status.lock() = status;
    }

    fn depth(&self) -> usize {
        let live = self.live.load();
        live.as_ref().map_or(0, |live| live.admission.taken())
    }
}

/// The handle of a child: made before the child starts, valid through all its restarts.
///
/// A message reaches the generation that runs at the time of the call and no other; it is handled at most once.
pub struct ChildRef<A: Actor> {
    pub(crate) gate: Arc<Gate<A>>,
}

impl<A: Actor> Clone for ChildRef<A> {
    fn clone(&self) -> Self {
        Self {
            gate: Arc::clone(&self.gate),
        }
    }
}

impl<A: Actor> std::fmt::Debug for ChildRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChildRef({}, {})", self.path(), self.state())
    }
}

impl<A: Actor<Context = Context<A>>> ChildRef<A> {
    /// A handle for a child whose spec comes later, see [`ChildSpec::bind`](crate::ChildSpec::bind); until then it
    /// refuses as `Down`. Two children that need each other's handle start this way.
    pub fn unbound() -> Self {
        Self { gate: Gate::new() }
    }

    /// Sends `message` and waits for the answer, at most `within`.
    ///
    /// A refusal comes at once, without waiting. When the caller has gone (this future dropped, or the deadline
    /// passed) before the handler began, the message is not handled at all.
    ///
    /// # Errors
    /// `Down`, `Quarantined`, `Full`: not handled. `Lost`, `Timeout`: perhaps handled.
    pub async fn call<M>(&self, message: M, within: Duration) -> Result<M::Result, CallError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let live = self.admit()?;
        let (reply, answer) = oneshot::channel();
        self.post(&live, message, Some(reply))?;
        step();
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| CallError::Lost),
            () = live.token.cancelled() => Err(CallError::Lost),
            () = tokio::time::sleep(within) => Err(CallError::Timeout),
        }
    }

    /// Sends `message` without waiting for its answer. The bound on messages admitted holds here too.
    ///
    /// # Errors
    /// `Down`, `Quarantined`, `Full`. `Ok` means admitted: whether it is handled nobody will say.
    pub fn try_tell<M>(&self, message: M) -> Result<(), CallError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let live = self.admit()?;
        self.post(&live, message, None)
    }

    /// Waits until the child takes messages, at most `within`.
    ///
    /// # Errors
    /// The refusal that a call would get when the time is over.
    pub async fn wait_running(&self, within: Duration) -> Result<Generation, CallError> {
        // Whether it runs when the time is over is looked at anyway.
        let _ = tokio::time::timeout(within, self.gate.until_open()).await;
        self.admit().map(|live| live.generation)
    }

    fn admit(&self) -> Result<Arc<Live<A>>, CallError> {
        self.gate.live().ok_or_else(|| self.refusal())
    }

    fn post<M>(
        &self,
        live: &Live<A>,
        message: M,
        reply: Option<oneshot::Sender<M::Result>>,
    ) -> Result<(), CallError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        step();
        let number = live.admission.enter();
        let number = number.ok_or(CallError::Full { retry_after: SOON })?;
        let letter = Letter {
            message,
            reply,
            sent: number.is_multiple_of(WAIT_SAMPLE).then(Instant::now),
        };
        step();
        live.parcels.send(Box::new(letter)).map_err(|_| {
            live.admission.leave();
            self.refusal()
        })
    }
}

impl<A: Actor> ChildRef<A> {
    /// What the child does now.
    pub fn state(&self) -> ChildState {
        self.gate.status.lock().state
    }

    /// How often the child has been started; 0 before the first start.
    pub fn generation(&self) -> Generation {
        self.gate.status.lock().generation
    }

    /// The child's place, such as `serving/replicas/inference-1`; empty before the tree has started.
    pub fn path(&self) -> &str {
        self.gate.path()
    }

    /// Messages admitted and not yet answered.
    pub fn mailbox_depth(&self) -> usize {
        self.gate.depth()
    }

    fn refusal(&self) -> CallError {
        let status = *self.gate.status.lock();
        let until_retry = |at: Instant| at.saturating_duration_since(Instant::now());
        match status.state {
            ChildState::Quarantined => CallError::Quarantined {
                retry_after: AFTER_A_PERSON_LOOKED,
            },
            ChildState::BackingOff => CallError::Down {
                state: ChildState::BackingOff,
                retry_after: status.retry_at.map_or(SOON, until_retry) + SOON,
            },
            ChildState::Stopped => CallError::Down {
                state: ChildState::Stopped,
                retry_after: LATER,
            },
            // The gate is shut from within before the supervisor has heard of it.
            ChildState::Running => CallError::Down {
                state: ChildState::Stopping,
                retry_after: SOON,
            },
            state => CallError::Down {
                state,
                retry_after: SOON,
            },
        }
    }
}
