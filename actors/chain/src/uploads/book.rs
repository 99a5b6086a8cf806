use std::collections::HashMap;

use blyan_formats::{BlockHash, PublicKey};

use super::{UploadError, UploadId, UploadsConfig};

/// The time over which a key's uploads are counted.
pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// When to come back where it depends on what others do.
const SOMEBODY_ELSE_MS: u64 = 60_000;

/// What is known of an upload, open or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: UploadId,
    /// Its block.
    pub block: BlockHash,
    /// Who signed that.
    pub key: PublicKey,
    /// Bytes of the whole payload.
    pub len: u64,
    /// When it was begun, ms since 1970.
    pub created_ms: u64,
    /// When bytes came last, ms since 1970.
    pub touched_ms: u64,
    /// Whether its block is on the chain.
    pub stored: bool,
}

/// Which uploads there are, and which may begin. Stored ones stay in it while they count for their key's day.
#[derive(Debug)]
pub struct Book {
    limits: UploadsConfig,
    entries: HashMap<UploadId, Entry>,
    by_block: HashMap<BlockHash, UploadId>,
}

impl Book {
    /// An empty book.
    pub fn new(limits: UploadsConfig) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            by_block: HashMap::new(),
        }
    }

    /// Whether an upload of `len` bytes with a block of `key` may begin.
    ///
    /// # Errors
    /// [`UploadError::TooLong`]; [`UploadError::KeyDay`], [`UploadError::KeyOpen`], [`UploadError::Open`] or
    /// [`UploadError::Room`], checked in this order: what only the key's owner can change comes first.
    pub fn admit(&self, key: &PublicKey, len: u64, now_ms: u64) -> Result<(), UploadError> {
        let limits = &self.limits;
        if len > limits.bytes_max {
            return Err(UploadError::TooLong {
                len,
                len_max: limits.bytes_max,
            });
        }
        self.admit_for_key(key, now_ms)?;
        let (count, bytes) = self.open();
        if count >= limits.open_max {
            return Err(UploadError::Open {
                open_max: limits.open_max,
                retry_after_ms: SOMEBODY_ELSE_MS,
            });
        }
        if bytes.saturating_add(len) > limits.bytes_max {
            return Err(UploadError::Room {
                bytes_max: limits.bytes_max,
                retry_after_ms: SOMEBODY_ELSE_MS,
            });
        }
        Ok(())
    }

    fn admit_for_key(&self, key: &PublicKey, now_ms: u64) -> Result<(), UploadError> {
        let limits = &self.limits;
        let ours = || self.entries.values().filter(|entry| entry.key == *key);
        let today = ours().filter(|entry| counts(entry, now_ms));
        if today.clone().count() >= limits.per_key_per_day {
            let oldest = today.filter(|e| e.stored).map(|e| e.created_ms).min();
            let free_ms = oldest.map_or(now_ms + SOMEBODY_ELSE_MS, |ms| ms + DAY_MS);
            return Err(UploadError::KeyDay {
                per_day: limits.per_key_per_day,
                retry_after_ms: free_ms.saturating_sub(now_ms),
            });
        }
        if ours().filter(|entry| !entry.stored).count() >= limits.open_per_key_max {
            return Err(UploadError::KeyOpen {
                open_max: limits.open_per_key_max,
                retry_after_ms: SOMEBODY_ELSE_MS,
            });
        }
        Ok(())
    }

    /// Open uploads, and the bytes that they will have.
    pub fn open(&self) -> (usize, u64) {
        let open = self.entries.values().filter(|entry| !entry.stored);
        open.fold((0, 0), |(count, bytes), entry| {
            (count + 1, bytes + entry.len)
        })
    }

    /// The open uploads.
    pub fn open_ids(&self) -> Vec<UploadId> {
        let open = self.entries.values().filter(|entry| !entry.stored);
        open.map(|entry| entry.id).collect()
    }

    /// Enters an upload.
    pub fn insert(&mut self, entry: Entry) {
        self.by_block.insert(entry.block, entry.id);
        self.entries.insert(entry.id, entry);
    }

    /// An upload.
    pub fn get(&self, id: UploadId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The upload of a block.
    pub fn of_block(&self, block: BlockHash) -> Option<&Entry> {
        self.entries.get(self.by_block.get(&block)?)
    }

    /// Notes that bytes came.
    pub fn touch(&mut self, id: UploadId, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.touched_ms = now_ms;
        }
    }

    /// Notes that the block is on the chain.
    pub fn mark_stored(&mut self, id: UploadId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stored = true;
        }
    }

    /// Takes an upload out.
    pub fn remove(&mut self, id: UploadId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if self.by_block.get(&entry.block) == Some(&id) {
            self.by_block.remove(&entry.block);
        }
        Some(entry)
    }

    /// Open uploads that were abandoned, and stored ones that count no more.
    pub fn expired(&self, now_ms: u64) -> Vec<UploadId> {
        let over = |entry: &&Entry| {
            let idle_ms = now_ms.saturating_sub(entry.touched_ms);
            match entry.stored {
                true => !counts(entry, now_ms),
                false => idle_ms >= self.limits.expire_ms,
            }
        };
        self.entries.values().filter(over).map(|e| e.id).collect()
    }
}

/// Whether an upload counts for its key's day; an open one does however old it is.
const fn counts(entry: &Entry, now_ms: u64) -> bool {
    !entry.stored || now_ms.saturating_sub(entry.created_ms) < DAY_MS
}
