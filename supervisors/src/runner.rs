//! The wrapper that polls an actor of ours inside `catch_unwind` and reports how it ended.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use actix::{Actor, ActorContext, AsyncContext, Context, dev::ContextFut};
use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;

use crate::{
    ExitReason, Generation, Probe, StartContext, Tasks,
    admission::Admission,
    control::{Control, Order},
    core::Ix,
    gate::{Gate, GateControl, Live},
    inbox::{Desk, Inbox},
    spec::{ChildSpec, Factory},
    sync::step,
};

/// What the wrapper tells the supervisor.
#[derive(Debug)]
pub(crate) enum Report {
    /// The factory and `started` have returned.
    Started { node: Ix, generation: Generation },
    /// The actor has been dropped.
    Exited {
        node: Ix,
        generation: Generation,
        reason: ExitReason,
    },
    /// The generation's thread was abandoned because of a neighbour.
    ThreadLost { node: Ix, generation: Generation },
}

/// Reports the exit exactly once, also when the wrapper is dropped or never gets to run.
pub(crate) struct ExitGuard {
    pub(crate) node: Ix,
    pub(crate) generation: Generation,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    pub(crate) reported: bool,
}

impl ExitGuard {
    fn report(&mut self, reason: ExitReason) {
        if !std::mem::replace(&mut self.reported, true) {
            // The supervisor has ended: nobody is left to be told.
            let _ = self.reports.send(Report::Exited {
                node: self.node,
                generation: self.generation,
                reason,
            });
        }
    }

    fn started(&self) {
        let _ = self.reports.send(Report::Started {
            node: self.node,
            generation: self.generation,
        });
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.report(ExitReason::Killed);
    }
}

/// One generation to be started.
pub(crate) struct Launch {
    pub(crate) path: Arc<str>,
    pub(crate) control: Arc<Control>,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) guard: ExitGuard,
}

/// Starts a generation on the current thread.
pub(crate) fn run_here<A>(spec: &ChildSpec<A>, launch: Launch)
where
    A: Actor<Context = Context<A>>,
{
    actix_rt::spawn(generation(spec, launch));
}

/// One generation from its factory to its exit report.
pub(crate) fn generation<A>(
    spec: &ChildSpec<A>,
    launch: Launch,
) -> impl Future<Output = ()> + use<A>
where
    A: Actor<Context = Context<A>>,
{
    Runner::new(spec, launch)
}

/// The text of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

type Actors<A> = ContextFut<A, Context<A>>;

enum Stage<A: Actor<Context = Context<A>>> {
    Ordered(Factory<A>, Option<StartContext>),
    Building(LocalBoxFuture<'static, Result<A, ExitReason>>),
    /// `Live` until the first poll, which runs `started`, has come back.
    Built(Box<Actors<A>>, Option<Live<A>>),
    Gone,
}

/// The stage stays in place while user code runs, so that a panic never drops an actor during unwinding.
struct Runner<A: Actor<Context = Context<A>>> {
    stage: Stage<A>,
    control: Arc<Control>,
    gate: Arc<Gate<A>>,
    mailbox_len_max: usize,
    guard: ExitGuard,
    /// Why the actor was dropped; its tasks may still be on their way out.
    leaving: Option<ExitReason>,
}

impl<A: Actor<Context = Context<A>>> Runner<A> {
    fn new(spec: &ChildSpec<A>, launch: Launch) -> Self {
        let Launch {
            path,
            control,
            probe,
            guard,
        } = launch;
        let start = StartContext {
            generation: guard.generation,
            path,
            probe,
            tasks: Tasks::new(Arc::clone(&control)),
        };
        Self {
            stage: Stage::Ordered(Arc::clone(&spec.factory), Some(start)),
            control,
            gate: Arc::clone(&spec.child.gate),
            mailbox_len_max: spec.limits.mailbox_len_max,
            guard,
            leaving: None,
        }
    }

    /// Moves on as far as possible; ready when the actor has ended by itself.
    fn step(&mut self, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        loop {
            let next = match &mut self.stage {
                Stage::Ordered(factory, start) => match start.take() {
                    Some(start) => Stage::Building(factory(start)),
                    None => Stage::Gone,
                },
                Stage::Building(building) => match ready!(building.as_mut().poll(cx)) {
                    Ok(actor) => self.furnish(actor),
                    Err(reason) => return Poll::Ready(reason),
                },
                Stage::Built(actor, live) => {
                    let polled = Pin::new(actor).poll(cx);
                    if let (Poll::Pending, Some(live)) = (polled, live.take()) {
                        self.gate.open(live);
                        self.guard.started();
                    }
                    return polled.map(|()| self.own_reason());
                }
                Stage::Gone => return Poll::Ready(ExitReason::Killed),
            };
            self.stage = next;
        }
    }

    /// The actor with a fresh context and a fresh mailbox.
    fn furnish(&self, actor: A) -> Stage<A> {
        let (sender, parcels) = mpsc::unbounded_channel();
        let admission = Admission::new(self.mailbox_len_max);
        let mut ctx = Context::new();
        ctx.spawn(Inbox {
            parcels,
            desk: Desk {
                control: Arc::clone(&self.control),
                gate: Arc::clone(&self.gate),
                generation: self.guard.generation,
                admission: Arc::clone(&admission),
            },
        });
        let live = Live {
            generation: self.guard.generation,
            parcels: sender,
            admission,
            token: self.control.token().clone(),
        };
        Stage::Built(Box::new(ctx.into_future(actor)), Some(live))
    }

    /// The reason of an actor whose context has ended.
    fn own_reason(&self) -> ExitReason {
        match self.control.order() {
            Some(Order::Stop) => ExitReason::Shutdown,
            Some(Order::Exit(reason)) => reason,
            None => ExitReason::Normal,
        }
    }

    /// Carries out what the actor has been told; ready when it is to be dropped.
    fn obey(&mut self) -> Poll<ExitReason> {
        if !self.control.is_closing() {
            return Poll::Pending;
        }
        if self.control.token().is_cancelled() {
            return Poll::Ready(ExitReason::Killed);
        }
        match self.control.order() {
            Some(Order::Exit(reason)) => Poll::Ready(reason),
            Some(Order::Stop) => match &mut self.stage {
                Stage::Built(actor, _) => {
                    actor.ctx().stop();
                    Poll::Pending
                }
                _ => Poll::Ready(ExitReason::Shutdown),
            },
            None => Poll::Pending,
        }
    }

    fn live_on(&mut self, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        if let Poll::Ready(reason) = self.obey() {
            return Poll::Ready(reason);
        }
        let stepped = catch_unwind(AssertUnwindSafe(|| self.step(cx)));
        match stepped {
            Ok(Poll::Pending) => self.obey_exits(),
            Ok(Poll::Ready(reason)) => Poll::Ready(reason),
            Err(payload) => Poll::Ready(ExitReason::Panicked(panic_text(&*payload))),
        }
    }

    /// An exit that the actor asked for during its poll; a stop waits for the next poll, its waker has been called.
    fn obey_exits(&self) -> Poll<ExitReason> {
        if !self.control.is_closing() {
            return Poll::Pending;
        }
        match self.control.order() {
            _ if self.control.token().is_cancelled() => Poll::Ready(ExitReason::Killed),
            Some(Order::Exit(reason)) => Poll::Ready(reason),
            _ => Poll::Pending,
        }
    }

    /// Releases the callers and the tasks and drops the actor.
    fn leave(&mut self, reason: ExitReason) {
        self.gate.shut(self.guard.generation);
        step();
        self.control.kill();
        let dropped = catch_unwind(AssertUnwindSafe(|| self.clear()));
        self.leaving = Some(match dropped {
            Err(payload) if reason.is_normal() => ExitReason::Panicked(panic_text(&*payload)),
            _ => reason,
        });
    }

    /// Drops the actor without its hooks: they have run in the last poll, or its state is not to be trusted.
    fn clear(&mut self) {
        if let Stage::Built(actor, _) = &mut self.stage {
            actor.ctx().terminate();
        }
        self.stage = Stage::Gone;
    }
}

impl<A: Actor<Context = Context<A>>> Future for Runner<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.get_mut();
        let control = Arc::clone(&this.control);
        let _polling = control.begin_poll();
        control.listen(cx.waker());
        step();
        if this.leaving.is_none() {
            let reason = ready!(this.live_on(cx));
            this.leave(reason);
        }
        if control.has_tasks() {
            return Poll::Pending;
        }
        if let Some(reason) = this.leaving.take() {
            this.guard.report(reason);
        }
        Poll::Ready(())
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Runner<A> {
    /// The thread's event loop ends under the actor.
    fn drop(&mut self) {
        if !self.guard.reported && self.leaving.is_none() {
            self.leave(ExitReason::Killed);
        }
        if let Some(reason) = self.leaving.take() {
            self.guard.report(reason);
        }
    }
}
