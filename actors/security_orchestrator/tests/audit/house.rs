use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use blyan_formats::{NodeKey, PublicKey};
use blyan_security::audit::{
    Action, Anchor, AuditDisk, AuditError, AuditFault, AuditLog, AuditOptions, Cause, Entry,
    FaultKind, RealDisk, Record, RecordOutcome, verify,
};
use tempfile::TempDir;

/// Small enough for a few records a file.
pub const SEGMENT_LEN_MAX: u64 = 4_096;
/// Records that fit into more than two files.
pub const RECORDS: u64 = 24;

pub fn key(byte: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret_bytes([byte; 32]).unwrap())
}

pub fn entry(number: u64) -> Entry {
    Entry {
        at_ms: 1_700_000_000_000 + number,
        who: "admin \u{e9}".to_owned(),
        action: Action::Quarantine,
        subject: format!("serving/replicas/inference-{number}"),
        reason: "a reason with \"quotes\"\nand lines".to_owned(),
        outcome: RecordOutcome::Done,
        cause: Some(Cause::Operator),
        next_probe_ms: None,
    }
}

/// A folder with a log in it.
pub struct House {
    folder: TempDir,
    pub key: Arc<NodeKey>,
}

impl House {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            key: key(7),
        }
    }

    /// With `count` records and the anchor after each of them.
    pub fn with(count: u64) -> (Self, Vec<Anchor>) {
        let house = Self::new();
        let mut log = house.open().unwrap().0;
        let anchors = (1..=count).map(|number| {
            log.append(&[entry(number)]).unwrap();
            log.anchor()
        });
        let anchors = anchors.collect();
        (house, anchors)
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    pub fn options(&self, disk: Arc<dyn AuditDisk>) -> AuditOptions {
        AuditOptions {
            dir: self.dir(),
            key: Arc::clone(&self.key),
            segment_len_max: SEGMENT_LEN_MAX,
            disk,
        }
    }

    /// The log, and what it replayed.
    pub fn open(&self) -> Result<(AuditLog, Vec<Record>), AuditError> {
        self.open_on(Arc::new(RealDisk))
    }

    pub fn open_on(&self, disk: Arc<dyn AuditDisk>) -> Result<(AuditLog, Vec<Record>), AuditError> {
        let mut seen = Vec::new();
        let mut visit = |record: &Record| seen.push(record.clone());
        let log = AuditLog::open(self.options(disk), 1, &mut visit)?;
        Ok((log, seen))
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// The first fault.
    pub fn fault(&self, anchors: &[Anchor]) -> AuditFault {
        match verify(&self.dir(), self.public_key(), anchors) {
            Err(AuditError::Fault(fault)) => *fault,
            other => panic!("no fault: {other:?}"),
        }
    }

    pub fn kind(&self, anchors: &[Anchor]) -> FaultKind {
        self.fault(anchors).kind
    }

    /// The log's files in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// All lines of all files with their ends, and the file of each.
    pub fn lines(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let read = |file: PathBuf| {
            let bytes = std::fs::read(&file).unwrap();
            let lines: Vec<_> = bytes
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| (file.clone(), line.to_vec()))
                .collect();
            lines
        };
        self.files().into_iter().flat_map(read).collect()
    }

    /// Writes the files anew from lines.
    pub fn rewrite(&self, lines: &[(PathBuf, Vec<u8>)]) {
        for file in self.files() {
            let own = lines.iter().filter(|(path, _)| *path == file);
            let bytes: Vec<u8> = own.flat_map(|(_, line)| line.clone()).collect();
            std::fs::write(&file, bytes).unwrap();
        }
    }

    pub fn copy_to(&self, other: &Path) {
        std::fs::create_dir_all(other).unwrap();
        for file in self.files() {
            std::fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
        }
    }
}

/// What a [`BadDisk`] does at its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Writes so many bytes of a record, then refuses.
    ShortWrite(usize),
    /// Writes all, and says that the sync failed.
    Sync,
}

/// Works until it is told to fail.
pub struct BadDisk {
    failure: Failure,
    armed: AtomicBool,
    pub failures: AtomicUsize,
}

impl BadDisk {
    pub fn new(failure: Failure) -> Arc<Self> {
        Arc::new(Self {
            failure,
            armed: AtomicBool::new(false),
            failures: AtomicUsize::new(0),
        })
    }

    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn fails(&self) -> bool {
        let fails = self.armed.load(Ordering::SeqCst);
        self.failures.fetch_add(fails.into(), Ordering::SeqCst);
        fails
    }
}

impl AuditDisk for BadDisk {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        match self.failure {
            Failure::ShortWrite(len) if self.fails() => {
                file.write_all(&bytes[..len])?;
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => RealDisk.write(file, bytes),
        }
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        match self.failure {
            Failure::Sync if self.fails() => Err(io::Error::other("the disk went away")),
            _ => RealDisk.sync_file(file),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}
