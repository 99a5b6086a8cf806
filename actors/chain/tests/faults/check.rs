//! Whether a directory holds what was said to be in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_chain::{ChainError, ChainReader, DataDir, RocksStore, VerifyOptions, snapshot, verify};

use crate::script::{Fact, Said, request_of};

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
            Said::Restoring(_) => kept.clone_from(&in_snapshot),
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
    let reader = ChainReader::open(store).map_err(|error| format!("to read: {error}"))?;
    let lost = kept.iter().filter(|fact| !holds(dir, &reader, fact));
    let lost: Vec<_> = lost.collect();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("lost {lost:?}"))
    }
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

fn holds(dir: &Path, reader: &ChainReader<RocksStore>, fact: &Fact) -> bool {
    match fact {
        Fact::Block(hash) => reader.block(*hash).is_ok(),
        Fact::Receipt(number) => matches!(reader.receipt(&request_of(*number)), Ok(Some(_))),
        Fact::Snapshot(id) => {
            let found = snapshot::find(&DataDir::new(dir), Some(id));
            found.is_ok_and(|found| {
                snapshot::verify_snapshot(&found, VerifyOptions::default()).is_ok()
            })
        }
    }
}
