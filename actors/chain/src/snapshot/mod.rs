//! Snapshots: consistent copies of a store within its data directory, and the way back to one.
//!
//! A snapshot is a data directory of its own, `<data>/snapshots/<id>`: a RocksDB checkpoint, hard links to the payload
//! files that its blocks name, and `manifest.json`. It costs the bytes of the newest table files and no payload. Since
//! payloads are linked, a snapshot brings back what was deleted, replaced or appended, not what the disk itself damaged.

mod folder;
mod manifest;
mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use blyan_formats::{BlockHash, BlockType, ChainId, PayloadHash, SignedBlock};

pub use folder::Snapshot;
pub use manifest::SnapshotManifest;
pub(crate) use restore::replace_by_link;
pub use restore::{Restored, restore, restore_is_begun, restore_verified};

use crate::ChainError;
use crate::store::{DataDir, Records, RocksStore, Store as _};
use crate::verify::{VerifyOptions, VerifyReport, verify};
use folder::Snapshots;

/// How long snapshots are kept (CHAIN-35): a rollback goes back 24 hours at most.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Makes a snapshot of `store`, also while it is written to: it holds what was published at one moment.
///
/// # Errors
/// [`ChainError::NotDurable`] if the store was sealed by a failed write or the snapshot cannot be synced;
/// [`ChainError::NoChain`] for a store without a block; [`ChainError::Io`]; as [`crate::Store::get`].
pub fn create(store: &RocksStore, now_ms: u64) -> Result<Snapshot, ChainError> {
    let snapshots = Snapshots::of(store.layout());
    let temp = snapshots.make_temp()?;
    let made = fill(store, &temp, now_ms).and_then(|manifest| {
        sync(store, &temp)?;
        snapshots.publish(store, &temp, manifest)
    });
    if made.is_err() {
        // What is left is removed at the next opening, too.
        let _ = fs::remove_dir_all(temp.root());
    }
    made
}

/// Payload files are published before the blocks that name them and never removed, so those of the checkpoint's blocks
/// are all there.
fn fill(store: &RocksStore, temp: &DataDir, now_ms: u64) -> Result<SnapshotManifest, ChainError> {
    store.checkpoint(&temp.db())?;
    let copy = RocksStore::open_read_only(temp.clone())?;
    let contents = Contents::of(&copy)?;
    for payload in contents.payloads.keys() {
        let linked = fs::hard_link(store.payloads().path(*payload), temp.payload(*payload));
        linked.map_err(|error| ChainError::io("link a payload into a snapshot", error))?;
    }
    let manifest = SnapshotManifest::of(&copy, &contents, now_ms)?;
    manifest.write(temp)?;
    Ok(manifest)
}

/// What a store's headers say is there.
struct Contents {
    genesis: BlockHash,
    blocks: u64,
    /// Payload files with their lengths in bytes.
    payloads: BTreeMap<PayloadHash, u64>,
}

impl Contents {
    fn of(store: &RocksStore) -> Result<Self, ChainError> {
        let blocks = Records(store).blocks()?;
        let is_genesis = |block: &SignedBlock| block.header.block_type == BlockType::Genesis;
        let genesis = blocks.iter().find(|(_, block)| is_genesis(block));
        let no_chain = || ChainError::NoChain(store.layout().root().to_owned());
        let on_b = blocks
            .iter()
            .filter(|(_, block)| block.header.chain == ChainId::B);
        Ok(Self {
            genesis: genesis.map(|(hash, _)| *hash).ok_or_else(no_chain)?,
            blocks: blocks.len() as u64,
            payloads: on_b
                .map(|(_, block)| (block.header.payload_hash, block.header.payload_len))
                .collect(),
        })
    }
}

fn sync(store: &RocksStore, temp: &DataDir) -> Result<(), ChainError> {
    let failed = |error| ChainError::not_durable("a snapshot", &error);
    for entry in fs::read_dir(temp.db()).map_err(failed)? {
        let file = fs::File::open(entry.map_err(failed)?.path()).map_err(failed)?;
        store.disk().sync_file(&file).map_err(failed)?;
    }
    for dir in [temp.db(), temp.payloads(), temp.root().to_owned()] {
        store.disk().sync_dir(&dir).map_err(failed)?;
    }
    Ok(())
}

/// The snapshots of a data directory, oldest first.
///
/// # Errors
/// [`ChainError::Io`]; [`ChainError::Damaged`] for a snapshot whose manifest is none.
pub fn list(layout: &DataDir) -> Result<Vec<Snapshot>, ChainError> {
    Snapshots::of(layout).list()
}

/// The snapshot with this id, or the newest.
///
/// # Errors
/// [`ChainError::NoSnapshot`]; as [`list`].
pub fn find(layout: &DataDir, id: Option<&str>) -> Result<Snapshot, ChainError> {
    let wanted = |snapshot: &Snapshot| id.is_none_or(|id| snapshot.id == id);
    let found = list(layout)?.into_iter().rfind(wanted);
    found.ok_or_else(|| ChainError::NoSnapshot(id.map(str::to_owned)))
}

/// Verifies every byte of a snapshot, as [`crate::verify`] does, and that its records are those of its manifest.
///
/// # Errors
/// [`ChainError::Damaged`] if they are not; as [`crate::verify`].
pub fn verify_snapshot(
    snapshot: &Snapshot,
    options: VerifyOptions<'_>,
) -> Result<VerifyReport, ChainError> {
    let store = RocksStore::open_read_only(snapshot.layout.clone())?;
    let found = SnapshotManifest::of(&store, &Contents::of(&store)?, snapshot.manifest.created_ms)?;
    if found != snapshot.manifest {
        return Err(ChainError::Damaged(format!(
            "snapshot {}: its records have the root {}, its manifest says {}",
            snapshot.id, found.root, snapshot.manifest.root
        )));
    }
    verify(&store, options)
}

/// Removes snapshots older than [`KEPT`], but never the newest. Returns their number.
///
/// # Errors
/// As [`list`].
pub fn prune(layout: &DataDir, now_ms: u64) -> Result<usize, ChainError> {
    let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
    let mut snapshots = list(layout)?;
    snapshots.pop();
    snapshots.retain(|snapshot| snapshot.manifest.created_ms.saturating_add(kept_ms) < now_ms);
    for snapshot in &snapshots {
        Snapshots::of(layout).remove(snapshot)?;
    }
    Ok(snapshots.len())
}
