//! The replica: pulls sequences, computes steps, publishes what came of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use blyan_formats::TensorName;
use blyan_protocol::{ErrorCode, LeaseError, PublicError};
use blyan_supervisors::{ChildSpec, ExitHandle, ExitReason, Generation, Probe, StartContext};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::{Drawn, Fenced, Owner, PlannedRow, ReplicaId, RowDone, SequenceId};
use crate::kv::KvSlot;
use crate::serving::Serving;
use crate::step::{Logits, StepEngine, StepError, StepOutput, StepRow};
use crate::table::Plan;
use crate::{metrics, sampler};

/// How long a replica without memory for a sequence waits before it tries again.
const MEMORY_PAUSE: Duration = Duration::from_millis(100);

/// One replica's current life. It owns the key/value memory of its sequences and nothing else: the sequences are in
/// the table, so that a death loses no more than the step under way.
pub struct InferenceActor {
    serving: Arc<Serving>,
    owner: Owner,
    name: String,
    probe: Arc<dyn Probe>,
    exit: ExitHandle,
    wake: Arc<Notify>,
    slots: BTreeMap<SequenceId, KvSlot>,
}

/// Asks the replica to look for work. Sent to find out whether it takes messages; sequences wake it without.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Asks the replica whether it is well.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "ReplicaReport")]
pub struct Ping;

/// A replica's answer to [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Which replica.
    pub replica: ReplicaId,
    /// Which start of it.
    pub generation: Generation,
    /// Sequences that it holds memory for.
    pub sequences: usize,
}

/// What follows a turn.
enum Next {
    /// Another turn, after whatever else the thread has to do.
    Again,
    /// Another turn when there may be something to do.
    WhenWoken,
    /// Another turn soon: there is work, but no memory for it.
    AfterPause,
}

impl InferenceActor {
    /// The replica as a supervised child.
    pub fn spec(serving: &Arc<Serving>, replica: ReplicaId) -> ChildSpec<Self> {
        let serving = Arc::clone(serving);
        ChildSpec::new(replica.to_string(), move |start| {
            Self::new(&serving, replica, &start)
        })
    }

    fn new(
        serving: &Arc<Serving>,
        replica: ReplicaId,
        start: &StartContext,
    ) -> Result<Self, ExitReason> {
        let owner = Owner {
            replica,
            generation: start.generation(),
        };
        let table = Arc::clone(&serving.table);
        let wake = table
            .register(owner)
            .map_err(|fenced| ExitReason::Fatal(fenced.to_string()))?;
        let over = start.token();
        serving.table.runtime().spawn(async move {
            over.cancelled().await;
            table.replica_lost(owner);
        });
        Ok(Self {
            serving: Arc::clone(serving),
            owner,
            name: replica.to_string(),
            probe: Arc::clone(start.probe()),
            exit: start.exit_handle(),
            wake,
            slots: BTreeMap::new(),
        })
    }

    /// One turn, and the next one scheduled so that messages and orders get in between.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        match self.work() {
            Ok(next) => self.schedule(next, ctx),
            // Another generation has the sequences: this one is a zombie, or something is very wrong.
            Err(fenced) => self.exit.exit(ExitReason::Fatal(fenced.to_string())),
        }
    }

    fn schedule(&self, next: Next, ctx: &mut Context<Self>) {
        let wake = Arc::clone(&self.wake);
        let wait = async move {
            match next {
                Next::Again => tokio::task::yield_now().await,
                Next::WhenWoken => wake.notified().await,
                Next::AfterPause => tokio::time::sleep(MEMORY_PAUSE).await,
            }
        };
        ctx.spawn(wait.into_actor(self).map(|(), actor, ctx| actor.turn(ctx)));
    }

    fn work(&mut self) -> Result<Next, Fenced> {
        let table = &self.serving.table;
        let owned = table.owned(self.owner)?;
        self.slots.retain(|id, _| owned.contains(id));
        let short_of_memory = self.pull()?;
        if self.slots.is_empty() {
            return Ok(if short_of_memory {
                Next::AfterPause
            } else {
                Next::WhenWoken
            });
        }
        self.probe.hit(&self.name);
        let shape = |engine: &dyn StepEngine| self.serving.step_shape(engine);
        let Some(plan) = self.serving.table.plan(self.owner, shape)? else {
            return Ok(if short_of_memory {
                Next::AfterPause
            } else {
                Next::WhenWoken
            });
        };
        self.step(&plan)?;
        Ok(Next::Again)
    }

    /// Takes as many waiting sequences as there are free slots; true if there was no memory for one.
    fn pull(&mut self) -> Result<bool, Fenced> {
        let free = self
            .serving
            .config
            .slots_per_replica
            .saturating_sub(self.slots.len());
        let mut short = false;
        for (id, context, edition) in self.serving.table.pull(self.owner, free)? {
            match edition.engine.new_slot(context) {
                Ok(slot) => {
                    self.slots.insert(id, slot);
                }
                Err(why @ StepError::KvFull { .. }) => {
                    tracing::debug!(replica = %self.name, %why, "a sequence waits for memory");
                    self.serving.table.give_back(self.owner, id)?;
                    short = true;
                }
                Err(why) => {
                    tracing::error!(replica = %self.name, %why, "no memory for a sequence");
                    self.serving
                        .table
                        .fail_rows(self.owner, vec![(id, no_memory())])?;
                }
            }
        }
        Ok(short)
    }

    fn step(&mut self, plan: &Plan) -> Result<(), Fenced> {
        let epoch = plan.edition.health.epoch();
        let began = Instant::now();
        let outcome = self.compute(plan);
        let took = began.elapsed();
        match outcome {
            Ok(output) => {
                metrics::step_done(self.owner.replica, took);
                self.publish(&plan.rows, output, took)
            }
            Err(error) => {
                metrics::step_failed(self.owner.replica, reason(&error));
                tracing::warn!(replica = %self.name, rows = plan.rows.len(), %error, "a step failed");
                self.failed(plan, error, epoch)
            }
        }
    }

    fn compute(&mut self, plan: &Plan) -> Result<StepOutput, StepError> {
        let mut planned = plan.rows.iter();
        let mut rows = Vec::with_capacity(plan.rows.len());
        // Both are in the order of ids.
        for (id, kv) in &mut self.slots {
            if planned.as_slice().first().is_some_and(|row| row.id == *id)
                && let Some(row) = planned.next()
            {
                rows.push(step_row(row, kv)?);
            }
        }
        if !planned.as_slice().is_empty() {
            return Err(StepError::Invalid(
                "a planned sequence has no memory here".to_owned(),
            ));
        }
        plan.edition.engine.step(&mut rows, &plan.terminate)
    }

    fn publish(
        &self,
        rows: &[PlannedRow],
        output: StepOutput,
        took: Duration,
    ) -> Result<(), Fenced> {
        let StepOutput {
            logits,
            experts,
            loaded,
        } = output;
        let mut done = Vec::with_capacity(rows.len());
        for ((row, logits), experts) in rows.iter().zip(&logits).zip(experts) {
            self.serving.usage.count_tokens(&experts);
            done.push(RowDone {
                id: row.id,
                drawn: draw(row, logits),
                experts,
                loaded,
            });
        }
        self.serving.table.publish(self.owner, done, took)
    }

    /// `epoch` is that of the experts' health before the step.
    fn failed(&self, plan: &Plan, error: StepError, epoch: u64) -> Result<(), Fenced> {
        let table = &self.serving.table;
        match error {
            StepError::Expert(LeaseError::Corrupt { .. }) => self.corrupt(plan, epoch),
            StepError::Expert(LeaseError::TooLarge { name, .. }) => {
                table.lease_failed(self.owner, &unavailable(name), true)
            }
            StepError::Expert(
                LeaseError::Timeout { name } | LeaseError::Unavailable { name, .. },
            ) => table.lease_failed(self.owner, &unavailable(name), false),
            StepError::Terminated
            | StepError::Panicked(_)
            | StepError::Runtime(_)
            | StepError::KvFull { .. }
            | StepError::Invalid(_) => table.step_failed(self.owner),
        }
    }

    /// Ends the rows that need what is corrupt; the others are computed again without it. If the step has found
    /// nothing new, trying again would find it again: then it counts as failed.
    fn corrupt(&self, plan: &Plan, epoch: u64) -> Result<(), Fenced> {
        let health = &plan.edition.health;
        let blocked = |row: &PlannedRow| health.blocker(row.top_k).map(|error| (row.id, error));
        let failed: Vec<_> = plan.rows.iter().filter_map(blocked).collect();
        if failed.is_empty() && health.epoch() == epoch {
            return self.serving.table.step_failed(self.owner);
        }
        self.serving.table.fail_rows(self.owner, failed)
    }
}

fn step_row<'a>(row: &'a PlannedRow, kv: &'a mut KvSlot) -> Result<StepRow<'a>, StepError> {
    if kv.len() != row.start {
        return Err(StepError::Invalid(format!(
            "{} tokens in memory, not {}",
            kv.len(),
            row.start
        )));
    }
    let logits = if row.draw.is_some() {
        Logits::Last
    } else {
        Logits::None
    };
    Ok(StepRow {
        tokens: &row.tokens,
        kv,
        top_k: row.top_k,
        logits,
    })
}

fn draw(row: &PlannedRow, logits: &[f32]) -> Drawn {
    match &row.draw {
        None => Drawn::Nothing,
        Some((sampling, position)) => {
            sampler::sample(logits, sampling, *position).map_or(Drawn::Impossible, Drawn::Token)
        }
    }
}

fn unavailable(name: TensorName) -> PublicError {
    PublicError::new(
        ErrorCode::ExpertUnavailable,
        format!("The weights of expert {name} cannot be had at the moment."),
        "Try again, or ask for fewer experts with top_k_experts.",
    )
    .retry_after_ms(1000)
}

fn no_memory() -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        "The node could not set memory aside for the request.",
        "Try again with a shorter conversation or fewer tokens.",
    )
}

const fn reason(error: &StepError) -> &'static str {
    match error {
        StepError::Expert(LeaseError::Corrupt { .. }) => "expert_corrupt",
        StepError::Expert(_) => "expert_unavailable",
        StepError::Terminated => "terminated",
        StepError::Panicked(_) => "panicked",
        StepError::Runtime(_) => "runtime",
        StepError::KvFull { .. } => "kv_full",
        StepError::Invalid(_) => "invalid",
    }
}

impl Actor for InferenceActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule(Next::Again, ctx);
    }
}

impl Handler<Wake> for InferenceActor {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Self::Context) {
        self.probe.hit(&self.name);
        self.wake.notify_one();
    }
}

impl Handler<Ping> for InferenceActor {
    type Result = actix::MessageResult<Ping>;

    fn handle(&mut self, _: Ping, _: &mut Self::Context) -> Self::Result {
        self.probe.hit(&self.name);
        let Owner {
            replica,
            generation,
        } = self.owner;
        actix::MessageResult(ReplicaReport {
            replica,
            generation,
            sequences: self.slots.len(),
        })
    }
}
