//! A store as plain files, for whoever wants to check it without this code.
//!
//! `blocks.jsonl` holds one block a line, canonical JSON `{"commit":{..},"header":{..},"signature":".."}`, everything that
//! a block refers to on an earlier line; `payloads/<payload hash>` holds the bytes of each payload that a block names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use blyan_formats::bodies::Payload as _;
use blyan_formats::{
    BlockHash, BlockHeader, BlockType, ChainId, CommitRecord, ManifestBody, PayloadHash, Signature,
    SignedBlock, to_canonical,
};
use serde::Serialize;

use crate::ChainError;
use crate::reader::{ChainReader, StoredBlock};
use crate::store::Store;
use crate::verify::Progress;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Hash of the genesis block: what a checker pins.
    pub genesis: BlockHash,
    /// The newest manifest; `None` while an import is unfinished.
    pub model: Option<BlockHash>,
    /// Lines of `blocks.jsonl`.
    pub blocks: u64,
    /// Files in `payloads`.
    pub payloads: u64,
    /// Their bytes.
    pub payload_bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    commit: &'a CommitRecord,
    header: &'a BlockHeader,
    signature: &'a Signature,
}

/// Writes what `reader` sees into the new directory `dir`, whose parent must exist; an empty directory is replaced. It
/// gets its name once every file is synced, so a directory of this name is a whole export. Headers and JSON payloads
/// are checked on the way, payload files for their length only.
///
/// # Errors
/// [`ChainError::Malformed`] if `dir` holds something; [`ChainError::Corrupt`] with the first fault found;
/// [`ChainError::NoChain`] without a genesis; [`ChainError::Io`]: nothing is left behind.
pub fn export<S: Store>(
    reader: &ChainReader<S>,
    dir: &Path,
    progress: &dyn Fn(Progress),
) -> Result<ExportReport, ChainError> {
    refuse_taken(dir)?;
    let staged = Staged::new(dir)?;
    let report = write_store(reader, &staged.0, progress)?;
    staged.publish(dir)?;
    Ok(report)
}

fn refuse_taken(dir: &Path) -> Result<(), ChainError> {
    let taken = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(ChainError::io("look into the export's directory", error)),
    };
    if taken {
        return Err(ChainError::Malformed(format!(
            "{} is not empty",
            dir.display()
        )));
    }
    Ok(())
}

/// The export under a temporary name beside its own; removed unless it is published.
struct Staged(PathBuf);

impl Staged {
    fn new(dir: &Path) -> Result<Self, ChainError> {
        let name = dir.file_name().ok_or_else(|| {
            ChainError::Malformed(format!("{} names no directory", dir.display()))
        })?;
        let mut temp = std::ffi::OsString::from(".");
        temp.push(name);
        temp.push(format!(".tmp-{}", std::process::id()));
        let staged = Self(dir.with_file_name(temp));
        let made =
            fs::create_dir(&staged.0).and_then(|()| fs::create_dir(staged.0.join("payloads")));
        made.map_err(|error| ChainError::io("make the export's directory", error))?;
        Ok(staged)
    }

    fn publish(self, dir: &Path) -> Result<(), ChainError> {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let sync = |path: &Path| File::open(path)?.sync_all();
        let published = sync(&self.0.join("payloads"))
            .and_then(|()| sync(&self.0))
            .and_then(|()| fs::rename(&self.0, dir))
            .and_then(|()| sync(parent.unwrap_or(Path::new("."))));
        published.map_err(|error| ChainError::io("name the export", error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing of this name; after a failure the error that led here is the one to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_store<S: Store>(
    reader: &ChainReader<S>,
    dir: &Path,
    progress: &dyn Fn(Progress),
) -> Result<ExportReport, ChainError> {
    let genesis = reader.index().genesis();
    let genesis = genesis
        .ok_or_else(|| ChainError::NoChain(reader.store().payloads().layout().root().to_owned()))?;
    let order = commit_order(reader)?;
    write_blocks(reader, &order, &dir.join("blocks.jsonl"))?;
    let payloads = distinct_payloads(reader, &order);
    let bytes_total = payloads.values().map(|payload| payload.len).sum();
    for (hash, payload) in &payloads {
        write_payload(reader, *hash, payload, &dir.join("payloads"))?;
        progress(Progress {
            bytes: payload.len,
            bytes_total,
        });
    }
    Ok(ExportReport {
        genesis,
        model: reader.index().params().map(|params| params.model().0),
        blocks: order.len() as u64,
        payloads: payloads.len() as u64,
        payload_bytes: bytes_total,
    })
}

fn write_blocks<S: Store>(
    reader: &ChainReader<S>,
    order: &[BlockHash],
    path: &Path,
) -> Result<(), ChainError> {
    let failed = |error| ChainError::io("write blocks.jsonl", error);
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    for hash in order {
        let stored = reader.block(*hash)?;
        let mut line = to_canonical(&Line {
            commit: &stored.commit,
            header: &stored.block.header,
            signature: &stored.block.signature,
        })
        .map_err(|error| ChainError::Malformed(error.to_string()))?;
        line.push(b'\n');
        file.write_all(&line).map_err(failed)?;
    }
    let file = file.into_inner().map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(failed)
}

/// Where the bytes of a payload are: under a block of chain A in the database, else in a file.
struct Source {
    block: BlockHash,
    chain: ChainId,
    len: u64,
}

fn distinct_payloads<S: Store>(
    reader: &ChainReader<S>,
    order: &[BlockHash],
) -> BTreeMap<PayloadHash, Source> {
    let metas = order.iter().filter_map(|hash| reader.index().get(hash));
    metas
        .map(|meta| {
            let source = Source {
                block: meta.hash,
                chain: meta.chain,
                len: meta.payload_len,
            };
            (meta.payload, source)
        })
        .collect()
}

fn write_payload<S: Store>(
    reader: &ChainReader<S>,
    payload: PayloadHash,
    source: &Source,
    folder: &Path,
) -> Result<(), ChainError> {
    let failed = |error| ChainError::io("write a payload of the export", error);
    let mut file = File::create_new(folder.join(payload.to_string())).map_err(failed)?;
    if source.chain.is_linear() {
        file.write_all(&reader.body(source.block)?)
            .map_err(failed)?;
    } else {
        let path = reader.locate(payload)?.path;
        let mut from = File::open(path).map_err(failed)?;
        io::copy(&mut from, &mut file).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// By what the blocks are ordered where their references leave it open.
type Rank = (u64, ChainId, u64, BlockHash);

/// An order in which the blocks could have been committed: by the time of their acceptance, but nothing before what it
/// refers to. The store keeps no counter of commits, and a clock may have been set back.
fn commit_order<S: Store>(reader: &ChainReader<S>) -> Result<Vec<BlockHash>, ChainError> {
    let index = reader.index();
    let mut blocks = Vec::with_capacity(index.len());
    for hash in index.chain_a().iter().copied().chain(index.chain_b()) {
        let stored = reader.block(hash)?;
        let header = &stored.block.header;
        let rank = (stored.commit.accepted_ms, header.chain, header.index, hash);
        blocks.push((rank, references(reader, &stored)?));
    }
    Ok(by_rank_after_references(blocks))
}

/// The lowest rank first among those whose references all stand before.
fn by_rank_after_references(blocks: Vec<(Rank, HashSet<BlockHash>)>) -> Vec<BlockHash> {
    let mut order = Vec::with_capacity(blocks.len());
    let mut waiting = HashMap::new();
    let mut followers: HashMap<BlockHash, Vec<BlockHash>> = HashMap::new();
    let mut ready = BinaryHeap::new();
    for (rank, references) in blocks {
        if references.is_empty() {
            ready.push(Reverse(rank));
            continue;
        }
        waiting.insert(rank.3, (references.len(), rank));
        for reference in references {
            followers.entry(reference).or_default().push(rank.3);
        }
    }
    while let Some(Reverse((.., hash))) = ready.pop() {
        order.push(hash);
        for follower in followers.remove(&hash).unwrap_or_default() {
            if let Some((missing, rank)) = waiting.get_mut(&follower) {
                *missing -= 1;
                if *missing == 0 {
                    ready.push(Reverse(*rank));
                }
            }
        }
    }
    order
}

/// Every block that must stand before this one, each once.
fn references<S: Store>(
    reader: &ChainReader<S>,
    stored: &StoredBlock,
) -> Result<HashSet<BlockHash>, ChainError> {
    let header = &stored.block.header;
    let mut named: HashSet<BlockHash> = header.depends_on.iter().flatten().copied().collect();
    named.extend(header.supersedes.iter().flatten());
    named.extend(header.prev_hash);
    named.extend(header.meta_ref);
    named.extend(grant_of(reader, header));
    if header.block_type == BlockType::Manifest {
        named.extend(named_by_manifest(reader, stored.hash, &stored.block)?);
    }
    Ok(named)
}

/// The block that lets the signer sign; none where the genesis does, which stands first anyway.
fn grant_of<S: Store>(reader: &ChainReader<S>, header: &BlockHeader) -> Option<BlockHash> {
    let index = reader.index();
    let granted = || index.granted().get(&header.miner_pub).copied();
    (!index.authorises(&header.miner_pub)).then(granted)?
}

fn named_by_manifest<S: Store>(
    reader: &ChainReader<S>,
    hash: BlockHash,
    block: &SignedBlock,
) -> Result<BTreeSet<BlockHash>, ChainError> {
    let body = ManifestBody::from_payload(&reader.body(hash)?)
        .map_err(|error| crate::reader::refused(hash, block, error.into()))?;
    let mut named: BTreeSet<BlockHash> = body.entries.into_values().collect();
    named.insert(body.architecture);
    Ok(named)
}
