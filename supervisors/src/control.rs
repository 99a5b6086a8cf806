//! One generation's line between the supervisor's thread and the thread that the actor lives on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use crate::{
    ExitReason,
    sync::{Mutex, step},
};

/// What the actor's wrapper has been told to do with it. It stands ahead of all queued messages.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// Run `stopping` and `stopped`, then drop the actor.
    Stop,
    /// Drop the actor for this reason.
    Exit(ExitReason),
}

/// Shared by the wrapper, the supervisor and the actor's [`ExitHandle`].
pub(crate) struct Control {
    token: CancellationToken,
    order: Mutex<Option<Order>>,
    /// True before there is an order and before the token is cancelled: what each message asks, without a lock.
    closing: AtomicBool,
    waker: AtomicWaker,
    born: Instant,
    tasks: AtomicUsize,
    /// Nanoseconds from `born` to the start of the current poll; 0 between polls.
    poll_began: AtomicU64,
}

impl Control {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            token: CancellationToken::new(),
            order: Mutex::new(None),
            closing: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            born: Instant::now(),
            tasks: AtomicUsize::new(0),
            poll_began: AtomicU64::new(0),
        })
    }

    /// Cancelled when the generation is over, whatever the reason.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Asks the actor to stop; an exit that it asked for itself comes first.
    pub(crate) fn stop(&self) {
        self.close();
        self.order.lock().get_or_insert(Order::Stop);
        step();
        self.waker.wake();
    }

    /// Drops the actor for `reason`; the first reason given counts.
    pub(crate) fn exit(&self, reason: ExitReason) {
        self.close();
        let mut order = self.order.lock();
        if !matches!(*order, Some(Order::Exit(_))) {
            *order = Some(Order::Exit(reason));
        }
        drop(order);
        step();
        self.waker.wake();
    }

    /// Drops the actor as soon as its thread is free, and releases all who wait for it now.
    pub(crate) fn kill(&self) {
        self.close();
        self.token.cancel();
        step();
        self.waker.wake();
    }

    /// Comes before what it announces: the waker is called after that, so whoever sees this alone is polled again.
    fn close(&self) {
        step();
        self.closing.store(true, Ordering::Release);
        step();
    }

    pub(crate) fn order(&self) -> Option<Order> {
        self.order.lock().clone()
    }

    /// True once no further message may be handled.
    pub(crate) fn is_closing(&self) -> bool {
        step();
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn listen(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Counts a task tied to the generation until the guard is dropped.
    pub(crate) fn enter_task(self: &Arc<Self>) -> TaskGuard {
        self.tasks.fetch_add(1, Ordering::AcqRel);
        TaskGuard(Arc::clone(self))
    }

    pub(crate) fn has_tasks(&self) -> bool {
        self.tasks.load(Ordering::Acquire) > 0
    }

    /// Marks a poll as running until the guard is dropped.
    pub(crate) fn begin_poll(&self) -> Polling<'_> {
        let now = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let outer = self.poll_began.load(Ordering::Relaxed);
        // A poll inside a poll keeps the age of the outer one.
        let began = if outer == 0 { now.max(1) } else { outer };
        self.poll_began.store(began, Ordering::Release);
        Polling {
            control: self,
            outer,
        }
    }

    /// How long the current poll has been running; `None` between polls.
    pub(crate) fn poll_age(&self) -> Option<Duration> {
        match self.poll_began.load(Ordering::Acquire) {
            0 => None,
            began => Some(
                self.born
                    .elapsed()
                    .saturating_sub(Duration::from_nanos(began)),
            ),
        }
    }
}

/// Ends the mark of [`Control::begin_poll`].
pub(crate) struct Polling<'a> {
    control: &'a Control,
    outer: u64,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.control.poll_began.store(self.outer, Ordering::Release);
    }
}

/// Ends the count of [`Control::enter_task`] and lets the wrapper see whether it was the last.
pub(crate) struct TaskGuard(Arc<Control>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::AcqRel);
        self.0.waker.wake();
    }
}

/// Lets the actor and whatever works for it end this generation. Works from any thread.
#[derive(Clone)]
pub struct ExitHandle {
    pub(crate) control: Arc<Control>,
}

impl ExitHandle {
    /// Ends the generation: no further message is handled, `stopping` and `stopped` do not run, the actor is dropped
    /// and the supervisor decides what follows from `reason`. The first reason given counts; after the generation
    /// has ended this does nothing.
    pub fn exit(&self, reason: ExitReason) {
        self.control.exit(reason);
    }
}

impl std::fmt::Debug for ExitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExitHandle")
    }
}
