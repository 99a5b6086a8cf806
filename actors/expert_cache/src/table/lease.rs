//! Leases: from the caller's thread to a resident, through a load where there is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_formats::TensorName;
use blyan_protocol::{LeaseError, LeasedExpert};
use blyan_supervisors::{CallError, ChildState};

use super::{Key, LoadJob, Outcome, Resident, Table, Ticket};
use crate::actor::LoadExpert;

/// How often one lease hands the same load to the actor again when the actor goes away with it.
const TRIES_MAX: u32 = 3;

/// How often a waiting lease looks whether the actor takes messages again or will not.
const RESTART_LOOK: Duration = Duration::from_millis(5);

/// What is there for one who wants an expert.
pub(crate) enum Request {
    /// The expert.
    Resident(Arc<Resident>),
    /// Somebody else's load.
    Joined(Arc<Ticket>),
    /// Nothing: the job must go to the actor.
    New(LoadJob, Arc<Ticket>),
}

impl Table {
    /// The resident of `key`, marked as just used; with whether the caller waited for it.
    pub(super) fn lease(
        self: &Arc<Self>,
        name: TensorName,
        key: Key,
        deadline: Instant,
    ) -> Result<(Arc<Resident>, bool), LeaseError> {
        if let Some(resident) = self.hit(name, &key) {
            self.counters.hits.add_one();
            return Ok((resident, false));
        }
        self.counters.misses.add_one();
        match self.known_corruption(&key.payload) {
            Some(record) => Err(record.lease_error()),
            None => self.load(name, key, deadline),
        }
    }

    fn hit(&self, name: TensorName, key: &Key) -> Option<Arc<Resident>> {
        let resident = self.resident(key)?;
        if resident.intact() {
            return Some(resident);
        }
        self.discard_damaged(
            name,
            key,
            &resident,
            "a page could not be read from its file",
        );
        None
    }

    fn resident(&self, key: &Key) -> Option<Arc<Resident>> {
        let resident = self.residents.get(key)?;
        resident.touch(self.next_tick());
        Some(Arc::clone(&resident))
    }

    /// Joins the load of `key`, or begins one.
    pub(crate) fn request(
        self: &Arc<Self>,
        name: TensorName,
        key: Key,
        deadline: Instant,
    ) -> Request {
        let mut loads = self.loads.lock();
        // Looked up again under the lock under which loads become residents.
        if let Some(resident) = self.resident(&key) {
            return Request::Resident(resident);
        }
        if let Some(ticket) = loads.get(&key) {
            ticket.want_until(deadline);
            return Request::Joined(Arc::clone(ticket));
        }
        let ticket = Arc::new(Ticket::new(name, key, deadline));
        loads.insert(key, Arc::clone(&ticket));
        Request::New(LoadJob::new(Arc::clone(self), Arc::clone(&ticket)), ticket)
    }

    fn load(
        self: &Arc<Self>,
        name: TensorName,
        key: Key,
        deadline: Instant,
    ) -> Result<(Arc<Resident>, bool), LeaseError> {
        let mut tries = 0;
        let mut patience = None;
        loop {
            let ticket = match self.request(name, key, deadline) {
                Request::Resident(resident) => return Ok((resident, false)),
                Request::Joined(ticket) => ticket,
                Request::New(job, ticket) => match self.actor.try_tell(LoadExpert(job)) {
                    Ok(()) => {
                        (tries, patience) = (tries + 1, None);
                        ticket
                    }
                    Err(refusal) => {
                        self.await_restart(name, refusal, deadline, &mut patience)?;
                        continue;
                    }
                },
            };
            match ticket.wait(deadline) {
                Some(Outcome::Loaded(resident)) => return Ok((resident, true)),
                Some(Outcome::Refused(error)) => return Err(error),
                Some(Outcome::Abandoned) if tries >= TRIES_MAX => return Err(given_up(name)),
                Some(Outcome::Abandoned) => {}
                None => return Err(LeaseError::Timeout { name }),
            }
        }
    }

    /// Waits a moment for an actor that is on its way up; `patience` ends `restart_wait` after the first refusal.
    fn await_restart(
        &self,
        name: TensorName,
        refusal: CallError,
        deadline: Instant,
        patience: &mut Option<Instant>,
    ) -> Result<(), LeaseError> {
        let now = Instant::now();
        let until = *patience.get_or_insert(deadline.min(now + self.restart_wait));
        if !passes(&refusal) || now >= until {
            return Err(LeaseError::Unavailable {
                name,
                why: refusal.to_string(),
            });
        }
        let mut loads = self.loads.lock();
        self.begun
            .wait_until(&mut loads, until.min(now + RESTART_LOOK));
        Ok(())
    }
}

/// Whether the actor may take messages again without anybody's help.
fn passes(refusal: &CallError) -> bool {
    match refusal {
        CallError::Down { state, .. } => *state != ChildState::Stopped,
        CallError::Full { .. } => true,
        CallError::Quarantined { .. } | CallError::Lost | CallError::Timeout => false,
    }
}

fn given_up(name: TensorName) -> LeaseError {
    LeaseError::Unavailable {
        name,
        why: format!("the loader failed on it {TRIES_MAX} times in a row"),
    }
}
