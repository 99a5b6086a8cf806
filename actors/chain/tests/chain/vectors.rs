//! The store among the test vectors, which another implementation made: every rule admits it, and the export of it is
//! that store again, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use blyan_chain::{
    Acceptance, ChainReader, ChainWriter, DataDir, NewBlock, Store as _, VerifyOptions, export,
    verify,
};
use blyan_formats::{ChainId, CommitRecord, SignedBlock};
use serde_json::Value;

use crate::support::open_store;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/store")
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

#[test]
fn a_store_of_another_implementation_is_admitted_and_exported_as_it_was() {
    let lines = fs::read_to_string(vectors().join("blocks.jsonl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let mut chain = ChainWriter::open(store.clone()).unwrap();
    for line in lines.lines() {
        let (block, commit) = read_line(line);
        let payload = block.header.payload_hash;
        let bytes = fs::read(vectors().join("payloads").join(payload.to_string())).unwrap();
        let body = (block.header.chain == ChainId::A).then(|| bytes.clone());
        if body.is_none() {
            store.payloads().put(payload, &bytes).unwrap();
        }
        let acceptance = Acceptance {
            by: commit.accepted_by,
            at_ms: commit.accepted_ms,
        };
        chain
            .append_all(&[NewBlock { block, body }], acceptance)
            .unwrap();
    }
    verify(&*store, VerifyOptions::default()).unwrap();

    let out = dir.path().join("export");
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    export(&reader, &out, &|_| {}).unwrap();
    assert_eq!(fs::read_to_string(out.join("blocks.jsonl")).unwrap(), lines);
    assert!(files_of(&out.join("payloads")) == files_of(&vectors().join("payloads")));
}
