//! The ledger on disk: every entry in a RocksDB of its own, and nothing else. Who opens it decides all of them again.

mod wire;

use std::collections::HashSet;
use std::path::Path;

use rocksdb::{
    ColumnFamily, DB, DBRecoveryMode, ErrorKind, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};

use crate::core::{Ledger, Limits, Receipt, Transfer, TransferId};
use crate::{LedgerError, Refusal};
use wire::{Entry, HASH_LEN, Hash};

/// What belongs to the entries and is no transfer: names to bytes, written in the same batch.
const NOTES: &str = "notes";
/// The entries' family.
const ENTRIES: &str = "default";

/// A name and what it stands for from now on.
pub(crate) type Note = (Vec<u8>, Vec<u8>);

/// RocksDB's own log of its doings.
const LOG_FILES_MAX: usize = 4;
const LOG_LEN_MAX: usize = 1 << 20;

/// The ledger of a data directory, open for writing.
///
/// An entry is what was decided at one time, however many asked. It is written in one synced batch before any of them is
/// answered. Entries are numbered, and each one's hash covers the one before.
pub struct LedgerStore {
    db: DB,
    ledger: Ledger,
    /// Of the next entry.
    number: u64,
    /// Of the last one.
    hash: Hash,
    sealed: bool,
}

impl LedgerStore {
    /// Opens the ledger in a folder, which is made where there is none, and decides every entry again.
    ///
    /// # Errors
    /// [`LedgerError::Held`] where another process has it open, [`LedgerError::Damaged`], [`LedgerError::Io`].
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, LedgerError> {
        let families = [ENTRIES, NOTES];
        let db =
            DB::open_cf(&options(), dir, families).map_err(|error| opening_error(dir, &error))?;
        let mut store = Self {
            db,
            ledger: Ledger::new(limits),
            number: 0,
            hash: [0; HASH_LEN],
            sealed: false,
        };
        store.replay()?;
        Ok(store)
    }

    /// After a failed write what is in memory may not be on the disk.
    pub(crate) const fn check_sealed(&self) -> Result<(), LedgerError> {
        if self.sealed {
            return Err(LedgerError::Sealed);
        }
        Ok(())
    }

    /// The accounts and what was decided.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Entries written since the ledger was made.
    pub const fn entries(&self) -> u64 {
        self.number
    }

    /// Every note.
    pub(crate) fn notes(&self) -> Result<Vec<Note>, LedgerError> {
        let stored = self
            .db
            .iterator_cf(self.notes_family()?, IteratorMode::Start);
        let notes =
            stored.map(|note| note.map(|(name, bytes)| (name.into_vec(), bytes.into_vec())));
        notes
            .collect::<Result<_, _>>()
            .map_err(|error| reading_error(&error))
    }

    fn notes_family(&self) -> Result<&ColumnFamily, LedgerError> {
        let family = self.db.cf_handle(NOTES);
        family.ok_or_else(|| LedgerError::Damaged {
            entry: 0,
            why: "the family of notes is missing".to_owned(),
        })
    }

    /// Decides each transfer in turn, as [`Ledger::apply`]; returns once all that was decided anew is durable.
    ///
    /// After an error some or all of it may be durable: the store takes nothing more, and only opening it again tells.
    ///
    /// # Errors
    /// [`LedgerError::Io`]; [`LedgerError::Sealed`] after one.
    pub fn commit(
        &mut self,
        now_s: u64,
        transfers: &[Transfer],
    ) -> Result<Vec<Result<Receipt, Refusal>>, LedgerError> {
        self.commit_with(now_s, transfers, &[])
    }

    /// As [`LedgerStore::commit`], and changes notes together with what was decided anew; where nothing was, no note.
    pub(crate) fn commit_with(
        &mut self,
        now_s: u64,
        transfers: &[Transfer],
        notes: &[Note],
    ) -> Result<Vec<Result<Receipt, Refusal>>, LedgerError> {
        self.check_sealed()?;
        let mut unknown: HashSet<TransferId> = transfers
            .iter()
            .map(|transfer| transfer.id)
            .filter(|id| !self.ledger.has_decided(*id))
            .collect();
        let results = self.ledger.apply(now_s, transfers);
        let is_new = |transfer: &&Transfer| {
            self.ledger.has_decided(transfer.id) && unknown.remove(&transfer.id)
        };
        let transfers: Vec<_> = transfers.iter().filter(is_new).copied().collect();
        if !transfers.is_empty() {
            self.sealed = true;
            self.write(&transfers, notes)?;
            self.sealed = false;
        }
        Ok(results)
    }

    fn write(&mut self, transfers: &[Transfer], notes: &[Note]) -> Result<(), LedgerError> {
        let entry = Entry {
            at_s: self.ledger.now_s(),
            transfers: transfers.to_vec(),
        };
        let (bytes, hash) = entry.encode(&self.hash);
        let mut batch = WriteBatch::default();
        batch.put(self.number.to_be_bytes(), bytes);
        let family = self.notes_family()?;
        for (name, bytes) in notes {
            batch.put_cf(family, name, bytes);
        }
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        let written = self.db.write_opt(batch, &durable);
        written.map_err(|error| LedgerError::io("write an entry", &error))?;
        self.number += 1;
        self.hash = hash;
        Ok(())
    }

    fn replay(&mut self) -> Result<(), LedgerError> {
        for stored in self.db.iterator(IteratorMode::Start) {
            let (key, bytes) = stored.map_err(|error| reading_error(&error))?;
            let damaged = |why| LedgerError::Damaged {
                entry: self.number,
                why,
            };
            if *key != self.number.to_be_bytes() {
                return Err(damaged("an entry is missing".to_owned()));
            }
            let decoded = Entry::decode(&bytes, &self.hash);
            let (entry, hash) = decoded.map_err(|why| damaged(why.to_owned()))?;
            let decided = self.ledger.decided_count();
            self.ledger.apply(entry.at_s, &entry.transfers);
            if self.ledger.decided_count() != decided + entry.transfers.len() {
                return Err(damaged("a transfer was decided before".to_owned()));
            }
            self.number += 1;
            self.hash = hash;
        }
        Ok(())
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // A torn record at the end of the log is a crash; anything else that does not fit its checksum is damage.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Debian's build of 7.8 ends the process at the line after one that its text log could not take.
    options.set_log_level(LogLevel::Fatal);
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options.set_max_log_file_size(LOG_LEN_MAX);
    options
}

fn opening_error(dir: &Path, error: &rocksdb::Error) -> LedgerError {
    let is_held = error.kind() == ErrorKind::IOError && error.as_ref().contains("lock");
    if is_held {
        return LedgerError::Held(dir.to_owned());
    }
    reading_error(error)
}

fn reading_error(error: &rocksdb::Error) -> LedgerError {
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotSupported => LedgerError::Damaged {
            entry: 0,
            why: error.to_string(),
        },
        _ => LedgerError::io("read the ledger", error),
    }
}
