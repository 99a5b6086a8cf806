use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, Message, ResponseActFuture, WrapFuture};
use blyan_formats::PayloadHash;
use blyan_supervisors::{ChildSpec, Probe, StartContext};

use crate::loader::Loader;
use crate::table::{Hold, LoadJob, Resident, Table};
use crate::{CacheError, ExpertCacheConfig};

/// The point of the fault probe, hit at the start of every message.
const PROBE_POINT: &str = "expert_cache";

/// How often a load that found everything leased looks again.
const ROOM_LOOK: Duration = Duration::from_millis(2);

/// Loads experts, one at a time on its own thread, and gives up nothing but loads when it dies: what is resident
/// stays in the table.
pub struct ExpertCacheActor {
    table: Arc<Table>,
    loader: Arc<Loader>,
    probe: Arc<dyn Probe>,
}

impl ExpertCacheActor {
    /// A generation; those who waited for loads of the one before are woken.
    fn new(start: &StartContext, table: Arc<Table>, loader: Arc<Loader>) -> Self {
        table.begin_generation();
        Self {
            table,
            loader,
            probe: Arc::clone(start.probe()),
        }
    }

    /// The child that makes generations of the actor.
    pub(crate) fn spec(
        id: &str,
        config: &ExpertCacheConfig,
        table: &Arc<Table>,
        loader: &Arc<Loader>,
    ) -> ChildSpec<Self> {
        let (table, loader) = (Arc::clone(table), Arc::clone(loader));
        ChildSpec::new(id, move |start| {
            Ok(Self::new(&start, Arc::clone(&table), Arc::clone(&loader)))
        })
        .mailbox_len_max(config.mailbox_len_max)
        .stuck_limit(config.stuck_limit())
    }

    fn hit_probe(&self) {
        self.probe.hit(PROBE_POINT);
    }
}

impl Actor for ExpertCacheActor {
    type Context = Context<Self>;
}

/// Loads what a ticket asks for; the outcome goes to all who hold the ticket.
pub(crate) struct LoadExpert(pub(crate) LoadJob);

impl Message for LoadExpert {
    type Result = ();
}

impl Handler<LoadExpert> for ExpertCacheActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, LoadExpert(job): LoadExpert, _: &mut Self::Context) -> Self::Result {
        self.hit_probe();
        let (table, loader) = (Arc::clone(&self.table), Arc::clone(&self.loader));
        let load = async move {
            if job.is_over() {
                return;
            }
            let loaded = load(&table, &loader, &job).await;
            job.end(loaded.map(Arc::new));
        };
        Box::pin(load.into_actor(self))
    }
}

async fn load(table: &Table, loader: &Loader, job: &LoadJob) -> Result<Resident, CacheError> {
    let key = job.ticket().key;
    let verified = loader.open(key.payload).await?;
    let hold = room_for(table, verified.mapped_len(key.form), job).await?;
    let weights = loader.map(verified, key.form).await?;
    Ok(Resident::new(weights, hold))
}

/// Holds `bytes` in the table; while everything is leased, for as long as somebody waits.
async fn room_for(table: &Table, bytes: u64, job: &LoadJob) -> Result<Hold, CacheError> {
    loop {
        match table.hold(bytes) {
            Err(CacheError::Full) if job.ticket().is_wanted(Instant::now()) => {
                tokio::time::sleep(ROOM_LOOK).await;
            }
            settled => return settled,
        }
    }
}

/// Unmaps every form of a payload that is not leased; answers how many were.
pub(crate) struct Evict(pub(crate) PayloadHash);

impl Message for Evict {
    type Result = usize;
}

impl Handler<Evict> for ExpertCacheActor {
    type Result = usize;

    fn handle(&mut self, Evict(payload): Evict, _: &mut Self::Context) -> usize {
        self.hit_probe();
        self.table.evict_payload(payload)
    }
}

/// Checks every byte of a payload and keeps or forgets its fault accordingly.
pub(crate) struct VerifyAgain(pub(crate) PayloadHash);

impl Message for VerifyAgain {
    type Result = Result<(), CacheError>;
}

impl Handler<VerifyAgain> for ExpertCacheActor {
    type Result = ResponseActFuture<Self, Result<(), CacheError>>;

    fn handle(&mut self, VerifyAgain(payload): VerifyAgain, _: &mut Self::Context) -> Self::Result {
        self.hit_probe();
        let (table, loader) = (Arc::clone(&self.table), Arc::clone(&self.loader));
        Box::pin(async move { verify_again(&table, &loader, payload).await }.into_actor(self))
    }
}

async fn verify_again(
    table: &Table,
    loader: &Loader,
    payload: PayloadHash,
) -> Result<(), CacheError> {
    match loader.open(payload).await {
        Ok(_) => table.mark_healthy(payload),
        Err(error) => {
            table.mark_if_corrupt(&error);
            Err(error)
        }
    }
}

/// Answers.
pub(crate) struct Ping;

impl Message for Ping {
    type Result = ();
}

impl Handler<Ping> for ExpertCacheActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Self::Context) {
        self.hit_probe();
    }
}
