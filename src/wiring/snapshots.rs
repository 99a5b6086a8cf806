//! Snapshots of a running node's store.

use std::sync::Arc;
use std::time::Duration;

use blyan_chain::snapshot::{self, Snapshot};
use blyan_chain::{ChainError, RocksStore};
use tokio_util::sync::CancellationToken;

use super::home::now_ms;
use crate::edge::replies::SnapshotReply;

/// Work on the disk, away from threads that answer.
async fn blocking<T: Send + 'static>(
    store: &Arc<RocksStore>,
    work: impl FnOnce(&RocksStore) -> Result<T, ChainError> + Send + 'static,
) -> Result<T, ChainError> {
    let store = Arc::clone(store);
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.unwrap_or_else(|error| {
        Err(ChainError::Io {
            what: "work on snapshots",
            why: error.to_string(),
        })
    })
}

/// Makes one, and removes those that are too old.
pub async fn make(store: &Arc<RocksStore>) -> Result<SnapshotReply, ChainError> {
    blocking(store, |store| {
        let made = snapshot::create(store, now_ms())?;
        snapshot::prune(store.layout(), now_ms())?;
        Ok(reply(made))
    })
    .await
}

/// All, oldest first.
pub async fn all(store: &Arc<RocksStore>) -> Result<Vec<SnapshotReply>, ChainError> {
    let listed = blocking(store, |store| snapshot::list(store.layout())).await?;
    Ok(listed.into_iter().map(reply).collect())
}

/// Makes one again and again, until the node stops.
pub async fn keep_making(store: Arc<RocksStore>, every: Duration, closing: CancellationToken) {
    loop {
        let pause = tokio::time::sleep(every);
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
        match make(&store).await {
            Ok(made) => tracing::info!(id = made.id, "a snapshot is made"),
            Err(error) => tracing::error!(%error, "no snapshot is made"),
        }
    }
}

/// A snapshot in the words of the API.
pub fn reply(snapshot: Snapshot) -> SnapshotReply {
    let held = snapshot.manifest;
    SnapshotReply {
        id: snapshot.id,
        created_ms: held.created_ms,
        genesis: held.genesis.to_string(),
        blocks: held.blocks,
        receipts: held.receipts,
        payloads: held.payloads,
        payload_bytes: held.payload_bytes,
        root: held.root.to_string(),
    }
}
