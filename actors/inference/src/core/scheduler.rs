//! The state of all sequences and the rules by which it changes.

use std::collections::{BTreeMap, BTreeSet};

use blyan_protocol::FinishReason;
use blyan_supervisors::Generation;

use super::account::Ending;
use super::errors::poisoned;
use super::sequence::{Run, Sequence};
use super::{Effect, Fenced, Limits, Moment, NewSequence, Owner, Refusal, ReplicaId, SequenceId};

/// All sequences of the node. Each is waiting, with one replica, or ended and not yet settled.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) limits: Limits,
    next_id: u64,
    /// Waiting and running.
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    /// Ended; their receipts are not durable yet.
    unsettled: BTreeSet<SequenceId>,
    pub(super) replicas: BTreeMap<ReplicaId, Replica>,
    /// The newest generation of each replica that ever registered.
    newest: BTreeMap<ReplicaId, Generation>,
    pub(super) closed: bool,
}

/// A replica's current generation.
#[derive(Debug)]
pub(super) struct Replica {
    generation: Generation,
    pub(super) steps: u64,
    pub(super) in_flight: Option<InFlight>,
}

/// A step that was planned and not reported yet.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Sequences with the number of tokens they brought.
    pub(super) rows: Vec<(SequenceId, usize)>,
    pub(super) since: Moment,
    pub(super) terminated: bool,
}

impl Scheduler {
    /// Nothing admitted, no replica.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_id: 0,
            sequences: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            replicas: BTreeMap::new(),
            newest: BTreeMap::new(),
            closed: false,
        }
    }

    /// Admits a request; it waits until a replica pulls it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn submit(&mut self, new: NewSequence, now: Moment) -> Result<SequenceId, Refusal> {
        if self.closed {
            return Err(Refusal::ShuttingDown);
        }
        if self.admitted() >= self.limits.admitted_max {
            return Err(Refusal::Overloaded);
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, Sequence::new(new, now));
        Ok(id)
    }

    /// Makes `owner` the replica's current generation; what an older one had goes back to waiting.
    ///
    /// # Errors
    /// [`Fenced`] when a newer generation is there already, or this one was given up.
    pub fn register(&mut self, owner: Owner, now: Moment) -> Result<Vec<Effect>, Fenced> {
        let newest = self.newest.get(&owner.replica).copied().unwrap_or_default();
        if newest >= owner.generation {
            return Err(Fenced);
        }
        self.newest.insert(owner.replica, owner.generation);
        let effects = self.release(owner.replica, now);
        let replica = Replica {
            generation: owner.generation,
            steps: 0,
            in_flight: None,
        };
        self.replicas.insert(owner.replica, replica);
        Ok(effects)
    }

    /// `owner` is gone: its sequences go back to waiting. A step that was under way counts as failed for its rows.
    /// Does nothing when the generation is not the current one.
    pub fn replica_lost(&mut self, owner: Owner, now: Moment) -> Vec<Effect> {
        if self.current(owner).is_err() {
            return Vec::new();
        }
        let effects = self.release(owner.replica, now);
        self.replicas.remove(&owner.replica);
        effects
    }

    /// Gives `owner` the longest-waiting sequences, at most `free`, and leaves one for each other replica that has
    /// nothing to do. With each, the tokens that its memory must hold.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn pull(&mut self, owner: Owner, free: usize) -> Result<Vec<(SequenceId, usize)>, Fenced> {
        self.current(owner)?;
        let share = self.share(owner.replica).min(free);
        let run = Run {
            owner,
            computed: 0,
            last_step: 0,
            paused_since: None,
        };
        let waiting = self
            .sequences
            .iter_mut()
            .filter(|(_, sequence)| sequence.run.is_none());
        let pulled = waiting.take(share).map(|(id, sequence)| {
            sequence.run = Some(run);
            (*id, sequence.context())
        });
        Ok(pulled.collect())
    }

    /// Puts a sequence that was just pulled back in its place in the queue.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn give_back(&mut self, owner: Owner, id: SequenceId) -> Result<(), Fenced> {
        self.current(owner)?;
        if let Some(sequence) = self.of(owner, id) {
            sequence.run = None;
        }
        Ok(())
    }

    /// The sequences that `owner` has; the memory of all others can go.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn owned(&self, owner: Owner) -> Result<BTreeSet<SequenceId>, Fenced> {
        self.current(owner)?;
        let owned = self
            .sequences
            .iter()
            .filter(|(_, sequence)| sequence.is_with(owner));
        Ok(owned.map(|(id, _)| *id).collect())
    }

    /// The client wants no more. Does nothing for a sequence that has ended.
    pub fn cancel(&mut self, id: SequenceId, now: Moment) -> Option<Effect> {
        self.end(id, Ending::Finished(FinishReason::Cancelled), now)
    }

    /// The sequence's reader has room again.
    pub fn reader_back(&mut self, id: SequenceId) {
        if let Some(run) = self
            .sequences
            .get_mut(&id)
            .and_then(|sequence| sequence.run.as_mut())
        {
            run.paused_since = None;
        }
    }

    /// The sequence's receipt is durable: it makes room for another.
    pub fn settle(&mut self, id: SequenceId) {
        self.unsettled.remove(&id);
    }

    /// Requests in the house: waiting, running, not yet settled.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.sequences.len() + self.unsettled.len()
    }

    /// Requests that wait for a replica.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sequences
            .values()
            .filter(|sequence| sequence.run.is_none())
            .count()
    }

    /// Whether a replica is there that could take sequences.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        !self.replicas.is_empty()
    }

    pub(super) fn current(&self, owner: Owner) -> Result<&Replica, Fenced> {
        let replica = self.replicas.get(&owner.replica).ok_or(Fenced)?;
        if replica.generation == owner.generation {
            Ok(replica)
        } else {
            Err(Fenced)
        }
    }

    pub(super) fn of(&mut self, owner: Owner, id: SequenceId) -> Option<&mut Sequence> {
        self.sequences
            .get_mut(&id)
            .filter(|sequence| sequence.is_with(owner))
    }

    fn is_idle(&self, replica: ReplicaId) -> bool {
        let with =
            |sequence: &Sequence| sequence.run.is_some_and(|run| run.owner.replica == replica);
        !self.sequences.values().any(with)
    }

    /// How many waiting sequences a replica may take.
    fn share(&self, replica: ReplicaId) -> usize {
        let idle_others = self
            .replicas
            .keys()
            .filter(|other| **other != replica && self.is_idle(**other));
        let left = self.waiting().saturating_sub(idle_others.count());
        left.max(usize::from(self.is_idle(replica)))
    }

    /// Sends everything of a replica back to waiting; rows of a step under way count a failure.
    fn release(&mut self, replica: ReplicaId, now: Moment) -> Vec<Effect> {
        let in_flight = self
            .replicas
            .get_mut(&replica)
            .and_then(|known| known.in_flight.take());
        let effects = in_flight.map_or_else(Vec::new, |step| self.count_failures(&step.rows, now));
        for sequence in self.sequences.values_mut() {
            if sequence.run.is_some_and(|run| run.owner.replica == replica) {
                sequence.run = None;
            }
        }
        effects
    }

    pub(super) fn count_failures(
        &mut self,
        rows: &[(SequenceId, usize)],
        now: Moment,
    ) -> Vec<Effect> {
        rows.iter()
            .filter_map(|(id, _)| self.count_failure(*id, now))
            .collect()
    }

    fn count_failure(&mut self, id: SequenceId, now: Moment) -> Option<Effect> {
        let too_many = self.sequences.get_mut(&id)?.count_failure();
        too_many.then(|| self.end(id, Ending::Failed(poisoned()), now))?
    }

    pub(super) fn end(&mut self, id: SequenceId, ending: Ending, now: Moment) -> Option<Effect> {
        let sequence = self.sequences.remove(&id)?;
        self.unsettled.insert(id);
        Some(Effect::Ended(id, Box::new(sequence.close(ending, now))))
    }
}
