//! Ratios of the chain's own work to the raw work below it, each taken in interleaved pairs of one run: the median, and
//! the smallest and largest pair. `--quick` leaves out the chain of a million blocks. Under `cargo test`, which does not say
//! `--bench`, all of it is done once and little of it, to see that it works.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_chain::compose::{genesis_block, meta_block_after};
use blyan_chain::read_blocks;
use blyan_chain::{
    Acceptance, Batch, ChainConfig, ChainError, ChainIndex, ChainWriter, CheckedBlock, DataDir,
    Family, Head, NewBlock, PayloadDir, RocksStore, Store, Visit, WriteToken, check_signatures,
    open_or_create,
};
use blyan_formats::bodies::Payload as _;
use blyan_formats::hash::sha256;
use blyan_formats::keys::SignatureFault;
use blyan_formats::merkle::LEAF_LEN;
use blyan_formats::tensorblock::{TensorBuf, verify_proof};
use blyan_formats::{
    AuditAnchorBody, BlockHash, BlockType, ChainId, CommitRecord, CommitRule, ContentHash, NodeKey,
    SignedBlock, TensorView, write_tensorblock,
};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use secp256k1::{Message, SECP256K1};
use tempfile::TempDir;

const PAIRS: usize = 10;
const HEADERS: u64 = 1_000;
/// Blocks in one append, and so for one sync.
const BATCH: u64 = 64;
const PAYLOAD_LEN: usize = 8 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let told = |word: &str| std::env::args().any(|arg| arg == word);
    let long_len = match (is_measured(), told("--quick")) {
        (false, _) => 2_000,
        (true, true) => 100_000,
        (true, false) => 1_000_000,
    };
    let key = NodeKey::from_secret_bytes([7; 32])?;
    verify_headers(&key)?;
    append_beside_raw_writes(&key)?;
    payload_and_tile()?;
    append_to_long_chains(&key, long_len)
}

fn is_measured() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// What one quantity was in each pair.
struct Pairs(Vec<f64>);

impl Pairs {
    fn take(mut pair: impl FnMut() -> f64) -> Self {
        let pairs = if is_measured() { PAIRS } else { 1 };
        Self((0..pairs).map(|_| pair()).collect())
    }

    fn tell(mut self, what: &str, unit: &str) {
        self.0.sort_by(f64::total_cmp);
        let middle = f64::midpoint(self.0[(self.0.len() - 1) / 2], self.0[self.0.len() / 2]);
        let (least, most) = (self.0[0], self.0[self.0.len() - 1]);
        println!("{what:<62} {middle:>8.3} {unit:<6} ({least:.3} to {most:.3})");
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(work());
    began.elapsed()
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}

/// Signs audit anchors, the smallest blocks there are, one after the other.
struct Signer<'a> {
    key: &'a NodeKey,
    genesis: BlockHash,
    head: Head,
}

impl<'a> Signer<'a> {
    fn after_genesis(key: &'a NodeKey, genesis: BlockHash) -> Self {
        let head = Head {
            chain: ChainId::A,
            index: 0,
            hash: genesis,
            blocks: 1,
            tips: 1,
        };
        Self { key, genesis, head }
    }

    fn next_block(&mut self) -> NewBlock {
        let count = self.head.index + 1;
        let head = ContentHash::from_bytes([3; 32]);
        let body = AuditAnchorBody { count, head }.to_payload();
        let body = body.expect("an anchor of one record or more is valid");
        let new = meta_block_after(
            &self.head,
            self.genesis,
            BlockType::AuditAnchor,
            (body, count),
            self.key,
        );
        self.head.index = count;
        self.head.hash = new.block.hash();
        new
    }

    fn next_blocks(&mut self, blocks: u64) -> Vec<NewBlock> {
        (0..blocks).map(|_| self.next_block()).collect()
    }
}

/// Stored bytes to a verified index, as at a start, beside libsecp256k1 on messages that were parsed before, both on all
/// cores. What a start does but for the signatures is timed on its own: reading, hashing, the chain's rules.
fn verify_headers(key: &NodeKey) -> Result<(), Box<dyn std::error::Error>> {
    let genesis = genesis_block("bench", 0, key)?;
    let hash = genesis.block.hash();
    let mut index = ChainIndex::default();
    let mut draft = index.draft();
    draft.replay(hash, &genesis.block, Ok(()), genesis.body.as_deref())?;
    let added = draft.finish();
    index.apply(added);
    let blocks = Signer::after_genesis(key, hash).next_blocks(HEADERS);
    let stored: Vec<_> = blocks.iter().map(|new| new.block.written()).collect();
    let hashed: Vec<_> = stored
        .iter()
        .map(|(hash, _)| *hash)
        .zip(blocks.iter().map(|new| new.block.clone()))
        .collect();
    let raw = RawSignatures::of(&blocks)?;
    let cores = std::thread::available_parallelism()?.get();
    let whole = std::cell::RefCell::new(Vec::new());
    let rest = std::cell::RefCell::new(Vec::new());
    Pairs::take(|| {
        let below = timed(|| raw.verify(cores));
        let signatures = timed(|| check_signatures(&hashed).iter().all(Result::is_ok));
        rest.borrow_mut().push(
            timed(|| replay(&index, &stored, |_| vec![Ok(()); stored.len()])).as_secs_f64() * 1e3,
        );
        whole.borrow_mut().push(ratio(
            below,
            timed(|| replay(&index, &stored, check_signatures)),
        ));
        ratio(below, signatures)
    })
    .tell(
        &format!("signatures: libsecp256k1 / ours, {cores} threads each"),
        "",
    );
    Pairs(rest.into_inner()).tell("1,000 headers: all but the signatures", "ms");
    Pairs(whole.into_inner()).tell(
        "1,000 headers: libsecp256k1 / whole replay, all threads",
        "",
    );
    Ok(())
}

/// Signatures as libsecp256k1 wants them.
struct RawSignatures {
    parsed: Vec<(Message, secp256k1::ecdsa::Signature)>,
    key: secp256k1::PublicKey,
}

impl RawSignatures {
    fn of(blocks: &[NewBlock]) -> Result<Self, secp256k1::Error> {
        let parse = |new: &NewBlock| {
            let bytes = new.block.signature.as_bytes();
            let signature = secp256k1::ecdsa::Signature::from_compact(bytes)?;
            Ok((
                Message::from_digest(*new.block.hash().as_bytes()),
                signature,
            ))
        };
        Ok(Self {
            parsed: blocks
                .iter()
                .map(parse)
                .collect::<Result<_, secp256k1::Error>>()?,
            key: secp256k1::PublicKey::from_slice(&blocks[0].block.header.miner_pub.to_bytes())?,
        })
    }

    fn verify(&self, threads: usize) {
        std::thread::scope(|scope| {
            for part in self.parsed.chunks(self.parsed.len().div_ceil(threads)) {
                scope.spawn(move || {
                    for (message, signature) in part {
                        SECP256K1
                            .verify_ecdsa(*message, signature, &self.key)
                            .expect("the bench signed it");
                    }
                });
            }
        });
    }
}

type Hashed = (BlockHash, SignedBlock);

fn replay(
    index: &ChainIndex,
    stored: &[(BlockHash, Vec<u8>)],
    signatures: impl Fn(&[Hashed]) -> Vec<Result<(), SignatureFault>>,
) {
    let blocks = read_blocks(stored).expect("the bench wrote them");
    let mut draft = index.draft();
    for ((hash, block), signature) in blocks.iter().zip(signatures(&blocks)) {
        let followed = draft.replay(*hash, block, signature, None);
        followed.expect("each block follows the one before");
    }
    black_box(draft.finish());
}

fn acceptance(key: &NodeKey) -> Acceptance {
    Acceptance {
        by: key.public_key(),
        at_ms: 1,
    }
}

fn create<S: Store>(store: S, key: &NodeKey) -> Result<ChainWriter<S>, ChainError> {
    open_or_create(Arc::new(store), &ChainConfig::default(), key, 0, 1)
}

fn signer_of<'a, S: Store>(chain: &ChainWriter<S>, key: &'a NodeKey) -> Signer<'a> {
    let genesis = chain.index().genesis().expect("the chain was just made");
    Signer::after_genesis(key, genesis)
}

/// Appends of 64 blocks beside a bare RocksDB that is given the same records in one synced batch.
fn append_beside_raw_writes(key: &NodeKey) -> Result<(), Box<dyn std::error::Error>> {
    let (ours, bare) = (TempDir::new()?, TempDir::new()?);
    let mut chain = create(RocksStore::open(DataDir::new(ours.path()))?, key)?;
    let bare = open_bare(&bare)?;
    let mut signer = signer_of(&chain, key);
    let mut pair = |signatures_first: bool| {
        let blocks = signer.next_blocks(BATCH);
        let records = records_of(&blocks, key);
        let raw = timed(|| write_bare(&bare, &records));
        let mut checked = signatures_first.then(|| CheckedBlock::check_all(blocks.clone()));
        let appended = timed(|| {
            let checked = checked
                .take()
                .unwrap_or_else(|| CheckedBlock::check_all(blocks));
            let appended = checked.and_then(|checked| chain.append(&checked, acceptance(key)));
            appended.expect("they follow")
        });
        ratio(raw, appended)
    };
    Pairs::take(|| pair(true)).tell("append of 64: raw RocksDB / append, signatures before", "");
    Pairs::take(|| pair(false)).tell("append of 64: raw RocksDB / append with signatures", "");
    Ok(())
}

fn records_of(blocks: &[NewBlock], key: &NodeKey) -> Batch {
    let commit = CommitRecord {
        accepted_by: key.public_key(),
        accepted_ms: 1,
        rule: CommitRule::AuthorisedKey,
    };
    let mut batch = Batch::default();
    for new in blocks {
        batch.put_block(new.block.hash(), &new.block, &commit, new.body.as_deref());
    }
    batch
}

fn open_bare(dir: &TempDir) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    DB::open_cf(&options, dir.path(), Family::ALL.map(Family::name))
}

fn write_bare(db: &DB, records: &Batch) {
    let mut writes = WriteBatch::default();
    for put in records.puts() {
        let family = db.cf_handle(put.family.name());
        writes.put_cf(family.expect("it was opened"), &put.key, &put.value);
    }
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(writes, &options)
        .expect("the temporary folder takes a write");
}

/// One 8 MB payload as a whole, and one tile of it with its proof, beside SHA-256 of the same bytes on one thread.
fn payload_and_tile() -> Result<(), Box<dyn std::error::Error>> {
    let cols = 2048;
    let rows = PAYLOAD_LEN / (4 * cols);
    let values = (0..rows * cols).map(|i| (i % 8191) as f32).collect();
    let mut file = Vec::new();
    let written = write_tensorblock(&TensorBuf::fp32(rows, cols, values)?.as_tensor(), &mut file)?;
    let view = TensorView::parse(&file).map_err(|fault| format!("{fault:?}"))?;
    let tile = view.tile(40).ok_or("no tile 40")?;
    let proof = view.tile_proof(40).ok_or("no proof of tile 40")?;
    assert_eq!(tile.len(), LEAF_LEN);
    assert!(verify_proof(
        written.payload_hash,
        view.tile_count(),
        &proof,
        tile
    ));
    assert_eq!(view.verify_full(written.payload_hash), Ok(()));
    println!(
        "{:<62} {:>8} bytes",
        "proof of a tile, its siblings and its index",
        proof.siblings.as_flattened().len() + size_of_val(&proof.leaf_index)
    );
    Pairs::take(|| {
        let raw = timed(|| (0..200).fold(0, |seen, _| seen ^ sha256(black_box(tile))[0]));
        let verified = timed(|| {
            (0..200).all(|_| {
                verify_proof(
                    written.payload_hash,
                    view.tile_count(),
                    &proof,
                    black_box(tile),
                )
            })
        });
        ratio(raw, verified)
    })
    .tell("tile with proof: SHA-256 of it / its verification", "");
    Pairs::take(|| {
        let raw = timed(|| sha256(black_box(&file)));
        ratio(
            raw,
            timed(|| view.verify_full(written.payload_hash).is_ok()),
        )
    })
    .tell(
        "payload in memory: SHA-256 of it / its full verification",
        "",
    );
    Ok(())
}

/// A store that keeps nothing of a batch: what is left of an append is the chain's own work.
struct Unwritten(RocksStore);

impl Store for Unwritten {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ChainError> {
        self.0.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], visit: Visit<'_>) -> Result<(), ChainError> {
        self.0.scan(family, from, visit)
    }

    fn write(&self, _: WriteToken, _: &Batch) -> Result<(), ChainError> {
        Ok(())
    }

    fn begin_generation(&self) -> Result<WriteToken, ChainError> {
        self.0.begin_generation()
    }

    fn payloads(&self) -> &PayloadDir {
        self.0.payloads()
    }
}

/// Appends of 64 without any write, to a chain of a thousand blocks and to a long one.
fn append_to_long_chains(key: &NodeKey, long_len: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (dir_short, dir_long) = (TempDir::new()?, TempDir::new()?);
    let mut short = create(
        Unwritten(RocksStore::open(DataDir::new(dir_short.path()))?),
        key,
    )?;
    let mut long = create(
        Unwritten(RocksStore::open(DataDir::new(dir_long.path()))?),
        key,
    )?;
    let (mut short_signer, mut long_signer) = (signer_of(&short, key), signer_of(&long, key));
    let before = resident_bytes()?;
    grow(&mut long, &mut long_signer, long_len);
    let per_block = resident_bytes()?.saturating_sub(before) as f64 / long_len as f64;
    println!(
        "{:<62} {per_block:>8.0} bytes",
        format!("resident memory per block at {long_len}")
    );
    grow(&mut short, &mut short_signer, 1_000);
    Pairs::take(|| {
        let at_short = grow(&mut short, &mut short_signer, BATCH);
        ratio(grow(&mut long, &mut long_signer, BATCH), at_short)
    })
    .tell(
        &format!("append of 64 without a write: at {long_len} / at 1000"),
        "",
    );
    Ok(())
}

/// Appends `blocks` blocks, 64 at once, and returns the time of the appends alone.
fn grow<S: Store>(chain: &mut ChainWriter<S>, signer: &mut Signer<'_>, blocks: u64) -> Duration {
    let mut left = blocks;
    let mut elapsed = Duration::ZERO;
    while left > 0 {
        let batch = signer.next_blocks(left.min(BATCH));
        left -= batch.len() as u64;
        elapsed += timed(|| {
            chain
                .append_all(&batch, acceptance(signer.key))
                .expect("they follow")
        });
    }
    elapsed
}

fn resident_bytes() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| std::io::Error::other("no VmRSS in /proc/self/status"))
}
