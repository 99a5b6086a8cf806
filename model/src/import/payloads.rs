//! The long part of an import: payload files, made by several threads.

use blyan_chain::PayloadDir;
use blyan_formats::tensorblock::{TensorBuf, write_tensorblock};
use blyan_formats::{PayloadHash, TensorName};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::tensors::Portion;
use super::{ImportOptions, ImportProgress, Phase};
use crate::ModelError;
use crate::recipe::Recipe;
use crate::source::SourceModel;

/// A payload file that is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub hash: PayloadHash,
    /// Its length in bytes.
    pub len: u64,
}

/// Counts what is done and tells those who asked.
pub(super) struct Counter<'a> {
    payloads: AtomicU64,
    bytes: AtomicU64,
    payloads_total: u64,
    options: &'a ImportOptions<'a>,
}

impl<'a> Counter<'a> {
    pub(super) fn new(payloads_total: u64, options: &'a ImportOptions<'a>) -> Self {
        Self {
            payloads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            payloads_total,
            options,
        }
    }

    /// Says that a phase starts.
    pub(super) fn enter(&self, phase: Phase) {
        self.options.probe.hit(phase.point());
        self.tell(phase);
    }

    fn add(&self, stored: Stored) {
        self.payloads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(stored.len, Ordering::Relaxed);
        self.enter(Phase::Payloads);
    }

    fn tell(&self, phase: Phase) {
        (self.options.progress)(ImportProgress {
            phase,
            payloads: self.payloads.load(Ordering::Relaxed),
            payloads_total: self.payloads_total,
            bytes: self.bytes.load(Ordering::Relaxed),
        });
    }
}

/// Makes every payload file that is not there yet and returns them all by name.
pub(super) fn store_all(
    source: &SourceModel<'_>,
    recipe: &Recipe,
    files: &PayloadDir,
    counter: &Counter<'_>,
    options: &ImportOptions<'_>,
) -> Result<BTreeMap<TensorName, Stored>, ModelError> {
    counter.enter(Phase::Payloads);
    let job = Job {
        source,
        recipe,
        files,
        counter,
        portions: Portion::all(recipe.layers.len())?,
        next: AtomicUsize::new(0),
        stored: Mutex::new(BTreeMap::new()),
    };
    std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| job.work());
        let workers: Vec<_> = (0..options.threads.max(1)).map(spawn).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(ModelError::Worker)));
        ended.fold(Ok(()), Result::and)
    })?;
    Ok(job
        .stored
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

struct Job<'a> {
    source: &'a SourceModel<'a>,
    recipe: &'a Recipe,
    files: &'a PayloadDir,
    counter: &'a Counter<'a>,
    portions: Vec<Portion>,
    /// Index of the first portion that no worker has.
    next: AtomicUsize,
    stored: Mutex<BTreeMap<TensorName, Stored>>,
}

impl Job<'_> {
    /// Takes portions until there are none left; after an error the others' portions are given up too.
    fn work(&self) -> Result<(), ModelError> {
        while let Some(portion) = self.portions.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let made = portion.make(self.source, self.recipe, &mut |name, tensor| {
                self.store(name, &tensor)
            });
            if let Err(error) = made {
                self.next.store(self.portions.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    fn store(&self, name: TensorName, tensor: &TensorBuf) -> Result<(), ModelError> {
        let mut bytes = Vec::new();
        let written = write_tensorblock(&tensor.as_tensor(), &mut bytes);
        let written = written.map_err(|why| ModelError::Tensor {
            name: name.to_string(),
            why,
        })?;
        self.files.put(written.payload_hash, &bytes)?;
        let stored = Stored {
            hash: written.payload_hash,
            len: written.len,
        };
        self.stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, stored);
        self.counter.add(stored);
        Ok(())
    }
}
