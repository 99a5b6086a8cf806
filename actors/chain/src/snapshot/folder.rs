use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SnapshotManifest;
use crate::ChainError;
use crate::store::leftovers::TEMP_SNAPSHOT_PREFIX;
use crate::store::{DataDir, RocksStore};

/// Hex digits of the root in an id.
const ROOT_DIGITS: usize = 16;

static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its time and the beginning of its root, such as `1700000000000-0123456789abcdef`: the name of its folder.
    pub id: String,
    /// Its files; a data directory for every command that only reads.
    pub layout: DataDir,
    /// What it holds.
    pub manifest: SnapshotManifest,
}

/// The folder of a data directory's snapshots.
pub(super) struct Snapshots(PathBuf);

impl Snapshots {
    pub(super) fn of(layout: &DataDir) -> Self {
        Self(layout.snapshots())
    }

    /// A folder of its own for a snapshot in the making.
    pub(super) fn make_temp(&self) -> Result<DataDir, ChainError> {
        let number = NEXT_TEMP.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMP_SNAPSHOT_PREFIX}{}-{number}", std::process::id());
        let temp = DataDir::new(self.0.join(name));
        let made = fs::create_dir_all(temp.payloads());
        made.map_err(|error| ChainError::io("make a snapshot's folder", error))?;
        Ok(temp)
    }

    /// Gives a synced snapshot its name.
    pub(super) fn publish(
        &self,
        store: &RocksStore,
        temp: &DataDir,
        manifest: SnapshotManifest,
    ) -> Result<Snapshot, ChainError> {
        let id = id_of(&manifest);
        let layout = DataDir::new(self.0.join(&id));
        let disk = store.disk();
        let named = disk
            .rename(temp.root(), layout.root())
            .and_then(|()| disk.sync_dir(&self.0))
            .and_then(|()| disk.sync_dir(store.layout().root()));
        named.map_err(|error| ChainError::not_durable("a snapshot", &error))?;
        Ok(Snapshot {
            id,
            layout,
            manifest,
        })
    }

    pub(super) fn list(&self) -> Result<Vec<Snapshot>, ChainError> {
        let mut snapshots = Vec::new();
        for name in self.names()? {
            if name.starts_with(TEMP_SNAPSHOT_PREFIX) {
                continue;
            }
            let layout = DataDir::new(self.0.join(&name));
            let manifest = SnapshotManifest::read(&layout)?;
            if id_of(&manifest) != name {
                let path = layout.root().display();
                let why = format!("{path}: its manifest is that of {}", id_of(&manifest));
                return Err(ChainError::Damaged(why));
            }
            snapshots.push(Snapshot {
                id: name,
                layout,
                manifest,
            });
        }
        snapshots.sort_by_key(|snapshot| (snapshot.manifest.created_ms, snapshot.id.clone()));
        Ok(snapshots)
    }

    pub(super) fn remove(&self, snapshot: &Snapshot) -> Result<(), ChainError> {
        // Under another name first, so that no half a snapshot is listed.
        let gone = self
            .0
            .join(format!("{TEMP_SNAPSHOT_PREFIX}{}", snapshot.id));
        let removed =
            fs::rename(snapshot.layout.root(), &gone).and_then(|()| fs::remove_dir_all(&gone));
        removed.map_err(|error| ChainError::io("remove a snapshot", error))
    }

    fn names(&self) -> Result<Vec<String>, ChainError> {
        let read = || -> io::Result<Vec<String>> {
            let entries = match fs::read_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let name = |entry: io::Result<fs::DirEntry>| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
            };
            entries.map(name).collect()
        };
        read().map_err(|error| ChainError::io("list the snapshots", error))
    }
}

fn id_of(manifest: &SnapshotManifest) -> String {
    let root = manifest.root.to_string();
    format!("{}-{}", manifest.created_ms, &root[..ROOT_DIGITS])
}
