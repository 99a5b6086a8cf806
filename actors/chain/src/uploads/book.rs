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
            let free_ms = oldest.map_or(now_ms + SOMEBODY_ELSE_MS, |ms| ms.saturating_add(DAY_MS));
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

#[cfg(test)]
mod tests {
    use blyan_formats::NodeKey;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> PublicKey {
        NodeKey::from_secret_bytes([number; 32])
            .unwrap()
            .public_key()
    }

    fn entry(number: u8, key: PublicKey, len: u64, now_ms: u64) -> Entry {
        Entry {
            id: UploadId::from_random([number; 16]),
            block: BlockHash::from_bytes([number; 32]),
            key,
            len,
            created_ms: now_ms,
            touched_ms: now_ms,
            stored: false,
        }
    }

    fn limits() -> UploadsConfig {
        UploadsConfig {
            open_max: 3,
            open_per_key_max: 2,
            bytes_max: 100,
            per_key_per_day: 4,
            expire_ms: 1000,
            ..UploadsConfig::default()
        }
    }

    #[test]
    fn each_bound_is_named() {
        let mut book = Book::new(limits());
        let too_long = book.admit(&key(1), 101, 0);
        assert!(matches!(
            too_long,
            Err(UploadError::TooLong { len_max: 100, .. })
        ));
        book.insert(entry(1, key(1), 40, 0));
        book.insert(entry(2, key(1), 40, 0));
        assert!(matches!(
            book.admit(&key(1), 1, 0),
            Err(UploadError::KeyOpen { open_max: 2, .. })
        ));
        assert!(matches!(
            book.admit(&key(2), 21, 0),
            Err(UploadError::Room { .. })
        ));
        assert!(book.admit(&key(2), 20, 0).is_ok());
        book.insert(entry(3, key(2), 20, 0));
        assert!(matches!(
            book.admit(&key(3), 1, 0),
            Err(UploadError::Open { open_max: 3, .. })
        ));
        book.mark_stored(UploadId::from_random([1; 16]));
        assert!(
            book.admit(&key(1), 40, 0).is_ok(),
            "what is stored needs no room"
        );
    }

    #[test]
    fn a_key_s_day_ends_when_its_oldest_stored_upload_is_a_day_old() {
        let mut book = Book::new(limits());
        for number in 1..=4 {
            book.insert(entry(number, key(1), 1, u64::from(number)));
            book.mark_stored(UploadId::from_random([number; 16]));
        }
        let refused = book.admit(&key(1), 1, 10).unwrap_err();
        let UploadError::KeyDay { retry_after_ms, .. } = refused else {
            panic!("{refused}");
        };
        assert!(book.admit(&key(2), 1, 10).is_ok());
        assert!(book.admit(&key(1), 1, 10 + retry_after_ms - 1).is_err());
        assert!(book.admit(&key(1), 1, 10 + retry_after_ms).is_ok());
        assert_eq!(
            book.expired(10 + retry_after_ms),
            [UploadId::from_random([1; 16])]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_expires_nothing() {
        let mut book = Book::new(limits());
        book.insert(entry(1, key(1), 1, 5000));
        assert!(book.expired(0).is_empty());
        assert!(book.expired(5999).is_empty());
        assert_eq!(book.expired(6000).len(), 1);
        book.touch(UploadId::from_random([1; 16]), 5500);
        assert!(book.expired(6000).is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin { key: u8, len: u64 },
        Store(prop::sample::Index),
        Remove(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..4_u8, 0..120_u64).prop_map(|(key, len)| Step::Begin { key, len }),
            2 => any::<prop::sample::Index>().prop_map(Step::Store),
            1 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => (0..DAY_MS).prop_map(Step::Wait),
        ]
    }

    /// Whether the bounds leave room, by a count over a plain list.
    fn leaves_room(all: &[Entry], key: PublicKey, len: u64, now_ms: u64) -> bool {
        let open = all.iter().filter(|entry| !entry.stored);
        let ours = open.clone().filter(|entry| entry.key == key).count();
        let young = |entry: &&Entry| now_ms - entry.created_ms < DAY_MS;
        let stored = all.iter().filter(|entry| entry.stored && entry.key == key);
        let bytes: u64 = open.clone().map(|entry| entry.len).sum();
        ours + stored.filter(young).count() < 4
            && ours < 2
            && open.count() < 3
            && bytes + len <= 100
    }

    proptest! {
        #[test]
        fn the_book_agrees_with_a_plain_list(steps in prop::collection::vec(step(), 1..60)) {
            let (mut book, mut all, mut now_ms) = (Book::new(limits()), Vec::<Entry>::new(), 0);
            for (number, step) in (0_u8..).zip(steps) {
                let open: Vec<usize> = (0..all.len()).filter(|at| !all[*at].stored).collect();
                match step {
                    Step::Begin { key: signer, len } => {
                        let admitted = book.admit(&key(signer), len, now_ms).is_ok();
                        prop_assert_eq!(admitted, leaves_room(&all, key(signer), len, now_ms));
                        if admitted {
                            all.push(entry(number, key(signer), len, now_ms));
                            book.insert(all[all.len() - 1]);
                        }
                    }
                    Step::Store(at) if !open.is_empty() => {
                        let at = *at.get(&open);
                        all[at].stored = true;
                        book.mark_stored(all[at].id);
                    }
                    Step::Remove(at) if !all.is_empty() => {
                        let gone = all.swap_remove(at.index(all.len()));
                        prop_assert_eq!(book.remove(gone.id), Some(gone));
                        prop_assert!(book.of_block(gone.block).is_none());
                    }
                    Step::Wait(ms) => now_ms += ms,
                    Step::Store(_) | Step::Remove(_) => {}
                }
                prop_assert!(all.iter().all(|entry| book.of_block(entry.block) == Some(entry)));
            }
        }
    }
}
