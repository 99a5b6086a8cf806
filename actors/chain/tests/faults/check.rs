//! Whether a directory holds what was said to be in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_chain::uploads::Uploads;
use blyan_chain::{
    ChainError, ChainReader, DataDir, RealDisk, RocksStore, VerifyOptions, snapshot, verify,
};

use crate::said::{Fact, Said};
use crate::script::{request_of, uploads_config};

const HELD_MAX: Duration = Duration::from_secs(5);

/// What must be there after a script said something, given what had to be there before.
pub fn follow(kept: &mut BTreeSet<Fact>, said: &[Said]) {
    let mut in_snapshot = kept.clone();
    for said in said {
        match said {
            Said::Holds(fact @ Fact::Snapshot(_)) => {
                in_snapshot.insert(fact.clone());
                kept.insert(fact.clone());
            }
            Said::Holds(fact) => {
                kept.insert(fact.clone());
            }
            Said::Snapshotting => in_snapshot.clone_from(kept),
            Said::Dropped(block) => {
                kept.retain(|fact| !matches!(fact, Fact::Upload(of, _) if of == block));
            }
            // Uploads are no part of snapshots, and stay.
            Said::Restoring(_) => {
                kept.retain(|fact| in_snapshot.contains(fact) || matches!(fact, Fact::Upload(..)));
            }
            Said::Refused(_) | Said::Done => {}
        }
    }
}

/// Opens a directory as the next start of a node would, verifies every byte of it and looks for all of `kept`.
pub fn check(dir: &Path, kept: &BTreeSet<Fact>) -> Result<(), String> {
    let store = open(dir).map_err(|error| format!("to open: {error}"))?;
    match verify(&*store, VerifyOptions::default()) {
        Ok(_) => {}
        Err(ChainError::NoChain(_)) if kept.is_empty() => {}
        Err(error) => return Err(format!("to verify: {error}")),
    }
    let uploads = Uploads::open(DataDir::new(dir), Arc::new(RealDisk), uploads_config(), 0);
    let there = There {
        dir,
        reader: ChainReader::open(store).map_err(|error| format!("to read: {error}"))?,
        uploads: uploads.map_err(|error| format!("to read the uploads: {error}"))?,
    };
    let lost = kept.iter().filter(|fact| !there.holds(fact));
    let lost: Vec<_> = lost.collect();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("lost {lost:?}"))
    }
}

/// Whether the next start of a node finds the receipt of a request.
pub fn shows_receipt(dir: &Path, number: u64) -> Result<bool, ChainError> {
    let found = ChainReader::open(open(dir)?)?.receipt(&request_of(number))?;
    Ok(found.is_some())
}

/// Opens the store for writing.
pub fn open(dir: &Path) -> Result<Arc<RocksStore>, ChainError> {
    while_held(|| RocksStore::open(DataDir::new(dir))).map(Arc::new)
}

/// Tries again for a while: a process that another thread of this test is about to start holds the lock too, until it
/// begins.
pub fn while_held<T>(take: impl Fn() -> Result<T, ChainError>) -> Result<T, ChainError> {
    let until = Instant::now() + HELD_MAX;
    loop {
        match take() {
            Err(ChainError::Held(_)) if Instant::now() < until => std::thread::yield_now(),
            taken => return taken,
        }
    }
}

/// What is in a directory.
struct There<'a> {
    dir: &'a Path,
    reader: ChainReader<RocksStore>,
    uploads: Uploads,
}

impl There<'_> {
    fn holds(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Block(hash) => self.reader.block(*hash).is_ok(),
            Fact::Receipt(number) => {
                matches!(self.reader.receipt(&request_of(*number)), Ok(Some(_)))
            }
            Fact::Snapshot(id) => {
                let found = snapshot::find(&DataDir::new(self.dir), Some(id));
                found.is_ok_and(|found| {
                    snapshot::verify_snapshot(&found, VerifyOptions::default()).is_ok()
                })
            }
            Fact::Upload(block, bytes) => {
                let upload = self.uploads.of_block(*block);
                upload.is_some_and(|upload| upload.received >= *bytes)
            }
        }
    }
}
