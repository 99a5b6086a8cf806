use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use blyan_formats::tensorblock::TensorSpec;
use blyan_formats::{BlockHash, SignedBlock};
use parking_lot::Mutex;

use super::files::{Files, Record};
use super::{Book, Entry, UploadError, UploadId, UploadsConfig};
use crate::metrics;
use crate::store::{DataDir, Disk};

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// Its name.
    pub id: UploadId,
    /// Its block.
    pub block: BlockHash,
    /// Bytes that are there, durable.
    pub received: u64,
    /// Bytes of the whole payload.
    pub len: u64,
    /// Whether the block is on the chain.
    pub stored: bool,
}

/// The bytes of one open upload. Who holds the lock may write.
#[derive(Debug, Default)]
struct Part {
    received: u64,
    gone: bool,
}

type SharedPart = Arc<Mutex<Part>>;

/// All uploads of a data directory. The book's lock is never held while a part's is waited for.
pub struct Uploads {
    files: Files,
    state: Mutex<State>,
}

struct State {
    book: Book,
    parts: HashMap<UploadId, SharedPart>,
}

impl State {
    fn enter(&mut self, entry: Entry, received: u64) {
        let part = Part {
            received,
            gone: false,
        };
        self.parts.insert(entry.id, Arc::new(Mutex::new(part)));
        self.book.insert(entry);
        metrics::uploads_open(self.book.open());
    }
}

const fn entry_of(record: &Record, block: BlockHash, touched_ms: u64) -> Entry {
    Entry {
        id: record.upload,
        block,
        key: record.block.header.miner_pub,
        len: record.len(),
        created_ms: record.created_ms,
        touched_ms,
        stored: record.stored,
    }
}

impl Uploads {
    /// Finds the uploads that were open when the last process ended, and removes those that are abandoned.
    ///
    /// # Errors
    /// What the system says of the folder.
    pub fn open(
        layout: DataDir,
        disk: Arc<dyn Disk>,
        config: UploadsConfig,
        now_ms: u64,
    ) -> io::Result<Self> {
        let uploads = Self {
            files: Files::open(layout, disk)?,
            state: Mutex::new(State {
                book: Book::new(config),
                parts: HashMap::new(),
            }),
        };
        for record in uploads.files.scan()? {
            uploads.resume(&record)?;
        }
        uploads.expire(now_ms);
        Ok(uploads)
    }

    fn resume(&self, record: &Record) -> io::Result<()> {
        let (received, touched_ms) = match record.stored {
            true => (record.len(), record.created_ms),
            false => self.files.received(record)?,
        };
        let entry = entry_of(record, record.block.hash(), touched_ms);
        self.state.lock().enter(entry, received);
        Ok(())
    }

    /// Open uploads of which every byte is there: a crash came before their block was appended, or noted.
    pub fn whole(&self) -> Vec<UploadId> {
        let open = self.state.lock().book.open_ids();
        let is_whole = |id: &UploadId| {
            self.status(*id)
                .is_ok_and(|upload| upload.received == upload.len && !upload.stored)
        };
        open.into_iter().filter(is_whole).collect()
    }

    /// Begins an upload of `block`, whose payload must be a `tensor`; an upload of the same block goes on. Returns
    /// whether it is a new one. Once this returns the upload outlives the process.
    ///
    /// # Errors
    /// As [`Book::admit`]; [`UploadError::Io`].
    pub fn begin(
        &self,
        id: UploadId,
        block: &SignedBlock,
        tensor: &TensorSpec,
        now_ms: u64,
    ) -> Result<(UploadStatus, bool), UploadError> {
        let record = Record {
            upload: id,
            created_ms: now_ms,
            stored: false,
            rows: tensor.rows,
            cols: tensor.cols,
            block: block.clone(),
        };
        let entry = entry_of(&record, block.hash(), now_ms);
        if let Some(there) = self.reserve(entry)? {
            return Ok((self.status(there)?, false));
        }
        if let Err(error) = self.files.put(&record, true) {
            self.remove(id)?;
            return Err(UploadError::io("begin the upload", &error));
        }
        Ok((self.status(id)?, true))
    }

    /// Looks and enters under one lock: of two requests for the same room one is refused.
    fn reserve(&self, entry: Entry) -> Result<Option<UploadId>, UploadError> {
        let mut state = self.state.lock();
        if let Some(there) = state.book.of_block(entry.block) {
            return Ok(Some(there.id));
        }
        state.book.admit(&entry.key, entry.len, entry.created_ms)?;
        state.enter(entry, 0);
        Ok(None)
    }

    /// The upload of a block, open or stored.
    pub fn of_block(&self, block: BlockHash) -> Option<UploadStatus> {
        let id = self.state.lock().book.of_block(block)?.id;
        self.status(id).ok()
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// [`UploadError::NotFound`].
    pub fn status(&self, id: UploadId) -> Result<UploadStatus, UploadError> {
        let (_, part) = self.find(id)?;
        let received = part.lock().received;
        // Once more: it may have been stored, or have gone, meanwhile.
        let (entry, _) = self.find(id)?;
        Ok(UploadStatus {
            id,
            block: entry.block,
            received,
            len: entry.len,
            stored: entry.stored,
        })
    }

    fn find(&self, id: UploadId) -> Result<(Entry, SharedPart), UploadError> {
        let state = self.state.lock();
        let found = state.book.get(id).zip(state.parts.get(&id));
        let found = found.map(|(entry, part)| (*entry, Arc::clone(part)));
        found.ok_or(UploadError::NotFound(id))
    }

    /// Appends a piece that begins at `offset`. Once this returns the piece is durable. An empty piece at the end
    /// changes nothing.
    ///
    /// # Errors
    /// [`UploadError::Offset`], [`UploadError::Overrun`]; [`UploadError::Io`]: nothing of the piece was taken;
    /// [`UploadError::NotDurable`]: the upload is gone.
    pub fn write(
        &self,
        id: UploadId,
        offset: u64,
        piece: &[u8],
        now_ms: u64,
    ) -> Result<UploadStatus, UploadError> {
        let (entry, part) = self.find(id)?;
        let mut part = part.lock();
        let written = self.write_part(&entry, &mut part, offset, piece);
        if let Err(error @ UploadError::NotDurable { .. }) = written {
            self.discard(id, &mut part);
            return Err(error);
        }
        written?;
        drop(part);
        self.state.lock().book.touch(id, now_ms);
        metrics::upload_bytes(piece.len());
        self.status(id)
    }

    fn write_part(
        &self,
        entry: &Entry,
        part: &mut Part,
        offset: u64,
        piece: &[u8],
    ) -> Result<(), UploadError> {
        if part.gone {
            return Err(UploadError::NotFound(entry.id));
        }
        let received = part.received;
        if offset != received {
            return Err(UploadError::Offset { received, offset });
        }
        let end = offset.saturating_add(piece.len() as u64);
        if end > entry.len {
            let len = entry.len;
            return Err(UploadError::Overrun { len, end });
        }
        if !piece.is_empty() {
            self.files.append(entry.id, offset, piece)?;
            part.received = end;
        }
        Ok(())
    }

    /// Verifies a whole upload and makes its part a payload file; returns the block that is now to be appended. May be
    /// repeated until [`Uploads::stored`].
    ///
    /// # Errors
    /// [`UploadError::Unfinished`]; [`UploadError::Payload`], [`UploadError::Tensor`], [`UploadError::NotDurable`]: the
    /// upload is gone; [`UploadError::Io`].
    pub fn publish(&self, id: UploadId) -> Result<SignedBlock, UploadError> {
        let (entry, part) = self.find(id)?;
        let mut part = part.lock();
        if part.gone {
            return Err(UploadError::NotFound(id));
        }
        let (received, len) = (part.received, entry.len);
        if received != len {
            return Err(UploadError::Unfinished { received, len });
        }
        let record = self.files.get(id);
        let record = record.map_err(|error| UploadError::io("read the upload's record", &error))?;
        if let Err(error) = self.files.verify(&record) {
            if !matches!(error, UploadError::Io { .. }) {
                self.discard(id, &mut part);
            }
            return Err(error);
        }
        if let Err(error) = self.files.publish(id, record.block.header.payload_hash) {
            // A second sync that succeeds would say nothing of the first.
            self.discard(id, &mut part);
            return Err(UploadError::not_durable(&error));
        }
        Ok(record.block)
    }

    /// Notes that the block is on the chain. A crash before that is found out at the next start.
    ///
    /// # Errors
    /// [`UploadError::NotFound`], [`UploadError::Io`].
    pub fn stored(&self, id: UploadId) -> Result<UploadStatus, UploadError> {
        let (_, part) = self.find(id)?;
        let part = part.lock();
        let noted = self.files.get(id).and_then(|mut record| {
            record.stored = true;
            self.files.put(&record, false)
        });
        noted.map_err(|error| UploadError::io("note that the upload is stored", &error))?;
        drop(part);
        let mut state = self.state.lock();
        state.book.mark_stored(id);
        metrics::uploads_open(state.book.open());
        metrics::upload_stored();
        drop(state);
        self.status(id)
    }

    /// Removes an upload and its bytes; a block that is stored stays on the chain.
    ///
    /// # Errors
    /// [`UploadError::NotFound`].
    pub fn remove(&self, id: UploadId) -> Result<(), UploadError> {
        let (_, part) = self.find(id)?;
        self.discard(id, &mut part.lock());
        Ok(())
    }

    /// Removes what was abandoned, and stored uploads that count for no key any more. Returns how many.
    pub fn expire(&self, now_ms: u64) -> usize {
        let expired = self.state.lock().book.expired(now_ms);
        let removed = expired.iter().filter(|id| self.remove(**id).is_ok());
        removed.count()
    }

    fn discard(&self, id: UploadId, part: &mut Part) {
        part.gone = true;
        self.forget(id);
        if let Err(error) = self.files.remove(id) {
            tracing::warn!(%error, upload = ?id, "an upload's files are not removed; the next start does it");
        }
    }

    fn forget(&self, id: UploadId) {
        let mut state = self.state.lock();
        state.book.remove(id);
        state.parts.remove(&id);
        metrics::uploads_open(state.book.open());
    }
}
