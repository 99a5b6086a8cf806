//! Versions of one expert: what a newer block deprecates, what it came from, and the way back.

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{BlockQuery, ChainError, ChainWriter, Store, VerifyOptions, verify};
use blyan_formats::bodies::Payload as _;
use blyan_formats::{
    BlockHash, BlockType, KeyGrantBody, ManifestBody, NodeKey, PayloadType, TensorName,
};

use crate::support::{NOW_MS, TestTensor, acceptance, imported, key, open_chain, tensor};

const NAME: TensorName = TensorName::expert_of(0, 1);

/// Other weights of the expert's shape: those of another expert.
fn other_weights() -> TestTensor {
    tensor(TensorName::expert_of(1, 2))
}

/// Appends a version of the expert that was made from `older` and deprecates it.
fn append_newer<S: Store>(
    chain: &mut ChainWriter<S>,
    older: BlockHash,
) -> Result<BlockHash, ChainError> {
    append_signed(chain, older, vec![older], &key(1))
}

fn append_signed<S: Store>(
    chain: &mut ChainWriter<S>,
    older: BlockHash,
    supersedes: Vec<BlockHash>,
    signer: &NodeKey,
) -> Result<BlockHash, ChainError> {
    let weights = other_weights();
    chain
        .store()
        .payloads()
        .put(weights.payload, &weights.bytes)?;
    let weights = Weights {
        name: NAME,
        payload: weights.payload,
        payload_len: weights.bytes.len() as u64,
        meta_ref: chain.index().params().unwrap().architecture(),
        parents: vec![older],
        supersedes,
    };
    let block = weights_block(chain.index(), weights, NOW_MS, signer)?;
    let hash = block.block.hash();
    chain.append_all(&[block], acceptance(&key(1)))?;
    Ok(hash)
}

/// Publishes the newest model with this block for the expert.
fn publish<S: Store>(
    chain: &mut ChainWriter<S>,
    block: BlockHash,
) -> Result<BlockHash, ChainError> {
    let params = chain.index().params().unwrap();
    let entries = params
        .entries()
        .iter()
        .map(|(name, entry)| (*name, entry.block));
    let mut body = ManifestBody {
        architecture: params.architecture(),
        entries: entries.collect(),
    };
    body.entries.insert(NAME, block);
    let body = body.to_payload().unwrap();
    chain.append_meta(BlockType::Manifest, body, NOW_MS, &key(1), NOW_MS)
}

/// The versions of the expert: hash, what deprecates it, whether it is in use.
fn versions<S: Store>(chain: &ChainWriter<S>) -> Vec<(BlockHash, Vec<BlockHash>, bool)> {
    let query = BlockQuery {
        names: [NAME].into(),
        deprecated: true,
        ..BlockQuery::default()
    };
    let found = chain.find(&query, 10).into_iter();
    found
        .map(|version| (version.block.hash, version.superseded_by, version.current))
        .collect()
}

#[test]
fn a_granted_key_adds_an_expert_and_deprecates_none() {
    let (_dir, store, _) = imported();
    let mut chain = open_chain(store, &key(1)).unwrap();
    let older = chain.index().params().unwrap().entries()[&NAME].block;
    let grant = KeyGrantBody::new([key(2).public_key()])
        .to_payload()
        .unwrap();
    chain
        .append_meta(BlockType::KeyGrant, grant, NOW_MS, &key(1), NOW_MS)
        .unwrap();
    let refused = append_signed(&mut chain, older, vec![older], &key(2)).unwrap_err();
    let ChainError::Refused { refusal, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(refusal.rule(), "grant_supersedes");
    let added = append_signed(&mut chain, older, Vec::new(), &key(2)).unwrap();
    assert!(versions(&chain).contains(&(added, Vec::new(), false)));
}

#[test]
fn a_deprecated_expert_stays_and_may_be_gone_back_to() {
    let (_dir, store, _) = imported();
    let mut chain = open_chain(store.clone(), &key(1)).unwrap();
    let older = chain.index().params().unwrap().entries()[&NAME].block;
    let newer = append_newer(&mut chain, older).unwrap();
    assert_eq!(
        versions(&chain),
        [(older, vec![newer], true), (newer, vec![], false)],
        "no manifest names the newer one yet"
    );
    publish(&mut chain, newer).unwrap();
    assert_eq!(
        versions(&chain),
        [(older, vec![newer], false), (newer, vec![], true)]
    );
    publish(&mut chain, older).unwrap();
    assert!(versions(&chain)[0].2, "a manifest may go back");
    assert_eq!(chain.block(older).unwrap().hash, older);
    verify(&*store, VerifyOptions::default()).unwrap();

    let reopened = open_chain(store.clone(), &key(1)).unwrap();
    assert_eq!(
        versions(&reopened),
        versions(&chain),
        "it follows from the blocks"
    );
}

#[test]
fn queries_join_their_conditions() {
    let (_dir, store, _) = imported();
    let mut chain = open_chain(store.clone(), &key(1)).unwrap();
    let older = chain.index().params().unwrap().entries()[&NAME].block;
    let architecture = chain.index().params().unwrap().architecture();
    let newer = append_newer(&mut chain, older).unwrap();
    let count = |query: &BlockQuery| chain.index().find(query).count();
    let experts = BlockQuery {
        block_type: Some(BlockType::Expert),
        architecture: Some(architecture),
        ..BlockQuery::default()
    };
    assert_eq!(count(&experts), 8, "the deprecated one is left out");
    let combination = BlockQuery {
        names: [NAME, TensorName::expert_of(0, 2)].into(),
        payload_type: Some(PayloadType::Tensorblock),
        ..experts.clone()
    };
    assert_eq!(count(&combination), 2);
    assert!(chain.index().find(&combination).any(|b| b.hash == newer));
    let json = BlockQuery {
        payload_type: Some(PayloadType::Json),
        ..combination
    };
    assert_eq!(count(&json), 0);
    let elsewhere = BlockQuery {
        architecture: Some(newer),
        ..experts
    };
    assert_eq!(count(&elsewhere), 0);
    assert_eq!(chain.find(&BlockQuery::default(), 5).len(), 5);
}

#[test]
fn a_lineage_is_cut_at_its_far_end() {
    let (_dir, store, manifest) = imported();
    let mut chain = open_chain(store.clone(), &key(1)).unwrap();
    let mut line = vec![chain.index().params().unwrap().entries()[&NAME].block];
    for _ in 0..3 {
        let newer = append_newer(&mut chain, line[line.len() - 1]).unwrap();
        line.push(newer);
    }
    let lineage = |count_max| {
        let found = chain.lineage(line[3], count_max).unwrap();
        let blocks = found.blocks.into_iter();
        (
            blocks.map(|v| v.block.hash).collect::<Vec<_>>(),
            found.truncated,
        )
    };
    assert_eq!(lineage(100), (line.clone(), false));
    assert_eq!(lineage(3), (line.clone(), false));
    assert_eq!(lineage(2), (line[1..].to_vec(), true));
    assert_eq!(lineage(0), (line[3..].to_vec(), true));
    assert_eq!(
        chain.lineage(manifest, 9),
        Err(ChainError::NoBlock(manifest))
    );
}
