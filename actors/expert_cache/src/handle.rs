use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_formats::{PayloadHash, TensorName};
use blyan_protocol::{LeaseError, PayloadSource, WeightForm};
use blyan_supervisors::{ChildRef, ChildSpec};
use tokio::runtime::Handle;

use crate::actor::{Evict, LoadExpert, Ping, VerifyAgain};
use crate::loader::{Loader, SharedWeights, Weights};
use crate::table::{Key, Outcome, Request, Table};
use crate::{CacheError, CacheStatus, ExpertCacheActor, ExpertCacheConfig, SharedTable};

/// What other crates hold of the cache; survives the actor's restarts.
#[derive(Clone)]
pub struct ExpertCacheHandle {
    actor: ChildRef<ExpertCacheActor>,
    table: Arc<Table>,
    loader: Arc<Loader>,
    config: ExpertCacheConfig,
}

impl ExpertCacheHandle {
    /// An empty cache over `source`. The metrics recorder, if there is one, must be in place already.
    ///
    /// # Errors
    /// [`CacheError::Config`].
    pub fn new(
        config: ExpertCacheConfig,
        source: Arc<dyn PayloadSource>,
    ) -> Result<Self, CacheError> {
        config.validate()?;
        crate::metrics::describe_metrics();
        let actor = ChildRef::unbound();
        let table = Arc::new(Table::new(&config, actor.clone()));
        let loader = Arc::new(Loader::new(source, config.source_timeout()));
        Ok(Self {
            actor,
            table,
            loader,
            config,
        })
    }

    /// The child to put into the tree, once: it runs on a thread of its own.
    pub fn child_spec(&self, id: &str) -> ChildSpec<ExpertCacheActor> {
        ExpertCacheActor::spec(id, &self.config, &self.table, &self.loader).bind(&self.actor)
    }

    /// The actor's own handle, for its state and mailbox.
    pub fn child(&self) -> &ChildRef<ExpertCacheActor> {
        &self.actor
    }

    /// The table that leases come from.
    pub fn table(&self) -> SharedTable {
        SharedTable(Arc::clone(&self.table))
    }

    /// The cache as it is now; also while the actor is down.
    pub fn status(&self) -> CacheStatus {
        self.table().status()
    }

    /// Loads an expert that nobody waits for yet; idempotent. False if it was there or on its way.
    ///
    /// # Errors
    /// As a lease; a load that finds everything leased gives up after `prefetch_wait_ms`.
    pub async fn load(
        &self,
        name: TensorName,
        payload: PayloadHash,
        form: WeightForm,
        within: Duration,
    ) -> Result<bool, LeaseError> {
        if let Some(record) = self.table.known_corruption(&payload) {
            return Err(record.lease_error());
        }
        let wanted_until = Instant::now() + self.config.prefetch_wait();
        let Request::New(job, ticket) =
            self.table
                .request(name, Key::new(payload, form), wanted_until)
        else {
            return Ok(false);
        };
        let call = self.actor.call(LoadExpert(job), within).await;
        call.map_err(|error| CacheError::from(error).into_lease_error(name))?;
        match ticket.outcome() {
            Some(Outcome::Loaded(_)) => Ok(true),
            Some(Outcome::Refused(error)) => Err(error),
            Some(Outcome::Abandoned) | None => Err(CacheError::Stopped.into_lease_error(name)),
        }
    }

    /// Unmaps every form of a payload that is not leased; idempotent. Answers how many were.
    ///
    /// # Errors
    /// [`CacheError::Call`].
    pub async fn evict(&self, payload: PayloadHash, within: Duration) -> Result<usize, CacheError> {
        Ok(self.actor.call(Evict(payload), within).await?)
    }

    /// Checks every byte of a payload: one that was corrupt and is whole again is leased again, one that fails is
    /// kept as corrupt. Idempotent.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] with the fault; [`CacheError::InUse`] if only a restart can help; what kept it from
    /// being read; [`CacheError::Call`].
    pub async fn readmit(&self, payload: PayloadHash, within: Duration) -> Result<(), CacheError> {
        self.actor.call(VerifyAgain(payload), within).await?
    }

    /// Whether the actor takes and answers messages.
    ///
    /// # Errors
    /// [`CacheError::Call`].
    pub async fn ping(&self, within: Duration) -> Result<(), CacheError> {
        Ok(self.actor.call(Ping, within).await?)
    }

    /// Verifies and maps weights in `form` for as long as the result lives, outside of the bound, one after the other on
    /// a thread for blocking work; needs no actor.
    ///
    /// # Errors
    /// The first fault. A corrupt payload is kept as such in the table.
    pub async fn load_shared(
        &self,
        weights: &[(TensorName, PayloadHash)],
        form: WeightForm,
    ) -> Result<Arc<SharedWeights>, CacheError> {
        let mut loaded = BTreeMap::new();
        for (name, payload) in weights {
            let mapped = self.load_one_shared(*payload, form).await;
            let mapped = mapped.inspect_err(|error| self.table.mark_if_corrupt(error))?;
            loaded.insert(*name, (*payload, mapped));
        }
        let shared = Arc::new(SharedWeights::new(loaded));
        self.table.watch_shared(&shared);
        Ok(shared)
    }

    async fn load_one_shared(
        &self,
        payload: PayloadHash,
        form: WeightForm,
    ) -> Result<Weights, CacheError> {
        let (loader, runtime) = (Arc::clone(&self.loader), Handle::current());
        let load = move || {
            runtime.block_on(async {
                let verified = loader.open(payload).await?;
                loader.map(verified, form).await
            })
        };
        tokio::task::spawn_blocking(load)
            .await
            .map_err(|_| CacheError::Stopped)?
    }
}
