//! What a child does with a data directory, and what it says of it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::uploads::{UploadError, UploadId, Uploads, UploadsConfig};
use blyan_chain::{
    ChainError, ChainReader, ChainWriter, DataDir, Disk, NewBlock, RealDisk, RocksStore,
    Store as _, VerifyOptions, snapshot,
};
use blyan_formats::bodies::Payload as _;
use blyan_formats::tensorblock::{TensorSpec, verify_stream_bytes};
use blyan_formats::{
    BlockHash, BlockType, ManifestBody, SignedBlock, TensorBuf, TensorName, write_tensorblock,
};
use blyan_protocol::{Receipt, RequestId};

use crate::check;
use crate::said::{Fact, Said};
use crate::support::{
    NOW_MS, TestTensor, acceptance, append_architecture, block_of, key, open_chain, receipt,
    tensors,
};

/// Receipts of a round before its snapshot, after it, and after the restore.
pub const RECEIPTS: [std::ops::Range<u64>; 3] = [0..3, 3..5, 5..6];
/// Room for the numbers of a round's receipts.
const ROUND_LEN: u64 = 10;
/// Tensors of a round that are appended; the one after them is uploaded.
const APPENDED: usize = 2;
const PIECES: usize = 3;

/// What a script stops at: an error of the chain or of the uploads.
type Stop = Box<dyn std::error::Error>;

/// How far a script goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its end.
    End,
    /// To the first receipts, with the store open.
    Receipts,
    /// To the restore, with the store closed.
    Restored,
}

/// A disk that leaves out one kind of sync and says that it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    Nothing,
    Files,
    Dirs,
}

impl Disk for Lazy {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        if *self == Self::Files {
            Ok(())
        } else {
            RealDisk.sync_file(file)
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if *self == Self::Dirs {
            Ok(())
        } else {
            RealDisk.sync_dir(dir)
        }
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        RealDisk.write_batch(write)
    }
}

/// One round on the store in a directory.
pub struct Script<'a> {
    pub dir: &'a Path,
    /// Makes blocks and receipts of its own.
    pub round: u64,
    pub until: Until,
    pub disk: Lazy,
    /// Hears what holds, as soon as it does.
    pub say: &'a dyn Fn(Said),
}

impl Script<'_> {
    /// Import, blocks of this round, an upload, receipts, snapshot, receipts, restore, receipts. After an error it says
    /// what a reader of the same store sees.
    pub fn run(&self) {
        match self.rounds() {
            Ok(()) => (self.say)(Said::Done),
            Err(error) => (self.say)(Said::Refused(error.to_string())),
        }
    }

    fn rounds(&self) -> Result<(), Stop> {
        let store = self.open()?;
        let done = self.before_restore(&store);
        self.look(&store);
        drop(store);
        if done? == Until::Receipts {
            return Ok(());
        }
        let layout = DataDir::new(self.dir);
        let newest = snapshot::find(&layout, None)?;
        (self.say)(Said::Restoring(newest.id.clone()));
        check::while_held(|| snapshot::restore(&layout, &newest, VerifyOptions::default()))?;
        if self.until == Until::Restored {
            return Ok(());
        }
        let store = self.open()?;
        self.look(&store);
        let chain = open_chain(Arc::clone(&store), &key(1))?;
        let done = self.record(&chain, 2);
        self.look(&store);
        Ok(done?)
    }

    fn open(&self) -> Result<Arc<RocksStore>, ChainError> {
        match self.disk {
            Lazy::Nothing => check::open(self.dir),
            lazy => RocksStore::open_with(DataDir::new(self.dir), Arc::new(lazy)).map(Arc::new),
        }
    }

    fn before_restore(&self, store: &Arc<RocksStore>) -> Result<Until, Stop> {
        self.look(store);
        let (mut chain, architecture) = self.append(store)?;
        self.upload_all(&mut chain, architecture)?;
        self.record(&chain, 0)?;
        if self.until == Until::Receipts {
            // The store stays open: closing it would sync what the log was to hold.
            std::mem::forget(chain);
            return Ok(Until::Receipts);
        }
        (self.say)(Said::Snapshotting);
        let made = snapshot::create(store, NOW_MS + self.round)?;
        self.holds(Fact::Snapshot(made.id));
        self.record(&chain, 1)?;
        Ok(Until::End)
    }

    /// The import, as `blyan import` makes it, and blocks of this round. Returns the architecture's block, too.
    fn append(
        &self,
        store: &Arc<RocksStore>,
    ) -> Result<(ChainWriter<RocksStore>, BlockHash), ChainError> {
        let mut chain = open_chain(Arc::clone(store), &key(1))?;
        self.holds(Fact::Block(chain.index().genesis().unwrap()));
        let architecture = append_architecture(&mut chain, &key(1))?;
        self.holds(Fact::Block(architecture));
        let mut blocks = Vec::new();
        for tensor in tensors() {
            store.payloads().put(tensor.payload, &tensor.bytes)?;
            blocks.push(block_of(&chain, &tensor, architecture, &key(1))?);
        }
        for batch in blocks.chunks(8) {
            self.append_all(&mut chain, batch)?;
        }
        self.publish(&mut chain, architecture, &blocks)?;
        let mut new = Vec::new();
        for tensor in tensors_of_round(self.round).take(APPENDED) {
            store.payloads().put(tensor.payload, &tensor.bytes)?;
            new.push(block_over(&chain, &tensor, architecture, self.round)?);
        }
        self.append_all(&mut chain, &new)?;
        Ok((chain, architecture))
    }

    /// Uploads an expert of the round before, which may have been cut off, and one of this round.
    fn upload_all(
        &self,
        chain: &mut ChainWriter<RocksStore>,
        architecture: BlockHash,
    ) -> Result<(), Stop> {
        let layout = DataDir::new(self.dir);
        let uploads = Uploads::open(layout, Arc::new(self.disk), uploads_config(), 0)?;
        for round in self.round.saturating_sub(1)..=self.round {
            let tensor = tensors_of_round(round).nth(APPENDED).unwrap();
            let new = block_over(chain, &tensor, architecture, round)?;
            let sent = self.send(&uploads, round, &new.block, &tensor);
            if let Err(UploadError::NotDurable { .. }) = sent {
                (self.say)(Said::Dropped(new.block.hash()));
            }
            let id = sent?;
            self.append_all(chain, &[new])?;
            uploads.stored(id)?;
        }
        Ok(())
    }

    /// Begins an upload, or goes on with it where an earlier child was, until it is a payload file.
    fn send(
        &self,
        uploads: &Uploads,
        round: u64,
        block: &SignedBlock,
        tensor: &TestTensor,
    ) -> Result<UploadId, UploadError> {
        let id = UploadId::from_random(u128::from(round).to_be_bytes());
        let (mut upload, _) = uploads.begin(id, block, &spec_of(tensor), NOW_MS)?;
        let piece_len = tensor.bytes.len().div_ceil(PIECES);
        loop {
            self.holds(Fact::Upload(upload.block, upload.received));
            let rest = &tensor.bytes[usize::try_from(upload.received).unwrap()..];
            let Some(piece) = rest.chunks(piece_len).next() else {
                break;
            };
            upload = uploads.write(upload.id, upload.received, piece, NOW_MS)?;
        }
        uploads.publish(upload.id)?;
        Ok(upload.id)
    }

    fn append_all(
        &self,
        chain: &mut ChainWriter<RocksStore>,
        blocks: &[NewBlock],
    ) -> Result<(), ChainError> {
        let appended = chain.append_all(blocks, acceptance(&key(1)))?;
        appended
            .iter()
            .for_each(|block| self.holds(Fact::Block(block.hash)));
        Ok(())
    }

    fn publish(
        &self,
        chain: &mut ChainWriter<RocksStore>,
        architecture: BlockHash,
        blocks: &[NewBlock],
    ) -> Result<(), ChainError> {
        let entry = |new: &NewBlock| (new.block.header.expert_name.unwrap(), new.block.hash());
        let entries = blocks.iter().map(entry).collect();
        let body = ManifestBody {
            architecture,
            entries,
        }
        .to_payload()
        .unwrap();
        let manifest = chain.append_meta(BlockType::Manifest, body, NOW_MS, &key(1), NOW_MS)?;
        self.holds(Fact::Block(manifest));
        Ok(())
    }

    fn record(&self, chain: &ChainWriter<RocksStore>, part: usize) -> Result<(), ChainError> {
        for number in RECEIPTS[part].clone() {
            let number = self.round * ROUND_LEN + number;
            chain.record_receipts(&[receipt_of(number)])?;
            self.holds(Fact::Receipt(number));
        }
        Ok(())
    }

    /// Says what a reader of the store sees; a store that cannot be read shows nothing.
    fn look(&self, store: &Arc<RocksStore>) {
        if let Ok(reader) = ChainReader::open(Arc::clone(store)) {
            self.look_with(&reader);
        }
    }

    fn look_with(&self, reader: &ChainReader<RocksStore>) {
        let seen = blyan_chain::Records(&**reader.store())
            .blocks()
            .unwrap_or_default();
        seen.into_iter()
            .for_each(|(hash, _)| self.holds(Fact::Block(hash)));
        for number in self.round * ROUND_LEN..(self.round + 1) * ROUND_LEN {
            if let Ok(Some(_)) = reader.receipt(&request_of(number)) {
                self.holds(Fact::Receipt(number));
            }
        }
    }

    fn holds(&self, fact: Fact) {
        (self.say)(Said::Holds(fact));
    }
}

/// The request with this number.
pub fn request_of(number: u64) -> RequestId {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    RequestId::from_random(id)
}

fn receipt_of(number: u64) -> Receipt {
    Receipt {
        request_id: request_of(number),
        ..receipt(1, NOW_MS + number)
    }
}

/// Room for whatever many children leave open.
pub fn uploads_config() -> UploadsConfig {
    UploadsConfig {
        open_max: 1000,
        open_per_key_max: 1000,
        per_key_per_day: 1000,
        ..UploadsConfig::default()
    }
}

/// Experts with values that no other round has.
fn tensors_of_round(round: u64) -> impl Iterator<Item = TestTensor> {
    let experts = tensors()
        .into_iter()
        .filter(|tensor| tensor.name.expert().is_some());
    experts.map(move |of| {
        let [rows, cols] = shape_of(&of.name);
        let first = round as f32 + 1.0;
        let values: Vec<_> = (0..rows * cols).map(|at| first + at as f32).collect();
        // The kind that uploads must be of.
        let tensor = TensorBuf::quantise_int8_blocks(rows, cols, &values).unwrap();
        let mut bytes = Vec::new();
        let written = write_tensorblock(&tensor.as_tensor(), &mut bytes).unwrap();
        TestTensor {
            name: of.name,
            payload: written.payload_hash,
            bytes,
        }
    })
}

fn shape_of(name: &TensorName) -> [usize; 2] {
    let (rows, cols) = crate::support::architecture().tensor_shape(name).unwrap();
    [rows, cols].map(|len| usize::try_from(len).unwrap())
}

fn spec_of(tensor: &TestTensor) -> TensorSpec {
    let len = tensor.bytes.len() as u64;
    verify_stream_bytes(&mut tensor.bytes.as_slice(), len, tensor.payload).unwrap()
}

fn block_over(
    chain: &ChainWriter<RocksStore>,
    tensor: &TestTensor,
    meta_ref: BlockHash,
    round: u64,
) -> Result<NewBlock, ChainError> {
    let weights = Weights {
        name: tensor.name,
        payload: tensor.payload,
        payload_len: tensor.bytes.len() as u64,
        meta_ref,
        parents: Vec::new(),
        supersedes: Vec::new(),
    };
    weights_block(chain.index(), weights, NOW_MS + round, &key(1))
}
