//! The way of a running node back to a snapshot: chosen, verified and recorded while it serves, carried out between two
//! trees, concluded when the second one is well. Its file says how far it is, so that whoever starts next goes on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use blyan_chain::snapshot::{self, KEPT, Snapshot};
use blyan_chain::{ChainError, DataDir, VerifyOptions};
use blyan_formats::BlockHash;
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};
use blyan_security::SecurityHandle;
use blyan_security::audit::{Action, RecordOutcome};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::home::now_ms;
use super::port::Port;
use super::security::note;
use crate::config::Config;
use crate::edge::replies::HealthStatus;
use crate::edge::{NodePort as _, RollbackPort, RollbackReply, RollbackRequest, RollbackState};

/// The last rollback's file within the data directory.
const FILE: &str = "rollback.json";
/// When to come back where another one is under way.
const BUSY_RETRY_MS: u64 = 5000;
/// How long the node may take to be well afterwards (CHAIN-37 gives the whole of it ten minutes).
const WELL: Duration = Duration::from_secs(300);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(50);
/// Payload files that are verified at a time while the node serves: its answers need the cores too.
const BESIDE_SERVING: usize = 2;

/// Takes orders for the edge.
#[derive(Clone)]
pub struct Rollbacks {
    layout: DataDir,
    /// Payload files that are verified at a time.
    threads: usize,
    security: SecurityHandle,
    ordered: CancellationToken,
    /// The snapshot that was verified for it.
    verified: Arc<parking_lot::Mutex<Option<Snapshot>>>,
    /// One at a time.
    choosing: Arc<Mutex<()>>,
}

impl Rollbacks {
    /// Takes orders for the node of this configuration.
    pub fn new(config: &Config, security: &SecurityHandle) -> Self {
        Self {
            layout: DataDir::new(config.node.data_dir()),
            threads: config.chain.verify_threads.min(BESIDE_SERVING),
            security: security.clone(),
            ordered: CancellationToken::new(),
            verified: Arc::default(),
            choosing: Arc::default(),
        }
    }

    /// Resolves when one is ordered, with its snapshot: the node is to stop, [`resume`] and start again.
    pub async fn ordered(&self) -> Option<Snapshot> {
        self.ordered.cancelled().await;
        self.verified.lock().take()
    }

    async fn order(
        self,
        wanted: RollbackRequest,
        who: String,
    ) -> Result<RollbackReply, PublicError> {
        let _one = self.choosing.try_lock().map_err(|_| busy())?;
        let last = self.last()?;
        if last.is_some_and(|last| last.ended_ms.is_none()) {
            return Err(busy());
        }
        let (layout, threads, reason) = (self.layout.clone(), self.threads, wanted.reason.clone());
        let verified = move || {
            let chosen = choose(&layout, &wanted)?;
            let report = snapshot::verify_snapshot(&chosen, quietly(threads))?;
            let heads = report.heads.into_iter();
            let heads = heads.map(|(chain, hash)| (chain.to_string(), hash.to_string()));
            Ok::<_, PublicError>((chosen, heads.collect()))
        };
        let verified = tokio::task::spawn_blocking(verified).await;
        let (chosen, heads) = verified.map_err(|why| lost(&why))??;
        let record = record(&chosen, heads, who, reason);
        note_outcome(
            &self.security,
            &record,
            RecordOutcome::Begun,
            &record.reason,
        )
        .await?;
        if let Err(why) = write(&self.layout, &record) {
            let said = format!("it could not be written down: {why}");
            note_outcome(&self.security, &record, RecordOutcome::Failed, &said).await?;
            return Err(lost(&why));
        }
        tracing::warn!(snapshot = %record.snapshot, who = %record.who, "the node goes back to a snapshot");
        *self.verified.lock() = Some(chosen);
        self.ordered.cancel();
        Ok(record)
    }
}

impl RollbackPort for Rollbacks {
    fn begin(
        &self,
        wanted: RollbackRequest,
        who: String,
    ) -> BoxFuture<'_, Result<RollbackReply, PublicError>> {
        let rollbacks = self.clone();
        Box::pin(async move {
            // An admin who goes away does not stop this half way.
            let done = tokio::spawn(rollbacks.order(wanted, who)).await;
            done.map_err(|why| lost(&why))?
        })
    }

    fn last(&self) -> Result<Option<RollbackReply>, PublicError> {
        read(&self.layout).map_err(|why| lost(&why))
    }
}

/// Brings the store back where that was ordered, before anything opens it. Where it cannot be brought back it is as it
/// was, and the file says why. `verified` is the snapshot that this process verified for the order, if it did: a process
/// that finds an order verifies again, since hours may lie between.
///
/// # Errors
/// The file of the last rollback cannot be read or written; a running node holds the store; the disk failed while the
/// databases changed places, which the next start finishes.
pub fn resume(config: &Config, verified: Option<&Snapshot>) -> Result<()> {
    let layout = DataDir::new(config.node.data_dir());
    let ordered = read(&layout).with_context(|| format!("{}", path(&layout).display()))?;
    let Some(mut record) = ordered.filter(|last| last.state == RollbackState::Ordered) else {
        return Ok(());
    };
    tracing::info!(snapshot = %record.snapshot, "restoring");
    match restore(&layout, config.chain.verify_threads, &record, verified) {
        Ok(()) => record.state = RollbackState::Restored,
        Err(error) if is_held(&error) || snapshot::restore_is_begun(&layout) => return Err(error),
        Err(error) => {
            tracing::error!(%error, "the node goes on without the rollback");
            record.state = RollbackState::NotRestored;
            record.failure = Some(format!("{error:#}"));
        }
    }
    write(&layout, &record).with_context(|| format!("{}", path(&layout).display()))
}

fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ChainError::Held(_)))
}

fn restore(
    layout: &DataDir,
    threads: usize,
    record: &RollbackReply,
    verified: Option<&Snapshot>,
) -> Result<()> {
    if let Some(verified) = verified.filter(|one| one.id == record.snapshot) {
        snapshot::restore_verified(layout, verified)?;
        return Ok(());
    }
    let chosen = snapshot::find(layout, Some(&record.snapshot))?;
    snapshot::restore(layout, &chosen, quietly(threads))?;
    Ok(())
}

/// Finds out whether a node that went back is well, and writes down how it ended.
pub async fn conclude(config: &Config, port: &Port, security: &SecurityHandle) {
    let layout = DataDir::new(config.node.data_dir());
    let last = match read(&layout) {
        Ok(last) => last.filter(|last| last.ended_ms.is_none()),
        Err(why) => return tracing::error!(%why, "how the last rollback went is unknown"),
    };
    let Some(mut record) = last else { return };
    if record.state == RollbackState::Restored {
        record.failure = until_well(port, &record).await.err();
    }
    let (state, outcome, said) = match &record.failure {
        None => (
            RollbackState::Done,
            RecordOutcome::Done,
            format!(
                "snapshot of {} s, every part is well",
                record.snapshot_ms / 1000
            ),
        ),
        Some(why) => (RollbackState::Failed, RecordOutcome::Failed, why.clone()),
    };
    if let Err(why) = note_outcome(security, &record, outcome, &said).await {
        return tracing::error!(%why, "how the rollback ended is not in the audit log; the next start tries again");
    }
    record.state = state;
    record.ended_ms = Some(now_ms());
    let took_ms = now_ms().saturating_sub(record.ordered_ms);
    match write(&layout, &record) {
        Ok(()) => {
            tracing::info!(snapshot = %record.snapshot, ?state, took_ms, "the rollback has ended")
        }
        Err(why) => tracing::error!(%why, "how the rollback ended is not written down"),
    }
}

/// Every part runs, nothing is corrupt, chat is answered, and the chains stand on the snapshot's heads.
async fn until_well(port: &Port, record: &RollbackReply) -> Result<(), String> {
    let well = async {
        while port.health().await.status != HealthStatus::Ok {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(WELL, well).await.is_err() {
        return Err(port.health().await.reasons.join("; "));
    }
    for head in record.heads.values() {
        let hash: BlockHash = head.parse().map_err(|why| format!("{head}: {why}"))?;
        port.chain
            .block(hash)
            .await
            .map_err(|why| why.to_string())?;
    }
    Ok(())
}

/// The snapshot that is asked for; by time the newest that is not younger (CHAIN-35).
fn choose(layout: &DataDir, wanted: &RollbackRequest) -> Result<Snapshot, PublicError> {
    match (&wanted.snapshot, wanted.timestamp) {
        (Some(_), Some(_)) => Err(invalid("A rollback has a timestamp or a snapshot.")),
        (id, None) => Ok(snapshot::find(layout, id.as_deref())?),
        (None, Some(seconds)) => {
            let oldest = (now_ms() / 1000).saturating_sub(KEPT.as_secs());
            if seconds < oldest {
                return Err(invalid("A rollback goes back 24 hours at most."));
            }
            let not_younger = |one: &Snapshot| one.manifest.created_ms / 1000 <= seconds;
            let found = snapshot::list(layout)?.into_iter().rfind(not_younger);
            Ok(found.ok_or(ChainError::NoSnapshot(None))?)
        }
    }
}

fn record(
    chosen: &Snapshot,
    heads: BTreeMap<String, String>,
    who: String,
    reason: String,
) -> RollbackReply {
    let ordered_ms = now_ms();
    RollbackReply {
        id: format!("{ordered_ms}-{}", chosen.id),
        snapshot: chosen.id.clone(),
        snapshot_ms: chosen.manifest.created_ms,
        heads,
        who,
        reason,
        ordered_ms,
        ended_ms: None,
        state: RollbackState::Ordered,
        failure: None,
    }
}

async fn note_outcome(
    security: &SecurityHandle,
    record: &RollbackReply,
    outcome: RecordOutcome,
    said: &str,
) -> Result<(), PublicError> {
    let (who, subject) = (&record.who, &record.snapshot);
    note(
        security,
        who,
        Action::Rollback,
        subject,
        said.to_owned(),
        outcome,
    )
    .await
}

fn path(layout: &DataDir) -> PathBuf {
    layout.root().join(FILE)
}

fn read(layout: &DataDir) -> io::Result<Option<RollbackReply>> {
    match fs::read(path(layout)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
    }
}

/// Durable when it returns.
fn write(layout: &DataDir, record: &RollbackReply) -> io::Result<()> {
    let mut staged = NamedTempFile::new_in(layout.root())?;
    staged.write_all(&serde_json::to_vec(record)?)?;
    staged.as_file().sync_all()?;
    staged.persist(path(layout))?;
    fs::File::open(layout.root())?.sync_all()
}

/// Without a bar.
fn quietly(threads: usize) -> VerifyOptions<'static> {
    VerifyOptions {
        anchor: None,
        threads,
        progress: &|_| {},
    }
}

/// What answers that the way back cuts off end with.
pub fn rolling_back() -> PublicError {
    PublicError::new(
        ErrorCode::RollingBack,
        "The node goes back to a snapshot.",
        "Ask again when it is back; an admin sees how far it is at /chain/rollback.",
    )
    .retry_after_ms(BUSY_RETRY_MS)
}

fn busy() -> PublicError {
    PublicError::new(
        ErrorCode::Conflict,
        "Another rollback is under way.",
        "GET /chain/rollback says how far it is.",
    )
    .retry_after_ms(BUSY_RETRY_MS)
}

fn invalid(sentence: &str) -> PublicError {
    PublicError::new(
        ErrorCode::InvalidRequest,
        sentence,
        "GET /chain/snapshots lists those that there are.",
    )
}

fn lost(why: &dyn std::fmt::Display) -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        format!("The rollback could not be ordered: {why}."),
        "Look at GET /chain/rollback and at the node's log before you try again.",
    )
}
