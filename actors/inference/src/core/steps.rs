//! A step: planned, then published or failed.

use std::collections::BTreeMap;
use std::time::Duration;

use blyan_protocol::PublicError;

use super::account::Ending;
use super::errors;
use super::plan::{Candidate, pick};
use super::scheduler::{InFlight, Scheduler};
use super::{
    Drawn, Effect, Fenced, Moment, Owner, PlannedRow, ReplicaId, RowDone, SequenceId, StepShape,
    Turn,
};

impl Scheduler {
    /// The rows of `owner`'s next step, in the order of their ids; empty when there is nothing to do. `turn` says what
    /// the step may do with a sequence.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn plan(
        &mut self,
        owner: Owner,
        shape: StepShape,
        now: Moment,
        turn: impl Fn(SequenceId) -> Turn,
    ) -> Result<Vec<PlannedRow>, Fenced> {
        self.current(owner)?;
        let candidates = self.candidates(owner, shape.chunk_max, now, turn);
        let picked = pick(candidates, shape.rows_max);
        let step = self.next_step(owner.replica);
        let rows: Vec<_> = picked
            .into_iter()
            .filter_map(|id| self.plan_row(id, shape.chunk_max, step, now))
            .collect();
        self.set_in_flight(owner.replica, &rows, now);
        Ok(rows)
    }

    /// Takes the results of the planned step; rows that ended meanwhile are passed over.
    ///
    /// # Errors
    /// [`Fenced`]: nothing of the step counts.
    pub fn publish(
        &mut self,
        owner: Owner,
        done: Vec<RowDone>,
        took: Duration,
        now: Moment,
    ) -> Result<Vec<Effect>, Fenced> {
        let planned: BTreeMap<_, _> = self.take_in_flight(owner)?.into_iter().collect();
        let mut effects = Vec::new();
        for row in done {
            if let Some(tokens) = planned.get(&row.id) {
                self.publish_row(owner, row, *tokens, took, now, &mut effects);
            }
        }
        Ok(effects)
    }

    /// The planned step failed and nobody knows which row is to blame.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn step_failed(&mut self, owner: Owner, now: Moment) -> Result<Vec<Effect>, Fenced> {
        let rows = self.take_in_flight(owner)?;
        Ok(self.count_failures(&rows, now))
    }

    /// The planned step failed for want of an expert that cannot be had: now, or never if `hopeless`.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn lease_failed(
        &mut self,
        owner: Owner,
        error: &PublicError,
        hopeless: bool,
        now: Moment,
    ) -> Result<Vec<Effect>, Fenced> {
        let rows = self.take_in_flight(owner)?;
        let alone = rows.len() == 1;
        let mut effects = Vec::new();
        for (id, _) in rows {
            let over = self
                .of(owner, id)
                .is_some_and(|row| row.count_lease_fault(alone, hopeless));
            if over {
                effects.extend(self.end(id, Ending::Failed(error.clone()), now));
            }
        }
        Ok(effects)
    }

    /// Ends those of the planned step that cannot go on; the others were not to blame and are planned again.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn fail_rows(
        &mut self,
        owner: Owner,
        failed: Vec<(SequenceId, PublicError)>,
        now: Moment,
    ) -> Result<Vec<Effect>, Fenced> {
        self.take_in_flight(owner)?;
        let mut effects = Vec::new();
        for (id, error) in failed {
            if self.of(owner, id).is_some() {
                effects.extend(self.end(id, Ending::Failed(error), now));
            }
        }
        Ok(effects)
    }

    fn candidates(
        &mut self,
        owner: Owner,
        chunk_max: usize,
        now: Moment,
        turn: impl Fn(SequenceId) -> Turn,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (id, sequence) in &mut self.sequences {
            let (pending, alone) = (sequence.pending().len(), sequence.runs_alone());
            let Some(run) = sequence.run.as_mut().filter(|run| run.owner == owner) else {
                continue;
            };
            match turn(*id) {
                Turn::Later => continue,
                Turn::ReaderFull if pending <= chunk_max => {
                    run.paused_since.get_or_insert(now);
                    continue;
                }
                Turn::ReaderFull | Turn::Now => run.paused_since = None,
            }
            let last_step = run.last_step;
            candidates.push(Candidate {
                id: *id,
                last_step,
                prefill: pending > 1,
                alone,
            });
        }
        candidates
    }

    fn plan_row(
        &mut self,
        id: SequenceId,
        chunk_max: usize,
        step: u64,
        now: Moment,
    ) -> Option<PlannedRow> {
        let sequence = self.sequences.get_mut(&id)?;
        sequence.run.as_mut()?.last_step = step;
        sequence.account.step_began(now);
        Some(PlannedRow::new(id, sequence, chunk_max))
    }

    fn next_step(&mut self, replica: ReplicaId) -> u64 {
        self.replicas.get_mut(&replica).map_or(0, |known| {
            known.steps += 1;
            known.steps
        })
    }

    fn set_in_flight(&mut self, replica: ReplicaId, rows: &[PlannedRow], now: Moment) {
        let rows: Vec<_> = rows.iter().map(|row| (row.id, row.tokens.len())).collect();
        if let Some(known) = self.replicas.get_mut(&replica) {
            known.in_flight = (!rows.is_empty()).then_some(InFlight {
                rows,
                since: now,
                terminated: false,
            });
        }
    }

    fn take_in_flight(&mut self, owner: Owner) -> Result<Vec<(SequenceId, usize)>, Fenced> {
        self.current(owner)?;
        let step = self
            .replicas
            .get_mut(&owner.replica)
            .and_then(|known| known.in_flight.take());
        Ok(step.map_or_else(Vec::new, |step| step.rows))
    }

    fn publish_row(
        &mut self,
        owner: Owner,
        row: RowDone,
        tokens: usize,
        took: Duration,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sequence) = self.of(owner, row.id) else {
            return;
        };
        if let Some(run) = &mut sequence.run {
            run.computed += tokens;
        }
        sequence.account.step_done(row.experts, row.loaded, took);
        match row.drawn {
            Drawn::Nothing => {}
            Drawn::Impossible => {
                effects.extend(self.end(row.id, Ending::Failed(errors::no_logits()), now));
            }
            Drawn::Token(token) => {
                let advanced = sequence.advance(token, now);
                effects.push(Effect::Token(row.id, advanced.event));
                let finished = advanced.finished.map(Ending::Finished);
                effects.extend(finished.and_then(|ending| self.end(row.id, ending, now)));
            }
        }
    }
}
