//! The mailbox: parcels that carry a message and its answer's way back, each admitted before it was sent.
//!
//! actix's own mailbox is not used for calls: its capacity counts senders, not messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use actix::{
    Actor, AsyncContext, Context, Handler, Message, WrapFuture, dev::MessageResponse,
    fut::ActorFuture,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    ExitReason, Generation,
    admission::{Admission, Place},
    control::Control,
    gate::{Gate, GateControl},
    metrics,
    sync::step,
};

pub(crate) type BoxedParcel<A> = Box<dyn Parcel<A> + Send>;

/// Where the messages of one generation are handled.
pub(crate) struct Desk<A: Actor> {
    pub(crate) control: Arc<Control>,
    pub(crate) gate: Arc<Gate<A>>,
    pub(crate) generation: Generation,
    pub(crate) admission: Arc<Admission>,
}

/// Shuts the gate when a handler panics, before the unwinding drops the way back of its answer: what that caller sends
/// next is refused and not lost.
struct Shutter<'a, A: Actor>(&'a Desk<A>);

impl<A: Actor> Drop for Shutter<'_, A> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.gate.shut(self.0.generation);
        }
    }
}

/// A message of any type for the actor `A`.
pub(crate) trait Parcel<A: Actor> {
    /// Hands the message to its handler.
    fn open(self: Box<Self>, actor: &mut A, ctx: &mut A::Context, desk: &Desk<A>);
}

/// A message on its way. It counts as admitted until the answer is there, not until handling begins.
pub(crate) struct Letter<M: Message> {
    pub(crate) message: M,
    /// `None` for a message whose sender wants no answer.
    pub(crate) reply: Option<oneshot::Sender<M::Result>>,
    /// When it was sent, if its wait is measured.
    pub(crate) sent: Option<Instant>,
}

impl<A, M> Parcel<A> for Letter<M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message,
{
    fn open(self: Box<Self>, actor: &mut A, ctx: &mut Context<A>, desk: &Desk<A>) {
        let Self {
            message,
            reply,
            sent,
        } = *self;
        let place = desk.admission.place();
        if let Some(sent) = sent {
            metrics::note_wait(desk.gate.path(), sent.elapsed());
        }
        if reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return;
        }
        let _shutter = Shutter(desk);
        step();
        let (answer, mut answered) = oneshot::channel();
        actor.handle(message, ctx).handle(ctx, Some(answer));
        step();
        match answered.try_recv() {
            Ok(result) => deliver(place, reply, result),
            Err(oneshot::error::TryRecvError::Closed) => {}
            Err(oneshot::error::TryRecvError::Empty) => {
                let control = Arc::clone(&desk.control);
                let forward = async move {
                    match answered.await {
                        Ok(result) => deliver(place, reply, result),
                        // A `ResponseFuture` is a task of its own; its panic drops the sender and tells nobody else.
                        Err(_) => control.exit(ExitReason::Panicked(format!(
                            "the future that handled {} ended without an answer",
                            std::any::type_name::<M>()
                        ))),
                    }
                };
                ctx.spawn(forward.into_actor(actor));
            }
        }
    }
}

/// Whoever has an answer finds the place of its message free.
fn deliver<R>(place: Place, reply: Option<oneshot::Sender<R>>, result: R) {
    drop(place);
    if let Some(reply) = reply {
        // The caller may have given up since.
        let _ = reply.send(result);
    }
}

/// Feeds parcels to the actor; lives in the actor's context as one of its futures.
pub(crate) struct Inbox<A: Actor> {
    pub(crate) parcels: mpsc::UnboundedReceiver<BoxedParcel<A>>,
    pub(crate) desk: Desk<A>,
}

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Inbox<A> {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        let this = self.get_mut();
        while !ctx.waiting() && !this.desk.control.is_closing() {
            step();
            match this.parcels.poll_recv(task) {
                Poll::Ready(Some(parcel)) => parcel.open(actor, ctx, &this.desk),
                // The gate is shut; the actor goes on until it is told to stop.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }
}

impl<A: Actor> Drop for Inbox<A> {
    /// What was not handled was admitted too.
    fn drop(&mut self) {
        self.parcels.close();
        while let Ok(parcel) = self.parcels.try_recv() {
            let _place = self.desk.admission.place();
            drop(parcel);
        }
    }
}
