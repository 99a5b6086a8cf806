//! A model on an engine without a node: for commands, also beside a running node. The store is opened for reading.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use blyan_chain::{ChainReader, DataDir, RocksStore, check_network};
use blyan_expert_cache::ExpertCacheHandle;
use blyan_formats::PayloadHash;
use blyan_inference::engine::Engine;
use blyan_inference::tokenizer::ChatTokenizer;
use blyan_protocol::{BoxFuture, ModelDescription, PayloadLocation, PayloadSource, PublicError};
use blyan_supervisors::{NoProbe, SupervisorSpec, Tree, TreeHandle, TreeOptions};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::engine::{engine_options, start_engine, warm};
use crate::config::Config;

const CACHE_START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(2);

/// The published model of a data directory, ready to compute. Needs an actix `System` on its thread.
pub struct LocalModel {
    /// Computes.
    pub engine: Engine,
    /// What is computed.
    pub model: Arc<ModelDescription>,
    /// Text to tokens and back.
    pub tokenizer: ChatTokenizer,
    /// Where its experts come from.
    pub cache: ExpertCacheHandle,
    /// Threads of one run.
    pub threads: usize,
    context: usize,
    tree: TreeHandle,
}

impl LocalModel {
    /// Opens the store for reading, maps the weights and makes an engine.
    ///
    /// # Errors
    /// There is no model, a weight is corrupt, or ONNX Runtime cannot be used.
    pub async fn open(config: &Config) -> Result<Self> {
        let reader = ChainReader::open_read_only(DataDir::new(config.node.data_dir()))?;
        check_network(reader.index().genesis(), &config.chain)?;
        let model = Arc::new(reader.model(None)?);
        let source = Arc::new(ReadOnlySource::new(reader)?);
        let cache = ExpertCacheHandle::new(config.expert_cache.clone(), source)?;
        let root = SupervisorSpec::new("local").child(cache.child_spec("expert_cache"));
        let tree = Tree::start(root, TreeOptions::default())?;
        cache
            .child()
            .wait_running(CACHE_START)
            .await
            .context("the cache did not come up")?;
        let options = engine_options(config, &model, Arc::new(NoProbe));
        let (threads, context) = (options.threads, options.context_max);
        let backend = config.inference.backend;
        let engine = start_engine(options, backend, &model, &cache).await?;
        let bytes_max = config.expert_cache.bytes_max;
        warm(&cache, &model, backend.form(), bytes_max).await;
        let tokenizer = ChatTokenizer::new(&model.architecture)?;
        Ok(Self {
            engine,
            model,
            tokenizer,
            cache,
            threads,
            context,
            tree,
        })
    }

    /// Prompt and answer together, in tokens.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// The experts per layer and token to compute with.
    ///
    /// # Errors
    /// Fewer than are always on, or more than there are.
    pub fn top_k(&self, asked: Option<u32>) -> Result<u32> {
        let shape = &self.model.architecture.experts;
        let (least, most) = (u32::from(shape.always_on), u32::from(shape.per_layer));
        let top_k = asked.unwrap_or(most);
        anyhow::ensure!(
            (least..=most).contains(&top_k),
            "--top-k-experts must be {least} to {most}"
        );
        Ok(top_k)
    }

    /// Ends the cache's thread.
    pub async fn close(self) {
        drop(self.engine);
        self.tree.stop(STOP).await;
    }
}

/// Says where payloads lie. Derivations that the node has not made yet go to a folder that ends with this.
pub struct ReadOnlySource {
    reader: ChainReader<RocksStore>,
    scratch: TempDir,
    made: Mutex<HashMap<PayloadHash, [u8; 32]>>,
}

impl ReadOnlySource {
    /// Over a store that is open for reading.
    ///
    /// # Errors
    /// No folder can be made for what is derived.
    pub fn new(reader: ChainReader<RocksStore>) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("blyan-")
            .tempdir()
            .context("a folder for derived weights")?;
        Ok(Self {
            reader,
            scratch,
            made: Mutex::default(),
        })
    }

    fn scratch_path(&self, payload: PayloadHash) -> PathBuf {
        self.scratch.path().join(format!("{payload}.f32"))
    }

    fn find(&self, payload: PayloadHash) -> Result<PayloadLocation, PublicError> {
        let mut location = self.reader.locate(payload)?;
        let known = location.fp32_sha256.is_some() && location.fp32_path.is_file();
        if !known {
            location.fp32_path = self.scratch_path(payload);
            location.fp32_sha256 = self.made.lock().get(&payload).copied();
        }
        Ok(location)
    }
}

impl PayloadSource for ReadOnlySource {
    fn locate(&self, payload: PayloadHash) -> BoxFuture<'_, Result<PayloadLocation, PublicError>> {
        Box::pin(async move { self.find(payload) })
    }

    fn remember_fp32(
        &self,
        payload: PayloadHash,
        sha256: [u8; 32],
    ) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(async move {
            self.made.lock().insert(payload, sha256);
            Ok(())
        })
    }
}
