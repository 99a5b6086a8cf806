use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blyan_formats::NodeKey;
use blyan_formats::hash::sha256;

use super::record::SignedRecord;
use super::segment::Segment;
use super::walk::{End, Signatures, Walk};
use super::{
    Action, Anchor, AuditDisk, AuditError, Entry, Record, RecordHash, RecordOutcome, verify,
};

/// How a log is written.
#[derive(Clone)]
pub struct AuditOptions {
    /// The folder; nothing but the log may lie in it.
    pub dir: PathBuf,
    /// Signs each record.
    pub key: Arc<NodeKey>,
    /// Size in bytes above which the next record begins a new file.
    pub segment_len_max: u64,
    /// The system, or a double that fails.
    pub disk: Arc<dyn AuditDisk>,
}

/// The one writer of a log. It holds a lock on the folder, so that a replaced generation that is still in a write
/// keeps the next one from opening it.
pub struct AuditLog {
    options: AuditOptions,
    lock: File,
    file: Option<File>,
    len: u64,
    count: u64,
    head: RecordHash,
    /// After a failed write nobody knows what the file holds.
    failed: bool,
}

impl AuditLog {
    /// Opens a log, or makes an empty one, and shows each record to `visit`, oldest first.
    ///
    /// A torn last line was never acknowledged: it gives way to a record that says so. The last whole line is
    /// written once more and synced, as a sync that failed may have left it in memory alone.
    ///
    /// # Errors
    /// [`AuditError::Held`]; [`AuditError::Fault`]: the log is not what was written, and nothing was changed;
    /// [`AuditError::Io`], [`AuditError::NotDurable`].
    pub fn open(
        options: AuditOptions,
        now_ms: u64,
        visit: &mut dyn FnMut(&Record),
    ) -> Result<Self, AuditError> {
        let lock = lock(&options)?;
        let end = replay(&options, visit)?;
        let mut log = Self {
            options,
            lock,
            file: None,
            len: end.len,
            count: end.count,
            head: end.head,
            failed: false,
        };
        log.settle(end, now_ms, visit)?;
        Ok(log)
    }

    /// Number and hash of the last record.
    pub const fn anchor(&self) -> Anchor {
        Anchor {
            count: self.count,
            head: self.head,
        }
    }

    /// Appends records with one sync; once this returns they are durable. After a failure some of them may be there
    /// all the same when the log is opened anew: those were decided, though nobody was told.
    ///
    /// # Errors
    /// [`AuditError::NoRoom`]; [`AuditError::NotDurable`], now and at every later call.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Vec<Record>, AuditError> {
        if self.failed {
            return Err(AuditError::not_durable("a write before it failed"));
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let room = self.options.disk.room();
        room.map_err(|error| AuditError::NoRoom(error.to_string()))?;
        self.failed = true;
        let records = self.write(entries)?;
        self.failed = false;
        Ok(records)
    }

    fn write(&mut self, entries: &[Entry]) -> Result<Vec<Record>, AuditError> {
        let (mut count, mut head) = (self.count, self.head);
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for entry in entries {
            let signed = self.sign(count + 1, head, entry)?;
            head = signed.record.hash().map_err(AuditError::not_durable)?;
            count += 1;
            bytes.extend(signed.to_line().map_err(AuditError::not_durable)?);
            records.push(signed.record);
        }
        if self.len >= self.options.segment_len_max {
            self.file = None;
        }
        self.put(&bytes).map_err(AuditError::not_durable)?;
        (self.count, self.head) = (count, head);
        Ok(records)
    }

    fn sign(&self, seq: u64, prev: RecordHash, entry: &Entry) -> Result<SignedRecord, AuditError> {
        let key = &self.options.key;
        let record = Record::new(seq, prev, key.public_key(), entry.clone());
        SignedRecord::sign(record, key).map_err(AuditError::not_durable)
    }

    /// Writes where the log ends, in a new file if none is open.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let disk = Arc::clone(&self.options.disk);
        let (mut file, new) = match self.file.take() {
            Some(file) => (file, false),
            None => (self.create()?, true),
        };
        disk.write(&mut file, bytes)?;
        disk.sync_file(&file)?;
        if new {
            disk.sync_dir(&self.options.dir)?;
        }
        self.len += bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    fn create(&mut self) -> std::io::Result<File> {
        let segment = Segment::new(&self.options.dir, self.count + 1);
        self.len = 0;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(segment.path)
    }

    /// Makes the end of the log certain before anything stands on it.
    fn settle(
        &mut self,
        end: End,
        now_ms: u64,
        visit: &mut dyn FnMut(&Record),
    ) -> Result<(), AuditError> {
        let Some(segment) = &end.segment else {
            return Ok(());
        };
        let failed = |error: &std::io::Error| AuditError::io("write", &segment.path, error);
        let opened = OpenOptions::new().write(true).open(&segment.path);
        let mut file = opened.map_err(|error| failed(&error))?;
        let last_at = end.len - end.last_line.len() as u64;
        file.seek(SeekFrom::Start(last_at))
            .map_err(|error| failed(&error))?;
        let disk = Arc::clone(&self.options.disk);
        let written = disk.write(&mut file, &end.last_line);
        written.map_err(AuditError::not_durable)?;
        let synced = disk.sync_file(&file);
        synced.map_err(AuditError::not_durable)?;
        let synced = disk.sync_dir(&self.options.dir);
        synced.map_err(AuditError::not_durable)?;
        if !end.torn.is_empty() {
            let record = self.replace_tail(&mut file, &end.torn, now_ms)?;
            visit(&record);
        }
        self.file = Some(file);
        Ok(())
    }

    /// The record of the cut is written over the torn bytes before what is left of them goes, so that a crash in
    /// between leaves either of them, never neither.
    fn replace_tail(
        &mut self,
        file: &mut File,
        torn: &[u8],
        now_ms: u64,
    ) -> Result<Record, AuditError> {
        let hash = blyan_formats::ContentHash::from_bytes(sha256(torn));
        let entry = Entry {
            at_ms: now_ms,
            who: "orchestrator".to_owned(),
            action: Action::TailCut,
            subject: super::AUDIT_DIR.to_owned(),
            reason: format!("{} bytes of a torn append, SHA-256 {hash}", torn.len()),
            outcome: RecordOutcome::Done,
            cause: None,
            next_probe_ms: None,
        };
        let signed = self.sign(self.count + 1, self.head, &entry)?;
        let line = signed.to_line().map_err(AuditError::not_durable)?;
        let disk = Arc::clone(&self.options.disk);
        let written = disk.write(file, &line);
        written.map_err(AuditError::not_durable)?;
        disk.sync_file(file).map_err(AuditError::not_durable)?;
        self.len += line.len() as u64;
        file.set_len(self.len).map_err(AuditError::not_durable)?;
        disk.sync_file(file).map_err(AuditError::not_durable)?;
        self.count += 1;
        self.head = signed.record.hash().map_err(AuditError::not_durable)?;
        Ok(signed.record)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that is just being forked off. If this fails, closing is
        // all there is.
        let _ = self.lock.unlock();
    }
}

fn lock(options: &AuditOptions) -> Result<File, AuditError> {
    let dir = &options.dir;
    let failed = |what, error: &std::io::Error| AuditError::io(what, dir, error);
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(|error| failed("make", &error))?;
        let parent = dir.parent().unwrap_or(Path::new("."));
        let synced = options.disk.sync_dir(parent);
        synced.map_err(AuditError::not_durable)?;
    }
    let lock = File::open(dir).map_err(|error| failed("open", &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(AuditError::Held(dir.clone())),
        Err(TryLockError::Error(error)) => Err(failed("lock", &error)),
    }
}

/// Reads the log by its links and its last signature; a log with a fault is read again to name the first one.
fn replay(options: &AuditOptions, visit: &mut dyn FnMut(&Record)) -> Result<End, AuditError> {
    let key = options.key.public_key();
    let walk = Walk::new(&options.dir, key, Signatures::Last);
    let walked = walk.run(&mut |record, _| {
        visit(record);
        Ok(())
    });
    match walked {
        Err(AuditError::Fault(fault)) => {
            verify(&options.dir, key, &[])?;
            Err(AuditError::Fault(fault))
        }
        walked => walked,
    }
}

#[cfg(test)]
mod tests {
    use super::super::RealDisk;
    use super::*;

    #[test]
    fn a_lock_is_given_back_though_a_forked_process_holds_the_folder_open() {
        let folder = tempfile::tempdir().unwrap();
        let options = AuditOptions {
            dir: folder.path().join("audit"),
            key: Arc::new(NodeKey::from_secret_bytes([7; 32]).unwrap()),
            segment_len_max: 4_096,
            disk: Arc::new(RealDisk),
        };
        let log = AuditLog::open(options.clone(), 1, &mut |_| {}).unwrap();
        // A fork shares the open folder, and its lock, as a clone does.
        let forked = log.lock.try_clone().unwrap();
        drop(log);
        assert!(AuditLog::open(options, 2, &mut |_| {}).is_ok());
        drop(forked);
    }
}
