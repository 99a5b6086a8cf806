use std::collections::BTreeSet;
use std::ops::ControlFlow;

use blyan_formats::bodies::{BodyError, Payload as _};
use blyan_formats::{
    ArchitectureBody, AuditAnchorBody, BlockHash, BlockType, ChainId, ManifestBody, PayloadHash,
    SignedBlock,
};

use super::Fault;
use crate::ChainError;
use crate::core::{Draft, Refusal, check_json};
use crate::reader::{RECEIPTS_MAX, load_body, refused};
use crate::store::{Family, ReceiptCursor, Records, Store, block_hash, index_key};

/// What was counted in the database.
pub(super) struct Counts {
    pub(super) receipts: u64,
    pub(super) unreferenced_bodies: u64,
}

/// Checks the JSON payload of a block on chain A by all rules and returns its length. A manifest becomes the newest.
pub(super) fn verify_body<S: Store + ?Sized>(
    records: &Records<'_, S>,
    draft: &mut Draft<'_>,
    hash: BlockHash,
    block: &SignedBlock,
) -> Result<u64, ChainError> {
    let body = load_body(records, hash, block.header.payload_hash)?;
    let refuse = |refusal| refused(hash, block, refusal);
    check_json(&block.header, &body).map_err(refuse)?;
    match block.header.block_type {
        BlockType::Architecture => {
            ArchitectureBody::from_payload(&body).map_err(|error| refuse(error.into()))?;
        }
        BlockType::Manifest => {
            draft.resolve(hash, &body).map_err(refuse)?;
            verify_manifest(records, draft, &body, &refuse)?;
        }
        BlockType::AuditAnchor => {
            AuditAnchorBody::from_payload(&body).map_err(|error| refuse(error.into()))?;
        }
        _ => {}
    }
    Ok(body.len() as u64)
}

/// Holds a manifest that resolves against its architecture.
fn verify_manifest<S: Store + ?Sized>(
    records: &Records<'_, S>,
    draft: &Draft<'_>,
    body: &[u8],
    refuse: &dyn Fn(Refusal) -> ChainError,
) -> Result<(), ChainError> {
    let broken = |error: BodyError| refuse(error.into());
    let manifest = ManifestBody::from_payload(body).map_err(broken)?;
    let named = manifest.architecture;
    let block = draft.get(&named).ok_or(ChainError::NoBlock(named))?;
    let bytes = load_body(records, block.hash, block.payload)?;
    let architecture = ArchitectureBody::from_payload(&bytes).map_err(broken)?;
    manifest.validate_against(&architecture).map_err(broken)
}

/// Commit records, the index by height, unreferenced JSON payloads, receipts.
pub(super) fn verify_records<S: Store + ?Sized>(
    store: &S,
    blocks: &[(BlockHash, SignedBlock)],
) -> Result<Counts, ChainError> {
    let records = Records(store);
    verify_commits(&records, blocks)?;
    verify_by_index(&records, blocks)?;
    let unreferenced_bodies = count_unreferenced_bodies(&records, blocks)?;
    let receipts = verify_receipts(&records)?;
    Ok(Counts {
        receipts,
        unreferenced_bodies,
    })
}

fn index_fault(family: Family, why: impl Into<String>) -> ChainError {
    ChainError::from(Fault::Index {
        family: family.name(),
        why: why.into(),
    })
}

fn verify_commits<S: Store + ?Sized>(
    records: &Records<'_, S>,
    blocks: &[(BlockHash, SignedBlock)],
) -> Result<(), ChainError> {
    for (block, _) in blocks {
        let missing = || {
            ChainError::from(Fault::CommitRecord {
                block: *block,
                why: "it is not there".to_owned(),
            })
        };
        records.commit(*block)?.ok_or_else(missing)?;
    }
    let known: BTreeSet<BlockHash> = blocks.iter().map(|(hash, _)| *hash).collect();
    records.each(Family::Commits, &[], |key, _| {
        match block_hash(Family::Commits, key)? {
            block if known.contains(&block) => Ok(ControlFlow::Continue(())),
            block => Err(index_fault(
                Family::Commits,
                format!("it names the unknown block {block}"),
            )),
        }
    })
}

/// The stored index must be the one that follows from the headers, record for record.
fn verify_by_index<S: Store + ?Sized>(
    records: &Records<'_, S>,
    blocks: &[(BlockHash, SignedBlock)],
) -> Result<(), ChainError> {
    let key_of = |(hash, block): &(BlockHash, SignedBlock)| {
        index_key(block.header.chain, block.header.index, *hash)
    };
    let mut expected: BTreeSet<Vec<u8>> = blocks.iter().map(key_of).collect();
    records.each(Family::ByIndex, &[], |key, value| {
        if expected.remove(key) && value.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        Err(index_fault(
            Family::ByIndex,
            format!("the record {} does not belong there", hex::encode(key)),
        ))
    })?;
    match expected.first() {
        Some(key) => Err(index_fault(
            Family::ByIndex,
            format!("the record {} is missing", hex::encode(key)),
        )),
        None => Ok(()),
    }
}

fn count_unreferenced_bodies<S: Store + ?Sized>(
    records: &Records<'_, S>,
    blocks: &[(BlockHash, SignedBlock)],
) -> Result<u64, ChainError> {
    let on_a = blocks
        .iter()
        .filter(|(_, block)| block.header.chain == ChainId::A);
    let named: BTreeSet<PayloadHash> = on_a.map(|(_, block)| block.header.payload_hash).collect();
    let mut unreferenced = 0;
    records.each(Family::Bodies, &[], |key, _| {
        let hash = block_hash(Family::Bodies, key)?;
        unreferenced += u64::from(!named.contains(&PayloadHash::from_bytes(*hash.as_bytes())));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(unreferenced)
}

/// Every receipt is well-formed and has its one place in the order of ends.
fn verify_receipts<S: Store + ?Sized>(records: &Records<'_, S>) -> Result<u64, ChainError> {
    let mut ordered = 0;
    let mut after = None;
    loop {
        let page = records.receipts(after, RECEIPTS_MAX)?;
        let Some(last) = page.last() else { break };
        after = Some(ReceiptCursor::of(last));
        ordered += page.len() as u64;
    }
    let mut stored = 0;
    records.each(Family::Receipts, &[], |_, _| {
        stored += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    if stored == ordered {
        return Ok(stored);
    }
    let why = format!("{ordered} places for {stored} receipts");
    Err(index_fault(Family::ReceiptsByTime, why))
}
