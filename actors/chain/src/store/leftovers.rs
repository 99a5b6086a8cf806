//! What an interrupted process left in a data directory: half a snapshot, or a restore that is to be finished.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::DataDir;
use crate::ChainError;

/// What the names of unfinished snapshots start with.
pub(crate) const TEMP_SNAPSHOT_PREFIX: &str = ".tmp-";

/// Ends a restore that was cut off after its marker was written, and removes what one before its marker left, and half
/// snapshots. Whoever calls it holds the directory's lock.
pub(crate) fn finish_interrupted(layout: &DataDir) -> Result<(), ChainError> {
    let finished = if layout.restoring().exists() {
        change_databases(layout)
    } else {
        remove_dir(&layout.next_db())
    };
    finished.map_err(|error| ChainError::not_durable("a restore", &error))?;
    let cleaned = remove_half_snapshots(&layout.snapshots());
    cleaned.map_err(|error| ChainError::io("remove half a snapshot", error))
}

/// Says that the restored database is whole and to be used, whoever opens the directory next.
pub(crate) fn mark_restore(layout: &DataDir, id: &str) -> io::Result<()> {
    let temp = layout.restoring().with_extension("new");
    fs::write(&temp, id)?;
    File::open(&temp)?.sync_all()?;
    fs::rename(&temp, layout.restoring())?;
    sync_dir(layout.root())
}

/// Each step may have been done before.
fn change_databases(layout: &DataDir) -> io::Result<()> {
    if layout.next_db().exists() {
        if layout.db().exists() {
            fs::rename(layout.db(), layout.replaced_db())?;
        }
        fs::rename(layout.next_db(), layout.db())?;
        sync_dir(layout.root())?;
    }
    // Unsynced records of the database that is replaced.
    remove_file(&layout.doubtful())?;
    remove_file(&layout.restoring())?;
    sync_dir(layout.root())
}

fn remove_half_snapshots(snapshots: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(snapshots) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(TEMP_SNAPSHOT_PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    absent_is_well(fs::remove_dir_all(dir))
}

pub(crate) fn remove_file(file: &Path) -> io::Result<()> {
    absent_is_well(fs::remove_file(file))
}

fn absent_is_well(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
