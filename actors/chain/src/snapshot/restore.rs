//! The way back to a snapshot.
//!
//! The database of the snapshot is copied beside the present one and verified first; only then a marker is written and
//! the two change places by renaming. A restore that is cut off before the marker has changed nothing; one that is cut
//! off after it is finished by the next opening.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Contents, Snapshot, verify_snapshot};
use crate::ChainError;
use crate::store::leftovers::{
    finish_interrupted, mark_restore, remove_dir, remove_file, sync_dir,
};
use crate::store::{DataDir, RocksStore, take_lock};
use crate::verify::{VerifyOptions, VerifyReport};

/// Files of RocksDB that never change once written; the others are copied, as the restored database goes on in them.
const IMMUTABLE: &str = "sst";

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What was verified before anything changed.
    pub report: VerifyReport,
    /// Payload files that were missing or not those of the snapshot.
    pub payloads: u64,
}

/// Puts the store of `layout` back to a snapshot of it. Blocks and receipts since then are no longer in the store; the
/// database that held them is kept as `db.replaced` until the next restore. Payload files that only they named stay.
///
/// # Errors
/// [`ChainError::Held`] while a node runs on the directory; a damaged snapshot as [`verify_snapshot`]; then nothing was
/// changed. [`ChainError::NotDurable`] and [`ChainError::Io`]: run it again.
pub fn restore(
    layout: &DataDir,
    snapshot: &Snapshot,
    options: VerifyOptions<'_>,
) -> Result<Restored, ChainError> {
    let _lock = take_lock(layout)?;
    finish_interrupted(layout)?;
    let report = verify_snapshot(snapshot, options)?;
    let payloads = bring_back(layout, snapshot)?;
    Ok(Restored { report, payloads })
}

/// The same with a snapshot that this process has verified, of which it knows that nobody has written to it since. Returns
/// the number of payload files that were brought back.
///
/// # Errors
/// As [`restore`].
pub fn restore_verified(layout: &DataDir, snapshot: &Snapshot) -> Result<u64, ChainError> {
    let _lock = take_lock(layout)?;
    finish_interrupted(layout)?;
    bring_back(layout, snapshot)
}

fn bring_back(layout: &DataDir, snapshot: &Snapshot) -> Result<u64, ChainError> {
    let payloads = bring_payloads(layout, snapshot)?;
    let prepared = prepare(layout, snapshot).and_then(|()| mark_restore(layout, &snapshot.id));
    prepared.map_err(|error| ChainError::not_durable("a restore", &error))?;
    finish_interrupted(layout)?;
    Ok(payloads)
}

/// Whether a restore is past the point from which the next opening of the store finishes it.
pub fn restore_is_begun(layout: &DataDir) -> bool {
    layout.restoring().exists()
}

/// Links what is missing, and replaces what is not the snapshot's own file: the snapshot was verified, that one was not.
fn bring_payloads(layout: &DataDir, snapshot: &Snapshot) -> Result<u64, ChainError> {
    let store = RocksStore::open_read_only(snapshot.layout.clone())?;
    let mut brought = 0;
    for payload in Contents::of(&store)?.payloads.keys() {
        let (from, to) = (snapshot.layout.payload(*payload), layout.payload(*payload));
        let changed = replace_by_link(&from, &to);
        let changed = changed.map_err(|error| ChainError::io("bring a payload back", error))?;
        brought += u64::from(changed);
    }
    let synced = sync_dir(&layout.payloads());
    synced.map_err(|error| ChainError::not_durable("the payload folder", &error))?;
    Ok(brought)
}

pub(crate) fn replace_by_link(from: &Path, to: &Path) -> io::Result<bool> {
    let wanted = fs::metadata(from)?;
    let is_wanted =
        |there: fs::Metadata| (there.dev(), there.ino()) == (wanted.dev(), wanted.ino());
    if fs::symlink_metadata(to).is_ok_and(is_wanted) {
        return Ok(false);
    }
    // A name that the next opening cleans away.
    let temp = to.with_file_name(".tmp-restored");
    remove_file(&temp)?;
    fs::hard_link(from, &temp)?;
    fs::rename(&temp, to)?;
    Ok(true)
}

/// A copy of the snapshot's database beside the present one.
fn prepare(layout: &DataDir, snapshot: &Snapshot) -> io::Result<()> {
    let next = layout.next_db();
    remove_dir(&next)?;
    fs::create_dir(&next)?;
    for entry in fs::read_dir(snapshot.layout.db())? {
        let (from, to) = (entry?.path(), &next);
        let to = to.join(from.file_name().unwrap_or_default());
        if from.extension().is_some_and(|kind| kind == IMMUTABLE) {
            fs::hard_link(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
            File::open(&to)?.sync_all()?;
        }
    }
    sync_dir(&next)?;
    // The one of the restore before.
    remove_dir(&layout.replaced_db())?;
    sync_dir(layout.root())
}
