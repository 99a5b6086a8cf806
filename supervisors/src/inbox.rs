//! The mailbox: parcels that carry a message, its answer's way back and its place in the admission bound.
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
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{ExitReason, control::Control, sync::step};

pub(crate) type BoxedParcel<A> = Box<dyn Parcel<A> + Send>;

/// A message of any type for the actor `A`.
pub(crate) trait Parcel<A: Actor> {
    /// Hands the message to its handler.
    fn open(self: Box<Self>, actor: &mut A, ctx: &mut A::Context, control: &Arc<Control>);
}

/// A message on its way. The permit is given back when the answer is there, not when handling begins.
pub(crate) struct Letter<M: Message> {
    pub(crate) message: M,
    /// `None` for a message whose sender wants no answer.
    pub(crate) reply: Option<oneshot::Sender<M::Result>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl<A, M> Parcel<A> for Letter<M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message,
{
    fn open(self: Box<Self>, actor: &mut A, ctx: &mut Context<A>, control: &Arc<Control>) {
        let Self {
            message,
            reply,
            permit,
        } = *self;
        if reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return;
        }
        step();
        let (answer, mut answered) = oneshot::channel();
        actor.handle(message, ctx).handle(ctx, Some(answer));
        step();
        match answered.try_recv() {
            Ok(result) => deliver(reply, result),
            Err(oneshot::error::TryRecvError::Closed) => {}
            Err(oneshot::error::TryRecvError::Empty) => {
                let control = Arc::clone(control);
                let forward = async move {
                    match answered.await {
                        Ok(result) => deliver(reply, result),
                        // A `ResponseFuture` is a task of its own; its panic drops the sender and tells nobody else.
                        Err(_) => control.exit(ExitReason::Panicked(format!(
                            "the future that handled {} ended without an answer",
                            std::any::type_name::<M>()
                        ))),
                    }
                    drop(permit);
                };
                ctx.spawn(forward.into_actor(actor));
            }
        }
    }
}

fn deliver<R>(reply: Option<oneshot::Sender<R>>, result: R) {
    if let Some(reply) = reply {
        // The caller may have given up since.
        let _ = reply.send(result);
    }
}

/// Feeds parcels to the actor; lives in the actor's context as one of its futures.
pub(crate) struct Inbox<A: Actor> {
    pub(crate) parcels: mpsc::UnboundedReceiver<BoxedParcel<A>>,
    pub(crate) control: Arc<Control>,
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
        while !ctx.waiting() && !this.control.is_closing() {
            step();
            match this.parcels.poll_recv(task) {
                Poll::Ready(Some(parcel)) => parcel.open(actor, ctx, &this.control),
                // The gate is shut; the actor goes on until it is told to stop.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }
}
