use std::sync::Arc;
use std::time::Instant;

use blyan_formats::TensorName;
use blyan_protocol::LeaseError;
use parking_lot::{Condvar, Mutex};

use super::resident::{Key, Resident};

/// How a load ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It is there; the ticket keeps it from being evicted until the waiters have it.
    Loaded(Arc<Resident>),
    /// It cannot be loaded.
    Refused(LeaseError),
    /// The actor went away with the load in hand: another try may succeed.
    Abandoned,
}

/// One load and all who wait for it.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) name: TensorName,
    pub(crate) key: Key,
    pub(super) began: Instant,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    outcome: Option<Outcome>,
    /// The deadline of the most patient waiter.
    wanted_until: Instant,
}

impl Ticket {
    pub(super) fn new(name: TensorName, key: Key, deadline: Instant) -> Self {
        let state = State {
            outcome: None,
            wanted_until: deadline,
        };
        Self {
            name,
            key,
            began: Instant::now(),
            state: Mutex::new(state),
            ended: Condvar::new(),
        }
    }

    /// Joins the waiters.
    pub(super) fn want_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        state.wanted_until = state.wanted_until.max(deadline);
    }

    /// Whether somebody still waits at `now`.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        now < self.state.lock().wanted_until
    }

    /// Blocks until the load ends; `None` at `deadline`.
    pub(super) fn wait(&self, deadline: Instant) -> Option<Outcome> {
        let mut state = self.state.lock();
        while state.outcome.is_none() {
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.outcome.clone()
    }

    /// The outcome, if there is one yet.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state.lock().outcome.clone()
    }

    /// Wakes everybody; the first outcome counts.
    pub(super) fn end(&self, outcome: Outcome) {
        self.state.lock().outcome.get_or_insert(outcome);
        self.ended.notify_all();
    }
}
