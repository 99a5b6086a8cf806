//! What ends without its replica: by the clock, or because the node does.

use blyan_protocol::PublicError;

use super::account::Ending;
use super::errors;
use super::scheduler::Scheduler;
use super::sequence::Sequence;
use super::{Effect, Moment};

impl Scheduler {
    /// Ends what is over its deadline or was paused for too long, and names steps that take too long.
    pub fn expire(&mut self, now: Moment) -> Vec<Effect> {
        let late = self
            .sequences
            .iter()
            .filter_map(|(id, one)| Some((*id, self.lateness(one, now)?)));
        let late: Vec<_> = late.collect();
        let mut effects: Vec<_> = late
            .into_iter()
            .filter_map(|(id, error)| self.end(id, Ending::Failed(error), now))
            .collect();
        effects.extend(self.expire_steps(now));
        effects
    }

    /// The next time at which [`expire`](Self::expire) may have something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Moment> {
        let paused = self
            .sequences
            .values()
            .filter_map(|one| one.paused_until(self.limits.slow_reader));
        let deadlines = self.sequences.values().map(|one| one.deadline);
        let steps = self
            .replicas
            .values()
            .filter_map(|replica| replica.in_flight.as_ref());
        let steps = steps
            .filter(|step| !step.terminated)
            .map(|step| step.since.saturating_add(self.limits.step));
        deadlines.chain(paused).chain(steps).min()
    }

    /// Ends all sequences that wait for a replica.
    pub fn fail_waiting(&mut self, error: &PublicError, now: Moment) -> Vec<Effect> {
        let waiting = self
            .sequences
            .iter()
            .filter(|(_, sequence)| sequence.run.is_none());
        let ids: Vec<_> = waiting.map(|(id, _)| *id).collect();
        ids.into_iter()
            .filter_map(|id| self.end(id, Ending::Failed(error.clone()), now))
            .collect()
    }

    /// Admits nothing more and ends everything.
    pub fn shut_down(&mut self, error: &PublicError, now: Moment) -> Vec<Effect> {
        self.closed = true;
        let ids: Vec<_> = self.sequences.keys().copied().collect();
        ids.into_iter()
            .filter_map(|id| self.end(id, Ending::Failed(error.clone()), now))
            .collect()
    }

    fn lateness(&self, sequence: &Sequence, now: Moment) -> Option<PublicError> {
        if sequence.deadline <= now {
            return Some(errors::timed_out());
        }
        let unread = sequence.paused_until(self.limits.slow_reader);
        unread
            .is_some_and(|until| until <= now)
            .then(errors::slow_reader)
    }

    fn expire_steps(&mut self, now: Moment) -> Vec<Effect> {
        let limit = self.limits.step;
        let late = self.replicas.iter_mut().filter_map(|(id, replica)| {
            let step = replica.in_flight.as_mut()?;
            let late = !step.terminated && step.since.saturating_add(limit) <= now;
            step.terminated |= late;
            late.then_some(Effect::Terminate(*id))
        });
        late.collect()
    }
}
