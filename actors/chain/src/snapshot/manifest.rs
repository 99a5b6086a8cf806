use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;

use blyan_formats::canonical::from_canonical_bounded;
use blyan_formats::hash::domain_hash;
use blyan_formats::{BlockHash, ContentHash, merkle, to_canonical};
use serde::{Deserialize, Serialize};

use super::Contents;
use crate::ChainError;
use crate::store::{DataDir, Family, Records, RocksStore};

/// Domain of a record's leaf.
const SNAPSHOT_DOMAIN: &[u8] = b"blyan/snapshot/v1\0";
const LEAF_TAG: u8 = 0x00;
const VERSION: u32 = 1;
const FILE: &str = "manifest.json";
const LEN_MAX: usize = 4096;

/// What a snapshot holds, as canonical JSON in its `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of this form, 1.
    pub version: u32,
    /// ms since 1970-01-01 UTC.
    pub created_ms: u64,
    /// The network.
    pub genesis: BlockHash,
    /// Blocks of all chains.
    pub blocks: u64,
    /// Receipts.
    pub receipts: u64,
    /// Payload files.
    pub payloads: u64,
    /// Their bytes.
    pub payload_bytes: u64,
    /// Merkle root over all records of the database, family by family in the order of [`Family::ALL`] and in each by
    /// key: leaf = SHA-256(0x00, `blyan/snapshot/v1` and a zero byte, family's number, key length (4 bytes, big-endian),
    /// key, value), inner nodes as in a TensorBlock. Payload files are bound by the headers.
    pub root: ContentHash,
}

impl SnapshotManifest {
    pub(super) fn of(
        store: &RocksStore,
        contents: &Contents,
        created_ms: u64,
    ) -> Result<Self, ChainError> {
        let mut leaves = Vec::new();
        let mut receipts = 0;
        for (number, family) in (0_u8..).zip(Family::ALL) {
            Records(store).each(family, &[], |key, value| {
                let key_len = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
                let parts = [SNAPSHOT_DOMAIN, &[number], &key_len, key, value];
                leaves.push(domain_hash(&[LEAF_TAG], &parts));
                receipts += u64::from(family == Family::Receipts);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        let empty = || ChainError::NoChain(store.layout().root().to_owned());
        Ok(Self {
            version: VERSION,
            created_ms,
            genesis: contents.genesis,
            blocks: contents.blocks,
            receipts,
            payloads: contents.payloads.len() as u64,
            payload_bytes: contents.payloads.values().sum(),
            root: ContentHash::from_bytes(merkle::root(leaves).ok_or_else(empty)?),
        })
    }

    pub(super) fn write(&self, dir: &DataDir) -> Result<(), ChainError> {
        let bytes = to_canonical(self).map_err(|error| ChainError::Malformed(error.to_string()))?;
        let write = || {
            let mut file = File::create_new(dir.root().join(FILE))?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(|error| ChainError::not_durable("a snapshot's manifest", &error))
    }

    pub(super) fn read(dir: &DataDir) -> Result<Self, ChainError> {
        let path = dir.root().join(FILE);
        let damaged = |why: String| ChainError::Damaged(format!("{}: {why}", path.display()));
        let bytes = std::fs::read(&path).map_err(|error| damaged(error.to_string()))?;
        let manifest: Self =
            from_canonical_bounded(&bytes, LEN_MAX).map_err(|error| damaged(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(damaged(format!("version {} is unknown", manifest.version)));
        }
        Ok(manifest)
    }
}
