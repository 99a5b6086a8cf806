use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use blyan_formats::tensorblock::{DType, Quantisation, StreamError, TensorSpec, verify_stream};
use blyan_formats::{PayloadHash, SignedBlock};
use serde::{Deserialize, Serialize};

use super::{UploadError, UploadId};
use crate::store::{DataDir, Disk};

/// Longest record: a signed block and a few numbers.
const RECORD_LEN_MAX: u64 = 64 * 1024;

/// Bytes read at a time while a payload is verified.
const READ_LEN: usize = 64 * 1024;

/// What is kept of an upload beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) upload: UploadId,
    pub(super) created_ms: u64,
    pub(super) stored: bool,
    /// Rows and columns that the served architecture gave the expert when the upload began.
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) block: SignedBlock,
}

impl Record {
    /// The tensor that the payload must hold.
    pub(super) const fn tensor(&self) -> TensorSpec {
        TensorSpec::new(DType::Int8, Quantisation::Blocks32, self.rows, self.cols)
    }

    pub(super) const fn len(&self) -> u64 {
        self.block.header.payload_len
    }
}

/// The folder of uploads. Only one process writes to a data directory, and only one call at a time to an upload.
pub(super) struct Files {
    layout: DataDir,
    disk: Arc<dyn Disk>,
}

impl Files {
    /// Makes the folder where there is none.
    pub(super) fn open(layout: DataDir, disk: Arc<dyn Disk>) -> io::Result<Self> {
        fs::create_dir_all(layout.uploads())?;
        disk.sync_dir(layout.root())?;
        Ok(Self { layout, disk })
    }

    fn record(&self, id: UploadId) -> PathBuf {
        self.layout.uploads().join(format!("{id}.json"))
    }

    fn part(&self, id: UploadId) -> PathBuf {
        self.layout.uploads().join(format!("{id}.part"))
    }

    /// Every record that can be read. Anything else in the folder is removed: half a record, bytes without one.
    pub(super) fn scan(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.layout.uploads())? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                match read_record(&path)? {
                    Some(record) if self.record(record.upload) == path => records.push(record),
                    _ => {
                        tracing::warn!(path = %path.display(), "an upload's record is damaged; the upload is removed");
                        fs::remove_file(&path)?;
                    }
                }
            }
        }
        self.remove_strays(&records)?;
        Ok(records)
    }

    fn remove_strays(&self, records: &[Record]) -> io::Result<()> {
        for entry in fs::read_dir(self.layout.uploads())? {
            let path = entry?.path();
            let ours = |record: &Record| {
                path == self.record(record.upload)
                    || (path == self.part(record.upload) && !record.stored)
            };
            if !records.iter().any(ours) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Writes a record under its name once it is synced; with `part` an empty file of bytes beside it.
    pub(super) fn put(&self, record: &Record, part: bool) -> io::Result<()> {
        let path = self.record(record.upload);
        let staged = path.with_extension("new");
        fs::write(&staged, serde_json::to_vec(record)?)?;
        self.disk.sync_file(&File::open(&staged)?)?;
        if part {
            File::create(self.part(record.upload))?;
        }
        self.disk.rename(&staged, &path)?;
        self.disk.sync_dir(&self.layout.uploads())
    }

    /// The record of an upload.
    pub(super) fn get(&self, id: UploadId) -> io::Result<Record> {
        read_record(&self.record(id))?.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Bytes that came so far, made durable: also those of a write that was cut off before it was acknowledged. Where
    /// the part has become a payload file already, all of them. With it the time of the last, ms since 1970.
    pub(super) fn received(&self, record: &Record) -> io::Result<(u64, u64)> {
        match OpenOptions::new()
            .write(true)
            .open(self.part(record.upload))
        {
            Ok(part) => {
                self.disk.sync_file(&part)?;
                let meta = part.metadata()?;
                Ok((meta.len(), ms_of(meta.modified()?)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let payload = self.layout.payload(record.block.header.payload_hash);
                let whole = fs::symlink_metadata(payload)
                    .is_ok_and(|file| file.is_file() && file.len() == record.len());
                if whole {
                    return Ok((record.len(), record.created_ms));
                }
                File::create(self.part(record.upload))?;
                self.disk.sync_dir(&self.layout.uploads())?;
                Ok((0, record.created_ms))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a piece at `offset`, the part's length, and syncs it. What a failed write left behind is cut off.
    pub(super) fn append(
        &self,
        id: UploadId,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), UploadError> {
        let failed = |error: io::Error| UploadError::io("write the piece", &error);
        let part = OpenOptions::new().write(true).open(self.part(id));
        let part = part.map_err(failed)?;
        if let Err(error) = part.write_all_at(piece, offset) {
            // Should this fail too, the next piece is written over the rest, and the hash stands over all.
            let _ = part.set_len(offset);
            return Err(failed(error));
        }
        let synced = self.disk.sync_file(&part);
        synced.map_err(|error| UploadError::not_durable(&error))
    }

    /// Verifies every byte of a whole upload.
    pub(super) fn verify(&self, record: &Record) -> Result<(), UploadError> {
        let failed = |error: io::Error| UploadError::io("read what was uploaded", &error);
        let header = &record.block.header;
        let path = self.whole(record);
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut bytes = io::BufReader::with_capacity(READ_LEN, file);
        let found = match verify_stream(&mut bytes, len, header.payload_hash) {
            Ok(found) => found,
            Err(StreamError::Io(error)) => return Err(failed(error)),
            Err(fault) => return Err(UploadError::Payload(fault.to_string())),
        };
        if found == record.tensor() {
            Ok(())
        } else {
            Err(UploadError::tensor(&found, &record.tensor()))
        }
    }

    /// Where the bytes of an upload are once they are all there.
    fn whole(&self, record: &Record) -> PathBuf {
        let part = self.part(record.upload);
        if part.exists() {
            part
        } else {
            self.layout.payload(record.block.header.payload_hash)
        }
    }

    /// Makes a verified part a payload file, under a durable name.
    pub(super) fn publish(&self, id: UploadId, payload: PayloadHash) -> io::Result<()> {
        let part = self.part(id);
        if part.exists() {
            self.disk.rename(&part, &self.layout.payload(payload))?;
        }
        self.disk.sync_dir(&self.layout.payloads())
    }

    /// Removes an upload. The record goes first: bytes without one are removed at the next start.
    pub(super) fn remove(&self, id: UploadId) -> io::Result<()> {
        for path in [self.record(id), self.part(id)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `None` if the bytes are no record, or the block in it does not verify: it did when the upload began, and nobody
/// counts with lengths that no block may have.
fn read_record(path: &std::path::Path) -> io::Result<Option<Record>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(RECORD_LEN_MAX)
        .read_to_end(&mut bytes)?;
    let record: Option<Record> = serde_json::from_slice(&bytes).ok();
    Ok(record.filter(|record| record.block.verify().is_ok()))
}
