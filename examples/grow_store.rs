//! `grow_store DATA_DIR BLOCKS BYTES`: appends versions of experts to an imported store until it has this many blocks and
//! this many bytes of payloads, signed with the node's key: a store like that of a network that is years old.
//!
//! A version is the imported expert with its scales turned round by one place more than the version before; once there are
//! bytes enough, further versions name these payloads again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use blyan::config::{Overrides, Sources};
use blyan::wiring::{Home, now_ms};
use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{Acceptance, ChainWriter, RocksStore, Store as _};
use blyan_formats::BlockHash;
use blyan_formats::tensorblock::{TensorBuf, TensorData, TensorView, Written, write_tensorblock};
use blyan_protocol::ModelEntry;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, blocks, bytes] = arguments.as_slice() else {
        bail!("usage: grow_store DATA_DIR BLOCKS BYTES");
    };
    let (blocks, bytes): (usize, u64) = (blocks.parse()?, bytes.parse()?);
    let overrides = Overrides {
        data_dir: Some(PathBuf::from(data_dir)),
        ..Overrides::default()
    };
    let home = Home::open(&Sources::of_process(None, overrides).load()?)?;
    let mut chain = ChainWriter::open(Arc::clone(&home.store))?;
    let model = chain.model(None)?;
    let mut held: u64 = model.entries.values().map(|entry| entry.payload_len).sum();
    let mut experts = BTreeMap::new();
    for (name, entry) in model.entries {
        if name.expert().is_some() {
            experts.insert(name, Versions::read(&home.store, entry)?);
        }
    }
    while chain.index().len() < blocks {
        let mut batch = Vec::with_capacity(experts.len());
        for (name, versions) in &mut experts {
            if held < bytes || versions.payloads.is_empty() {
                held += versions.make_payload(&home.store)?;
            }
            let parent = chain.index().get(&versions.newest).context("a parent")?;
            let payload = versions.next_payload();
            let weights = Weights {
                name: *name,
                payload: payload.payload_hash,
                payload_len: payload.len,
                meta_ref: parent.meta_ref.context("its architecture")?,
                parents: vec![versions.newest],
                supersedes: Vec::new(),
            };
            let block = weights_block(chain.index(), weights, now_ms(), &home.key)?;
            versions.newest = block.block.hash();
            batch.push(block);
        }
        batch.truncate(blocks - chain.index().len());
        let acceptance = Acceptance {
            by: home.key.public_key(),
            at_ms: now_ms(),
        };
        chain.append_all(&batch, acceptance)?;
    }
    println!("{} blocks, {held} bytes of payloads", chain.index().len());
    Ok(())
}

/// The versions of an expert so far.
struct Versions {
    newest: BlockHash,
    rows: usize,
    cols: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    payloads: Vec<Written>,
    appended: usize,
}

impl Versions {
    fn read(store: &RocksStore, entry: ModelEntry) -> Result<Self> {
        let bytes = fs::read(store.payloads().path(entry.payload))?;
        let tensor = TensorView::parse(&bytes)?.tensor();
        let TensorData::Int8Blocks { values, scales } = tensor.data() else {
            bail!("an expert is int8 in blocks");
        };
        Ok(Self {
            newest: entry.block,
            rows: tensor.rows(),
            cols: tensor.cols(),
            values: values.to_vec(),
            scales: scales.to_vec(),
            payloads: Vec::new(),
            appended: 0,
        })
    }

    /// Turns the scales by one more place; returns the length of the payload.
    fn make_payload(&mut self, store: &RocksStore) -> Result<u64> {
        self.scales.rotate_left(1);
        let (values, scales) = (self.values.clone(), self.scales.clone());
        let tensor = TensorBuf::int8_blocks(self.rows, self.cols, values, scales)?;
        let mut bytes = Vec::new();
        let written = write_tensorblock(&tensor.as_tensor(), &mut bytes)?;
        store.payloads().put(written.payload_hash, &bytes)?;
        self.payloads.push(written);
        Ok(written.len)
    }

    /// The newest payload while there are new ones, then one after the other again.
    fn next_payload(&mut self) -> Written {
        let number = self.appended % self.payloads.len();
        self.appended += 1;
        self.payloads[number]
    }
}
