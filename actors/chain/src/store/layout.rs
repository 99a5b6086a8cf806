use std::path::{Path, PathBuf};

use blyan_formats::PayloadHash;

/// Names below a data directory. Nothing stored holds the directory's own path, so it may be copied anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The data directory at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// RocksDB.
    pub fn db(&self) -> PathBuf {
        self.0.join("db")
    }

    /// Payload files, each named by its payload hash.
    pub fn payloads(&self) -> PathBuf {
        self.0.join("payloads")
    }

    /// fp32 derivations, which can be made again at any time.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The file that the one process that may write holds locked.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Names of records whose sync failed; they are taken back at the next opening (CHAIN-I4).
    pub fn doubtful(&self) -> PathBuf {
        self.0.join("doubtful")
    }

    /// Where the scrubber is.
    pub fn scrub(&self) -> PathBuf {
        self.0.join("scrub")
    }

    /// Snapshots, each a data directory of its own.
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    /// Uploads on their way to become blocks.
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// The database of a snapshot on its way to become that of the store.
    pub(crate) fn next_db(&self) -> PathBuf {
        self.0.join("db.next")
    }

    /// The database that the last restore replaced.
    pub(crate) fn replaced_db(&self) -> PathBuf {
        self.0.join("db.replaced")
    }

    /// There while a restore changes databases; holds the snapshot's id.
    pub(crate) fn restoring(&self) -> PathBuf {
        self.0.join("restoring")
    }

    /// One payload file.
    pub fn payload(&self, payload: PayloadHash) -> PathBuf {
        self.payloads().join(payload.to_string())
    }

    /// The fp32 derivation of one payload.
    pub fn fp32(&self, payload: PayloadHash) -> PathBuf {
        self.cache().join(format!("{payload}.f32"))
    }
}
