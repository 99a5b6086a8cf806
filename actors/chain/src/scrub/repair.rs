use std::fs::{self, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use blyan_formats::PayloadHash;
use blyan_formats::tensorblock::verify_stream_bytes;

use super::direct::DirectFile;
use crate::snapshot;
use crate::store::{DataDir, PayloadDir, RocksStore, Store as _};

/// Replaces a damaged payload file by a copy of the first whole one: of `repair_dir`, then of the snapshots, newest
/// first. Returns the copy's path.
pub(super) fn repair(
    store: &RocksStore,
    payload: PayloadHash,
    len: u64,
    repair_dir: Option<&Path>,
) -> Result<PathBuf, String> {
    let files = store.payloads();
    let damaged = fs::symlink_metadata(files.path(payload)).ok();
    let snapshots = snapshots_of(store.layout());
    let copies = repair_dir
        .map(|dir| dir.join(payload.to_string()))
        .into_iter()
        .chain(snapshots.iter().map(|snapshot| snapshot.payload(payload)));
    let mut whys = Vec::new();
    for copy in copies {
        match take(files, payload, len, &copy, damaged.as_ref()) {
            Ok(()) => {
                relink(store, &snapshots, payload, damaged.as_ref());
                return Ok(copy);
            }
            Err(why) => whys.push(format!("{}: {why}", copy.display())),
        }
    }
    if whys.is_empty() {
        whys.push("there is no snapshot, and chain.repair_dir is not set".to_owned());
    }
    Err(whys.join("; "))
}

/// Newest first. Snapshots that cannot be listed have no copies.
fn snapshots_of(layout: &DataDir) -> Vec<DataDir> {
    let listed = snapshot::list(layout).unwrap_or_default();
    listed.into_iter().rev().map(|one| one.layout).collect()
}

/// Verifies while it copies; a copy that is not whole never gets the payload's name.
fn take(
    files: &PayloadDir,
    payload: PayloadHash,
    len: u64,
    copy: &Path,
    damaged: Option<&Metadata>,
) -> Result<(), String> {
    let say = |error: io::Error| error.to_string();
    let meta = fs::metadata(copy).map_err(say)?;
    if damaged.is_some_and(|damaged| same_file(damaged, &meta)) {
        return Err("it is a link to the damaged file".to_owned());
    }
    if meta.len() != len {
        return Err(format!("it has {} bytes", meta.len()));
    }
    let mut to = files.writer().map_err(|error| error.to_string())?;
    let mut from = Copying {
        from: DirectFile::open(copy).map_err(say)?,
        to: &mut to,
    };
    verify_stream_bytes(&mut from, len, payload).map_err(|error| error.to_string())?;
    let named = to.finish(payload).and_then(|()| files.sync_names());
    named.map_err(|error| error.to_string())
}

fn same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Writes what is read through it.
struct Copying<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.to.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// Snapshots that hold a link to the damaged file get one to the repaired file.
fn relink(
    store: &RocksStore,
    snapshots: &[DataDir],
    payload: PayloadHash,
    damaged: Option<&Metadata>,
) {
    let Some(damaged) = damaged else { return };
    let repaired = store.payloads().path(payload);
    for snapshot in snapshots {
        let link = snapshot.payload(payload);
        if !fs::metadata(&link).is_ok_and(|meta| same_file(damaged, &meta)) {
            continue;
        }
        let changed = snapshot::replace_by_link(&repaired, &link)
            .and_then(|_| store.disk().sync_dir(&snapshot.payloads()));
        if let Err(error) = changed {
            tracing::warn!(%error, link = %link.display(), "a snapshot keeps a damaged payload");
        }
    }
}
