//! A data directory opened for writing, and the import into it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use blyan_chain::{ChainReader, DataDir, RocksStore, Store as _, open_or_create};
use blyan_formats::NodeKey;
use blyan_model::{ImportOptions, ImportProgress, Imported, Phase, Recipe, SourceFile};
use blyan_supervisors::Probe;
use parking_lot::Mutex;

use crate::config::Config;

/// The key's file within the data directory.
pub const NODE_KEY_FILE: &str = "node.key";
const DEFAULT_RECIPE: &[u8] = include_bytes!("../../model/data/smollm2-135m-instruct.recipe.json");

/// The store and the key of this process; no other process may write while it lives.
pub struct Home {
    /// The chain's database and payloads.
    pub store: Arc<RocksStore>,
    /// Signs blocks and audit records.
    pub key: Arc<NodeKey>,
}

/// What an import reads.
#[derive(Clone, Debug)]
pub struct ImportSource {
    /// The model file.
    pub gguf: PathBuf,
    /// Another recipe than the built-in one.
    pub recipe: Option<PathBuf>,
    /// Threads that make payloads.
    pub threads: usize,
}

impl ImportSource {
    /// As the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            gguf: config.model.gguf(),
            recipe: config.model.recipe.clone(),
            threads: config.model.import_threads,
        }
    }

    /// The recipe.
    ///
    /// # Errors
    /// The file cannot be read or is no recipe.
    pub fn read_recipe(&self) -> Result<Recipe> {
        Ok(match &self.recipe {
            Some(path) => Recipe::read(path)?,
            None => Recipe::parse(DEFAULT_RECIPE)?,
        })
    }
}

impl Home {
    /// Opens the data directory; a fresh one is made with a node key.
    ///
    /// # Errors
    /// Another process holds it, the store is damaged, or the disk refuses.
    pub fn open(config: &Config) -> Result<Self> {
        let dir = config.node.data_dir();
        let store = RocksStore::open(DataDir::new(&dir))?;
        let room = store.payloads().room();
        room.keep_free(config.chain.disk_reserve_bytes);
        let key = NodeKey::load_or_create(&dir.join(NODE_KEY_FILE))
            .with_context(|| format!("the node key in {}", dir.display()))?;
        Ok(Self {
            store: Arc::new(store),
            key: Arc::new(key),
        })
    }

    /// Whether a model is published.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn has_model(&self) -> Result<bool> {
        let reader = ChainReader::open(Arc::clone(&self.store))?;
        Ok(reader.index().params().is_some())
    }

    /// Imports the model; an empty store gets its genesis first. `told` hears how many payloads of how many are there.
    ///
    /// # Errors
    /// What the model, the recipe, the chain or the disk refuses; the next call goes on where this one stopped.
    pub fn import(
        &self,
        config: &Config,
        source: &ImportSource,
        probe: &dyn Probe,
        told: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Imported> {
        let recipe = source.read_recipe()?;
        let file = SourceFile::read(&source.gguf)
            .context("the model file; `make print-binary` fetches it, or set model.gguf")?;
        let (store, now) = (Arc::clone(&self.store), now_ms());
        // The genesis has the recipe's time, so that one key and one recipe make one network on any machine.
        let mut chain = open_or_create(store, &config.chain, &self.key, recipe.timestamp_ms, now)?;
        let phase = Mutex::new(None);
        let options = ImportOptions {
            threads: source.threads,
            accepted_ms: now,
            probe,
            progress: &|progress| {
                log_phase(&phase, progress);
                told(progress.payloads, progress.payloads_total);
            },
        };
        Ok(blyan_model::import(
            &mut chain, &file, &recipe, &self.key, &options,
        )?)
    }
}

fn log_phase(last: &Mutex<Option<Phase>>, progress: ImportProgress) {
    if last.lock().replace(progress.phase) != Some(progress.phase) {
        tracing::info!(
            payloads = progress.payloads,
            total = progress.payloads_total,
            "{}",
            progress.phase.point()
        );
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
