//! The store among the test vectors, which another implementation made: every rule admits it, and the export of it is
//! that store again, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use blyan_chain::{
    Acceptance, ChainError, ChainReader, ChainWriter, DataDir, NewBlock, RocksStore, Store as _,
    VerifyOptions, export, verify,
};
use blyan_formats::{ChainId, CommitRecord, PayloadHash, SignedBlock, to_canonical};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{acceptance, key, open_store};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

fn read_line(line: &str) -> (SignedBlock, CommitRecord) {
    let mut value: Value = serde_json::from_str(line).unwrap();
    let commit = value.as_object_mut().unwrap().remove("commit").unwrap();
    (
        serde_json::from_value(value).unwrap(),
        serde_json::from_value(commit).unwrap(),
    )
}

fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
    files.sort();
    files
}

/// A line of the store with its payload: in its file where it belongs on chain B.
fn offered(store: &RocksStore, block: SignedBlock, payload: PayloadHash) -> NewBlock {
    let bytes = fs::read(vectors().join("store/payloads").join(payload.to_string())).unwrap();
    if block.header.chain == ChainId::B {
        store.payloads().put(payload, &bytes).unwrap();
        return NewBlock { block, body: None };
    }
    NewBlock {
        block,
        body: Some(bytes),
    }
}

fn append(chain: &mut ChainWriter<RocksStore>, line: &str) {
    let (block, commit) = read_line(line);
    let payload = block.header.payload_hash;
    let new = offered(chain.store(), block, payload);
    let acceptance = Acceptance {
        by: commit.accepted_by,
        at_ms: commit.accepted_ms,
    };
    chain.append_all(&[new], acceptance).unwrap();
}

fn open(dir: &Path) -> ChainWriter<RocksStore> {
    ChainWriter::open(open_store(dir)).unwrap()
}

#[test]
fn a_store_of_another_implementation_is_admitted_and_exported_as_it_was() {
    let lines = fs::read_to_string(vectors().join("store/blocks.jsonl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut chain = open(dir.path());
    lines.lines().for_each(|line| append(&mut chain, line));
    verify(&**chain.store(), VerifyOptions::default()).unwrap();

    let out = dir.path().join("export");
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    export(&reader, &out, &|_| {}).unwrap();
    assert_eq!(fs::read_to_string(out.join("blocks.jsonl")).unwrap(), lines);
    let payloads = vectors().join("store/payloads");
    assert!(files_of(&out.join("payloads")) == files_of(&payloads));
}

#[derive(Deserialize)]
struct Refused {
    why: String,
    after: usize,
    line: String,
}

/// The block of a line, unless its form is refused already.
fn read_strictly(line: &str) -> Option<SignedBlock> {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value.as_object_mut().unwrap().remove("commit");
    SignedBlock::from_canonical(&to_canonical(&value).ok()?).ok()
}

#[test]
fn blocks_that_another_implementation_refuses_are_refused() {
    let text = fs::read(vectors().join("store_refused.json")).unwrap();
    let refused: Vec<Refused> = serde_json::from_slice(&text).unwrap();
    assert!(refused.len() > 45);
    let lines = fs::read_to_string(vectors().join("store/blocks.jsonl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut chain = open(dir.path());
    for (number, line) in lines.lines().enumerate() {
        let sound = read_line(line).0.header.payload_hash;
        for vector in refused.iter().filter(|vector| vector.after == number) {
            let Some(block) = read_strictly(&vector.line) else {
                continue;
            };
            let new = offered(chain.store(), block, sound);
            let said = chain.append_all(&[new], acceptance(&key(1)));
            assert!(
                matches!(said, Err(ChainError::Refused { .. })),
                "{}: {said:?}",
                vector.why
            );
        }
        append(&mut chain, line);
    }
}
