//! A tile on disk: a base, and the chain of deltas and steps since.
//!
//! `base-<version>` is the tile at a version, `chain-<version>` what happened since. A delta is acknowledged when its record is
//! synced, so it is counted once whatever ends the process: opening replays the chain, and a delta that is sent again is
//! refused by its id, or by its base once the step is made. When the chain is long the present state is written as a
//! new base (TILE-27), and the old files go once it is durable.

mod base;
mod chain;
mod error;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use error::StoreError;

use base::{State, hash_of};
use chain::{Chain, Record};

use crate::core::{AdamWConfig, DeltaId, Round, decode};
use crate::error::TileError;

/// Steps of a chain before it is compacted.
const CHAIN_STEPS_MAX: u32 = 10;
/// A chain is compacted, too, when it takes more than one byte for so many of the tile's weights.
const CHAIN_SHARE: u64 = 2;
/// And when its steps took longer to make again.
const OPENING_MAX: Duration = Duration::from_millis(50);

const BASE: &str = "base-";
const CHAIN: &str = "chain-";
const LOCK: &str = "lock";
const UNFINISHED: &str = "unfinished";

/// A tile's one owner: its weights, its optimiser, and the deltas of the round under way.
#[derive(Debug)]
pub struct TileStore {
    dir: PathBuf,
    state: State,
    round: Round,
    chain: Chain,
    /// In the chain.
    steps: u32,
    /// Its steps took long to make again, so the next one is the chain's last.
    slow: bool,
    sealed: bool,
    /// Held for as long as the tile is open.
    _lock: File,
}

impl TileStore {
    /// Makes a tile of these weights in a folder, which is made where there is none, at version 0.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Held`], [`StoreError::Refused`] without a weight or with one that is not
    /// finite, [`StoreError::Io`].
    pub fn create(dir: &Path, weights: &[f32]) -> Result<Self, StoreError> {
        if weights.is_empty() {
            return Err(TileError::Empty("the tile").into());
        }
        crate::core::check_finite(weights)?;
        fs::create_dir_all(dir).map_err(StoreError::io("make the tile's folder"))?;
        let lock = take_lock(dir)?;
        if newest_base(dir)?.is_some() {
            return Err(StoreError::Exists(dir.to_owned()));
        }
        write_base(dir, &State::first(weights))?;
        Self::open_locked(dir, lock)
    }

    /// Opens the tile in a folder as its last owner left it, however that one ended.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Held`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        if !dir.is_dir() {
            return Err(StoreError::Missing(dir.to_owned()));
        }
        let lock = take_lock(dir)?;
        Self::open_locked(dir, lock)
    }

    fn open_locked(dir: &Path, lock: File) -> Result<Self, StoreError> {
        let version = newest_base(dir)?.ok_or_else(|| StoreError::Missing(dir.to_owned()))?;
        let (state, hash) = read_base(dir, version)?;
        let path = named(dir, CHAIN, version);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open the chain"))?;
        sync_dir(dir).map_err(StoreError::io("sync the tile's folder"))?;
        let began = Instant::now();
        let found = chain::read(&mut file, hash).map_err(StoreError::io("read the chain"))?;
        let damaged = |why| StoreError::Damaged { file: path, why };
        let found = match found {
            Ok(found) => found,
            Err(why) => return Err(damaged(why)),
        };
        let replayed = Replayed::of(state, &found.records).map_err(damaged)?;
        let chain = Chain::resume(file, &found).map_err(StoreError::io("cut the chain"))?;
        remove_others(dir, version).map_err(StoreError::io("remove an old base"))?;
        Ok(Self {
            dir: dir.to_owned(),
            state: replayed.state,
            round: replayed.round,
            chain,
            steps: replayed.steps,
            slow: replayed.steps > 0 && began.elapsed() > OPENING_MAX,
            sealed: false,
            _lock: lock,
        })
    }

    /// Steps made since the tile was made.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.state.version
    }

    /// The weights at that version.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.state.weights
    }

    /// The deltas that the next step will count.
    #[must_use]
    pub const fn round(&self) -> &Round {
        &self.round
    }

    /// Takes a learner's delta, as [`encode`](crate::encode) wrote it; returns once it is durable.
    ///
    /// # Errors
    /// [`StoreError::Refused`] as [`decode`] and [`Round::accept`]; [`StoreError::Sealed`], [`StoreError::Io`].
    pub fn accept(&mut self, delta: &[u8]) -> Result<DeltaId, StoreError> {
        self.check_sealed()?;
        let decoded = decode(delta, self.state.weights.len())?;
        self.round.accept(&decoded)?;
        self.append(&Record::Delta(delta.to_vec()))?;
        Ok(decoded.id)
    }

    /// Moves the weights by the mean of the round's deltas and begins the next round; returns the new version once it is
    /// durable.
    ///
    /// # Errors
    /// [`StoreError::Refused`] without a delta, with a setting out of its range, or where a weight would not be finite;
    /// [`StoreError::Sealed`], [`StoreError::Io`].
    pub fn step(&mut self, config: &AdamWConfig) -> Result<u64, StoreError> {
        self.check_sealed()?;
        let next = after_step(&self.state, &self.round, config)?;
        let state = hash_of(&next.to_bytes());
        self.append(&Record::Step {
            config: *config,
            state,
        })?;
        self.round = Round::new(next.version, next.weights.len());
        self.state = next;
        self.steps += 1;
        if self.is_long() {
            self.compact()?;
        }
        Ok(self.state.version)
    }

    fn is_long(&self) -> bool {
        let tile_bytes = size_of_val(&*self.state.weights) as u64;
        self.slow || self.steps >= CHAIN_STEPS_MAX || self.chain.bytes() > tile_bytes / CHAIN_SHARE
    }

    /// Only right after a step: the new chain begins with an empty round.
    fn compact(&mut self) -> Result<(), StoreError> {
        self.sealed = true;
        let version = self.state.version;
        write_base(&self.dir, &self.state)?;
        let doing = StoreError::io("begin a chain");
        let hash = hash_of(&self.state.to_bytes());
        self.chain = new_chain(&self.dir, version, hash).map_err(doing)?;
        let removed = remove_others(&self.dir, version);
        removed.map_err(StoreError::io("remove an old base"))?;
        (self.steps, self.slow, self.sealed) = (0, false, false);
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let appended = self.chain.append(record);
        self.sealed = appended.is_err();
        appended.map_err(StoreError::io("write to the chain"))
    }

    const fn check_sealed(&self) -> Result<(), StoreError> {
        if self.sealed {
            return Err(StoreError::Sealed);
        }
        Ok(())
    }
}

/// A base with its chain applied.
struct Replayed {
    state: State,
    round: Round,
    steps: u32,
}

impl Replayed {
    fn of(state: State, records: &[Record]) -> Result<Self, &'static str> {
        let mut replayed = Self {
            round: Round::new(state.version, state.weights.len()),
            state,
            steps: 0,
        };
        records
            .iter()
            .try_for_each(|record| replayed.apply(record))?;
        Ok(replayed)
    }

    fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Delta(bytes) => {
                let delta = decode(bytes, self.state.weights.len());
                let accepted = delta.and_then(|delta| self.round.accept(&delta));
                accepted.map_err(|_| "a delta in it is none of this tile")
            }
            Record::Step { config, state } => {
                let next = after_step(&self.state, &self.round, config);
                let next = next.map_err(|_| "a step in it cannot be made")?;
                if hash_of(&next.to_bytes()) != *state {
                    return Err("a step leads to another state than it did");
                }
                self.round = Round::new(next.version, next.weights.len());
                self.state = next;
                self.steps += 1;
                Ok(())
            }
        }
    }
}

fn after_step(state: &State, round: &Round, config: &AdamWConfig) -> Result<State, TileError> {
    let mut next = state.clone();
    next.optimiser
        .step(config, &mut next.weights, &round.mean()?)?;
    crate::core::check_finite(&next.weights)?;
    next.version += 1;
    Ok(next)
}

fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = options
        .open(dir.join(LOCK))
        .map_err(StoreError::io("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Held(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(StoreError::Io {
            doing: "lock the tile",
            source,
        }),
    }
}

fn named(dir: &Path, kind: &str, version: u64) -> PathBuf {
    dir.join(format!("{kind}{version:016x}"))
}

/// The highest version that a base in the folder has by its name.
fn newest_base(dir: &Path) -> Result<Option<u64>, StoreError> {
    let newest = || -> io::Result<Option<u64>> {
        let mut newest = None;
        for entry in fs::read_dir(dir)? {
            newest = newest.max(version_of(&entry?.file_name().to_string_lossy(), BASE));
        }
        Ok(newest)
    };
    newest().map_err(StoreError::io("read the tile's folder"))
}

fn version_of(name: &str, kind: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(kind)?, 16).ok()
}

fn read_base(dir: &Path, version: u64) -> Result<(State, [u8; 32]), StoreError> {
    let file = named(dir, BASE, version);
    let bytes = fs::read(&file).map_err(StoreError::io("read the base"))?;
    let state = match State::from_bytes(&bytes) {
        Ok(state) if state.version == version => state,
        Ok(_) => {
            let why = "it is of another version than its name says";
            return Err(StoreError::Damaged { file, why });
        }
        Err(why) => return Err(StoreError::Damaged { file, why }),
    };
    Ok((state, hash_of(&bytes)))
}

/// The base has its name once it is durable.
fn write_base(dir: &Path, state: &State) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let temp = dir.join(UNFINISHED);
        let mut file = File::create(&temp)?;
        file.write_all(&state.to_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, named(dir, BASE, state.version))?;
        sync_dir(dir)
    };
    write().map_err(StoreError::io("write a base"))
}

fn new_chain(dir: &Path, version: u64, base: [u8; 32]) -> io::Result<Chain> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    let file = options.open(named(dir, CHAIN, version))?;
    sync_dir(dir)?;
    Ok(Chain::begin(file, base))
}

/// Removes what a newer base made needless, and what was not finished.
fn remove_others(dir: &Path, version: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let of = version_of(&name, BASE).or_else(|| version_of(&name, CHAIN));
        if name == UNFINISHED || of.is_some_and(|of| of != version) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
