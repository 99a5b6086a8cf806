//! The export as files: what stands in them, in which order, and what is left after a refusal.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{Acceptance, ChainError, ChainReader, DataDir, Fault, export};
use blyan_formats::{PayloadHash, SignedBlock, TensorName};
use serde_json::Value;

use crate::support::{NOW_MS, acceptance, imported, key, open_chain, tensors};

/// Header and signature of each line; the commit record is looked at apart.
fn blocks_of(text: &str) -> Vec<SignedBlock> {
    let block = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let commit = value.as_object_mut().unwrap().remove("commit").unwrap();
        assert_eq!(commit["rule"], "authorised_key");
        serde_json::from_value(value).unwrap()
    };
    text.lines().map(block).collect()
}

#[test]
fn an_export_holds_every_block_after_what_it_refers_to_and_every_payload() {
    let (dir, store, manifest) = imported();
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    let out = dir.path().join("export");
    let copied = Cell::new(0);
    let report = export(&reader, &out, &|progress| {
        copied.set(copied.get() + progress.bytes);
    })
    .unwrap();
    assert_eq!(report.model, Some(manifest));
    assert_eq!(copied.get(), report.payload_bytes);

    let blocks = blocks_of(&fs::read_to_string(out.join("blocks.jsonl")).unwrap());
    assert_eq!(blocks.len(), 3 + tensors().len());
    assert_eq!(blocks[0].hash(), report.genesis);
    let mut seen = BTreeSet::new();
    for block in &blocks {
        block.verify().unwrap();
        let header = &block.header;
        let named = header.prev_hash.iter().chain(&header.meta_ref);
        for earlier in named.chain(header.depends_on.iter().flatten()) {
            assert!(
                seen.contains(earlier),
                "{earlier} is named before it stands"
            );
        }
        seen.insert(block.hash());
    }
    assert_eq!(
        blocks.last().unwrap().hash(),
        manifest,
        "it names all others"
    );

    for tensor in tensors() {
        let path = out.join("payloads").join(tensor.payload.to_string());
        assert!(fs::read(path).unwrap() == tensor.bytes, "{}", tensor.name);
    }
    let genesis = blocks[0].header.payload_hash;
    let body = fs::read(out.join("payloads").join(genesis.to_string())).unwrap();
    assert_eq!(PayloadHash::of_bytes(&body), genesis);
    drop(store);
}

#[test]
fn a_taken_directory_is_refused_and_left_as_it_was() {
    let (dir, _store, _) = imported();
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    let out = dir.path().join("export");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "x").unwrap();
    let refused = export(&reader, &out, &|_| {});
    assert!(matches!(refused, Err(ChainError::Malformed(_))));
    assert_eq!(fs::read(out.join("mine")).unwrap(), b"x");
    fs::remove_file(out.join("mine")).unwrap();
    export(&reader, &out, &|_| {}).unwrap();
    assert!(out.join("blocks.jsonl").exists());
}

#[test]
fn a_failed_export_leaves_nothing_behind() {
    let (dir, _store, _) = imported();
    let layout = DataDir::new(dir.path());
    let lost = tensors().pop().unwrap();
    fs::remove_file(layout.payload(lost.payload)).unwrap();
    let reader = ChainReader::open_read_only(layout).unwrap();
    let parent = dir.path().join("exports");
    fs::create_dir(&parent).unwrap();
    let failed = export(&reader, &parent.join("a"), &|_| {});
    let Err(ChainError::Corrupt(fault)) = failed else {
        panic!("{failed:?}");
    };
    assert!(matches!(*fault, Fault::PayloadMissing { payload, .. } if payload == lost.payload));
    assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
}

/// The node's clock was set back between a block and the one that stands on it.
#[test]
fn a_block_accepted_before_its_parent_by_the_clock_stands_after_it() {
    let (dir, store, _) = imported();
    let mut chain = open_chain(store, &key(1)).unwrap();
    let params = chain.index().params().unwrap();
    let name = TensorName::expert_of(1, 0);
    let (parent, meta_ref) = (params.entries()[&name], params.architecture());
    let weights = Weights {
        name,
        payload: parent.payload,
        payload_len: parent.payload_len,
        meta_ref,
        parents: vec![parent.block],
        supersedes: Vec::new(),
    };
    let child = weights_block(chain.index(), weights, NOW_MS, &key(1)).unwrap();
    let early = Acceptance {
        at_ms: 0,
        ..acceptance(&key(1))
    };
    chain
        .append_all(std::slice::from_ref(&child), early)
        .unwrap();

    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    let out = dir.path().join("export");
    export(&reader, &out, &|_| {}).unwrap();
    let blocks = blocks_of(&fs::read_to_string(out.join("blocks.jsonl")).unwrap());
    let line_of = |hash| {
        blocks
            .iter()
            .position(|block| block.hash() == hash)
            .unwrap()
    };
    assert_eq!(line_of(child.block.hash()), line_of(parent.block) + 1);
}
