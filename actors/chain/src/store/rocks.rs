use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};

use super::leftovers::finish_interrupted;
use super::{
    Batch, DataDir, Disk, Family, Need, PayloadDir, RealDisk, Room, Store, TempPayloads, Visit,
    WriteToken,
};
use crate::ChainError;

/// How long a write or a new generation waits for a write of the generation before.
pub const WRITE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Version of the layout of the database, under [`LAYOUT_KEY`].
const LAYOUT_VERSION: &[u8] = b"1";
const LAYOUT_KEY: &[u8] = b"layout";

/// Bytes of a column family that are kept in memory before they are written to a table file.
const WRITE_BUFFER_LEN: usize = 8 << 20;
const LOG_LEN_MAX: usize = 1 << 20;
const LOG_FILES_MAX: usize = 2;

/// How long a read-only opening waits for a moment in which the running node does not change files.
const READ_ONLY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often [`RocksStore::close`] looks.
const CLOSE_TICK: Duration = Duration::from_millis(5);

/// A file that is no folder: RocksDB gives up its log when told to put it below this.
const NO_LOG_DIR: &str = "/dev/null";

/// The chain's database and payload files in one data directory.
pub struct RocksStore {
    db: DB,
    payloads: PayloadDir,
    disk: Arc<dyn Disk>,
    fence: Mutex<Fence>,
    /// Records whose sync failed: read as absent.
    doubtful: RwLock<BTreeSet<(Family, Vec<u8>)>>,
    /// Held for as long as this process may write; `None` when opened for reading.
    lock: Option<File>,
}

/// Who may write.
struct Fence {
    current: u64,
    /// Why nothing may be written any more.
    sealed: Option<ChainError>,
}

impl RocksStore {
    /// Opens the store for writing, makes what is not there yet, removes unfinished payload files and takes back
    /// records whose sync had failed.
    ///
    /// # Errors
    /// [`ChainError::Held`] if another process has it open for writing; [`ChainError::Damaged`] if the database
    /// fails its checksums; [`ChainError::DiskFull`]; [`ChainError::Io`]; [`ChainError::NotDurable`].
    pub fn open(layout: DataDir) -> Result<Self, ChainError> {
        Self::open_with(layout, Arc::new(RealDisk))
    }

    /// As [`RocksStore::open`], with the calls on which durability stands made by `disk`.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_with(layout: DataDir, disk: Arc<dyn Disk>) -> Result<Self, ChainError> {
        make_folders(&layout).map_err(|error| ChainError::io("make the data directory", error))?;
        Room::new(layout.root()).check_opening()?;
        let lock = take_lock(&layout)?;
        finish_interrupted(&layout)?;
        let db = DB::open_cf_with_opts(&writer_options(), layout.db(), families())
            .map_err(|error| database_error("open the database", &error))?;
        let doubtful = read_doubtful(&layout)?;
        let store = Self::new(db, layout, disk, Some(lock));
        store.sync_root()?;
        store.check_layout(true)?;
        store.take_back(doubtful)?;
        let TempPayloads { files, bytes } = store.payloads.clean_temp()?;
        if files > 0 {
            tracing::info!(
                files,
                bytes,
                "removed unfinished payload files of an interrupted import"
            );
        }
        Ok(store)
    }

    /// Opens the store as it is now for reading, also beside a running node. Nothing in the directory is changed.
    ///
    /// # Errors
    /// [`ChainError::NoChain`] if there is no store yet, [`ChainError::Busy`] if the running node did not leave the
    /// files alone for a moment, [`ChainError::Damaged`], [`ChainError::Io`].
    pub fn open_read_only(layout: DataDir) -> Result<Self, ChainError> {
        if layout.restoring().exists() {
            return Err(ChainError::Busy);
        }
        if !layout.db().join("CURRENT").is_file() || !layout.payloads().is_dir() {
            return Err(ChainError::NoChain(layout.root().to_owned()));
        }
        let db = open_db_read_only(&layout)?;
        let doubtful = read_doubtful(&layout)?;
        let store = Self::new(db, layout, Arc::new(RealDisk), None);
        store.check_layout(false)?;
        *store.doubtful.write() = doubtful;
        Ok(store)
    }

    fn new(db: DB, layout: DataDir, disk: Arc<dyn Disk>, lock: Option<File>) -> Self {
        Self {
            db,
            payloads: PayloadDir::new(layout, Arc::clone(&disk)),
            disk,
            fence: Mutex::new(Fence {
                current: 0,
                sealed: None,
            }),
            doubtful: RwLock::default(),
            lock,
        }
    }

    /// Closes the store once nobody else holds it, and waits for that at most `within`; false if somebody still
    /// does. The process must not end while a thread is in the database: C++ destroys its locks on the way out.
    pub fn close(mut store: Arc<Self>, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match Arc::try_unwrap(store) {
                Ok(store) => {
                    drop(store);
                    return true;
                }
                Err(held) => store = held,
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::park_timeout(CLOSE_TICK);
        }
    }

    /// The data directory.
    pub fn layout(&self) -> &DataDir {
        self.payloads.layout()
    }

    /// Whether this process may write to the store.
    pub const fn is_writable(&self) -> bool {
        self.lock.is_some()
    }

    /// Makes a copy of the database as it is at one moment, in a folder that is not there yet.
    pub(crate) fn checkpoint(&self, to: &Path) -> Result<(), ChainError> {
        if let Some(sealed) = &self.fence.lock().sealed {
            return Err(sealed.clone());
        }
        self.payloads.room().check(Need::Growth)?;
        let made =
            Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
        made.map_err(|error| database_error("make a checkpoint of the database", &error))
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Makes the names of the folders durable before anything in them is.
    fn sync_root(&self) -> Result<(), ChainError> {
        let synced = self.disk.sync_dir(self.layout().root());
        synced.map_err(|error| ChainError::not_durable("the data directory", &error))
    }

    fn check_layout(&self, may_write: bool) -> Result<(), ChainError> {
        match self.get(Family::Meta, LAYOUT_KEY)? {
            Some(version) if version == LAYOUT_VERSION => Ok(()),
            Some(version) => {
                let version = String::from_utf8_lossy(&version).into_owned();
                Err(ChainError::Damaged(format!(
                    "its layout {version:?} is not one that this program knows"
                )))
            }
            None if may_write => self.write_layout(),
            None => Err(ChainError::NoChain(self.layout().root().to_owned())),
        }
    }

    fn write_layout(&self) -> Result<(), ChainError> {
        let mut batch = Batch::default();
        batch.put(Family::Meta, LAYOUT_KEY, LAYOUT_VERSION);
        self.write_synced(&batch)
            .map_err(|error| ChainError::not_durable("the store's layout", &error))
    }

    /// Removes records whose sync failed in an earlier process, then the note about them.
    fn take_back(&self, doubtful: BTreeSet<(Family, Vec<u8>)>) -> Result<(), ChainError> {
        if doubtful.is_empty() {
            return Ok(());
        }
        let mut removal = WriteBatch::default();
        for (family, key) in &doubtful {
            removal.delete_cf(self.family(*family)?, key);
        }
        let written = self.write_rocks(removal);
        written
            .map_err(|error| ChainError::not_durable("the removal of unsynced records", &error))?;
        tracing::warn!(
            records = doubtful.len(),
            "took back records whose sync had failed"
        );
        let removed = fs::remove_file(self.layout().doubtful());
        let synced = removed.and_then(|()| self.disk.sync_dir(self.layout().root()));
        synced.map_err(|error| ChainError::not_durable("the end of a recovery", &error))
    }

    fn family(&self, family: Family) -> Result<&rocksdb::ColumnFamily, ChainError> {
        let handle = self.db.cf_handle(family.name());
        handle.ok_or_else(|| {
            ChainError::Damaged(format!("it has no column family {}", family.name()))
        })
    }

    fn write_synced(&self, batch: &Batch) -> io::Result<()> {
        let mut writes = WriteBatch::default();
        for put in batch.puts() {
            let family = self.family(put.family).map_err(io::Error::other)?;
            writes.put_cf(family, &put.key, &put.value);
        }
        self.write_rocks(writes)
    }

    fn write_rocks(&self, writes: WriteBatch) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let mut writes = Some(writes);
        self.disk.write_batch(&mut || {
            let writes = writes
                .take()
                .ok_or_else(|| io::Error::other("the batch was written before"))?;
            self.db
                .write_opt(writes, &options)
                .map_err(io::Error::other)
        })
    }

    fn check_room(&self, batch: &Batch) -> Result<(), ChainError> {
        let need = if batch.publishes() {
            Need::Growth
        } else {
            Need::Receipts
        };
        self.payloads.room().check(need)
    }

    /// Payload files get their names made durable before the headers that name them are written.
    fn write_durably(&self, batch: &Batch) -> Result<(), ChainError> {
        if batch.publishes() {
            self.payloads.sync_names()?;
        }
        let written = self.write_synced(batch);
        written.map_err(|error| {
            self.doubt(batch);
            ChainError::not_durable("a batch of the database", &error)
        })
    }

    /// A batch whose sync failed may still come back from the log: its blocks are noted, read as absent, and taken
    /// back at the next opening.
    fn doubt(&self, batch: &Batch) {
        let published = batch.puts().iter().filter(|put| put.family.publishes());
        let keys: BTreeSet<_> = published.map(|put| (put.family, put.key.clone())).collect();
        if let Err(error) = note_doubtful(self.layout(), &keys) {
            tracing::error!(%error, "could not note which records were not synced");
        }
        self.doubtful.write().extend(keys);
    }

    fn is_doubtful(&self, family: Family, key: &[u8]) -> bool {
        let doubtful = self.doubtful.read();
        !doubtful.is_empty() && doubtful.contains(&(family, key.to_vec()))
    }

    /// Writes what is in memory to table files, so that a stopped store has an empty log. Without it nothing is
    /// lost: the log is replayed.
    fn flush(&self) {
        for family in Family::ALL {
            let flushed = self.family(family).map(|handle| self.db.flush_cf(handle));
            if let Ok(Err(error)) = flushed {
                tracing::warn!(%error, family = family.name(), "the database was not flushed; its log is kept");
                return;
            }
        }
    }
}

impl Store for RocksStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ChainError> {
        if self.is_doubtful(family, key) {
            return Ok(None);
        }
        let value = self.db.get_cf(self.family(family)?, key);
        value.map_err(|error| database_error("read the database", &error))
    }

    fn scan(&self, family: Family, from: &[u8], visit: Visit<'_>) -> Result<(), ChainError> {
        let mode = IteratorMode::From(from, Direction::Forward);
        for record in self.db.iterator_cf(self.family(family)?, mode) {
            let (key, value) =
                record.map_err(|error| database_error("read the database", &error))?;
            if !self.is_doubtful(family, &key) && visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, token: WriteToken, batch: &Batch) -> Result<(), ChainError> {
        let mut fence = self
            .fence
            .try_lock_for(WRITE_WAIT_MAX)
            .ok_or(ChainError::Busy)?;
        if let Some(sealed) = &fence.sealed {
            return Err(sealed.clone());
        }
        self.check_room(batch)?;
        if token.generation() != fence.current {
            return Err(ChainError::Fenced {
                held: token.generation(),
                current: fence.current,
            });
        }
        self.write_durably(batch).inspect_err(|error| {
            tracing::error!(%error, "the store takes no further writes");
            fence.sealed = Some(error.clone());
        })
    }

    fn begin_generation(&self) -> Result<WriteToken, ChainError> {
        if !self.is_writable() {
            return Err(ChainError::ReadOnly);
        }
        let mut fence = self
            .fence
            .try_lock_for(WRITE_WAIT_MAX)
            .ok_or(ChainError::Busy)?;
        if let Some(sealed) = &fence.sealed {
            return Err(sealed.clone());
        }
        fence.current += 1;
        Ok(WriteToken::of_generation(fence.current))
    }

    fn payloads(&self) -> &PayloadDir {
        &self.payloads
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        let sealed = self.fence.get_mut().sealed.is_some();
        if self.lock.is_some() && !sealed {
            self.flush();
        }
        self.db.cancel_all_background_work(true);
    }
}

fn make_folders(layout: &DataDir) -> io::Result<()> {
    fs::create_dir_all(layout.payloads())?;
    fs::create_dir_all(layout.cache())
}

pub(crate) fn take_lock(layout: &DataDir) -> Result<File, ChainError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(layout.lock());
    let file = opened.map_err(|error| ChainError::io("open the lock file", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ChainError::Held(layout.root().to_owned())),
        Err(TryLockError::Error(error)) => Err(ChainError::io("lock the data directory", error)),
    }
}

fn families() -> impl Iterator<Item = (&'static str, Options)> {
    Family::ALL.into_iter().map(|family| {
        let mut options = Options::default();
        options.set_write_buffer_size(WRITE_BUFFER_LEN);
        (family.name(), options)
    })
}

fn common_options() -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    // A torn record at the end of the log is a crash; anything else that does not fit its checksum is damage.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // What goes wrong comes back from the calls. Where RocksDB cannot write a line about it into its LOG, Debian's build
    // of 7.8 ends the process at the line after. At this level there is none but those of the opening.
    options.set_log_level(LogLevel::Fatal);
    options
}

fn writer_options() -> Options {
    let mut options = common_options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options.set_max_log_file_size(LOG_LEN_MAX);
    options
}

/// RocksDB reads the manifest, then the logs, and takes no lock: where the running node moves a log to a table file in
/// between, both halves are missed. So what was opened counts only if the folder did not change meanwhile.
fn open_db_read_only(layout: &DataDir) -> Result<DB, ChainError> {
    let mut options = common_options();
    options.set_db_log_dir(NO_LOG_DIR);
    let deadline = Instant::now() + READ_ONLY_WAIT_MAX;
    loop {
        let before = file_set(layout);
        let opened = DB::open_cf_with_opts_for_read_only(&options, layout.db(), families(), false);
        if let (Ok(before), Ok(after)) = (&before, file_set(layout))
            && *before == after
        {
            return opened.map_err(|error| read_only_error(layout, &error));
        }
        if Instant::now() > deadline {
            return Err(ChainError::Busy);
        }
    }
}

/// The files that say which state the database is in: a flush makes a manifest longer before it removes a log.
fn file_set(layout: &DataDir) -> io::Result<BTreeSet<(OsString, u64)>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(layout.db())? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("MANIFEST") {
            files.insert((name, entry.metadata()?.len()));
        } else if text.ends_with(".log") || text == "CURRENT" {
            files.insert((name, 0));
        }
    }
    Ok(files)
}

/// A store whose making was interrupted lacks column families.
fn read_only_error(layout: &DataDir, error: &rocksdb::Error) -> ChainError {
    match error.kind() {
        ErrorKind::InvalidArgument => ChainError::NoChain(layout.root().to_owned()),
        _ => database_error("open the database for reading", error),
    }
}

fn database_error(what: &'static str, error: &rocksdb::Error) -> ChainError {
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotSupported => ChainError::Damaged(error.to_string()),
        _ => ChainError::Io {
            what,
            why: error.to_string(),
        },
    }
}

/// Adds to the note of unsynced records: one line a record, the family's name and the key in hex.
fn note_doubtful(layout: &DataDir, keys: &BTreeSet<(Family, Vec<u8>)>) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.doubtful())?;
    for (family, key) in keys {
        writeln!(file, "{} {}", family.name(), hex::encode(key))?;
    }
    file.sync_all()
}

fn read_doubtful(layout: &DataDir) -> Result<BTreeSet<(Family, Vec<u8>)>, ChainError> {
    let text = match fs::read_to_string(layout.doubtful()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(ChainError::io("read the note of unsynced records", error)),
    };
    Ok(text.lines().filter_map(parse_doubtful).collect())
}

/// A line that was torn by a crash names nothing.
fn parse_doubtful(line: &str) -> Option<(Family, Vec<u8>)> {
    let (name, key) = line.split_once(' ')?;
    let family = Family::ALL
        .into_iter()
        .find(|family| family.name() == name)?;
    Some((family, hex::decode(key).ok()?))
}
