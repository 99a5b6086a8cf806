//! What `verify` finds, and how it names it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_chain::compose::{Weights, genesis_block, weights_block};
use blyan_chain::{
    Batch, ChainError, ChainReader, ChainWriter, DataDir, Family, Fault, Records, Refusal,
    RocksStore, Store, VerifyOptions, VerifyReport, verify,
};
use blyan_formats::bodies::{BodyError, Payload};
use blyan_formats::tensorblock::Section;
use blyan_formats::{
    BlockHash, BlockType, ChainId, ManifestBody, NodeKey, PayloadHash, SignedBlock, TensorView,
};
use blyan_protocol::ModelId;

use crate::support::{NOW_MS, acceptance, import, imported, key, open_store, tensors};

fn fault_of(store: &RocksStore, anchor: Option<BlockHash>) -> Fault {
    match verify(
        store,
        VerifyOptions {
            anchor,
            ..VerifyOptions::default()
        },
    ) {
        Err(ChainError::Corrupt(fault)) => *fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_store_is_summed_up() {
    let (_dir, store, manifest) = imported();
    let told = AtomicU64::new(0);
    let progress = |step: blyan_chain::Progress| {
        told.fetch_add(step.bytes, Ordering::SeqCst);
    };
    let options = VerifyOptions {
        anchor: Some(manifest),
        threads: 2,
        progress: &progress,
    };
    let report = verify(&*store, options).unwrap();
    let payload_bytes = tensors()
        .iter()
        .map(|tensor| tensor.bytes.len() as u64)
        .sum();
    assert_eq!(told.into_inner(), payload_bytes);
    let expected = VerifyReport {
        genesis: ChainReader::open(Arc::clone(&store))
            .unwrap()
            .index()
            .genesis()
            .unwrap(),
        model: Some(ModelId(manifest)),
        heads: report.heads.clone(),
        blocks_a: 3,
        blocks_b: 20,
        json_bytes: report.json_bytes,
        payload_bytes,
        receipts: 0,
        unreferenced: 0,
        temporary: 0,
        elapsed: report.elapsed,
    };
    assert_eq!(report, expected);
    assert_eq!(report.heads[&ChainId::A], manifest);
    let newest = ChainReader::open(store).unwrap().head(ChainId::B).unwrap();
    assert_eq!(report.heads[&ChainId::B], newest.hash);
    assert_eq!(report.heads.len(), 2);
}

#[test]
fn a_payload_that_many_blocks_name_is_read_once() {
    let (_dir, store, _) = imported();
    let whole = verify(&*store, VerifyOptions::default()).unwrap();
    let mut chain = ChainWriter::open(Arc::clone(&store)).unwrap();
    let first = chain.model(None).unwrap().entries;
    let (name, entry) = first
        .iter()
        .find(|(name, _)| name.expert().is_some())
        .unwrap();
    let stored = chain.block(entry.block).unwrap().block.header;
    let again = Weights {
        name: *name,
        payload: entry.payload,
        payload_len: entry.payload_len,
        meta_ref: stored.meta_ref.unwrap(),
        parents: vec![entry.block],
        supersedes: Vec::new(),
    };
    let again = weights_block(chain.index(), again, NOW_MS, &key(1)).unwrap();
    chain.append_all(&[again], acceptance(&key(1))).unwrap();
    let report = verify(&*store, VerifyOptions::default()).unwrap();
    assert_eq!(report.blocks_b, whole.blocks_b + 1);
    assert_eq!(report.payload_bytes, whole.payload_bytes);
}

#[test]
fn every_block_of_the_chain_is_an_anchor() {
    let (_dir, store, _) = imported();
    for (anchor, _) in Records(&*store).blocks().unwrap() {
        let options = VerifyOptions {
            anchor: Some(anchor),
            ..VerifyOptions::default()
        };
        assert!(verify(&*store, options).is_ok(), "{anchor}");
    }
    let foreign = BlockHash::from_bytes([5; 32]);
    assert_eq!(fault_of(&store, Some(foreign)), Fault::Anchor(foreign));
}

/// Flips one bit of a payload file in place.
fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_any_section_is_found_and_its_block_named() {
    let (_dir, store, _) = imported();
    let model = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .model(None)
        .unwrap();
    for tensor in tensors() {
        let view_bytes = tensor.bytes.clone();
        let sections = TensorView::parse(&view_bytes).unwrap().sections().clone();
        let ranges = [
            (Section::Header, 0..128),
            (Section::Scales, sections.scales.clone()),
            (Section::Padding, sections.padding.clone()),
            (Section::Data, sections.data.clone()),
            (Section::Tree, sections.tree.clone()),
        ];
        for (section, range) in ranges.into_iter().filter(|(_, range)| !range.is_empty()) {
            for at in [range.start, range.end - 1] {
                let path = store.payloads().path(tensor.payload);
                flip(&path, at);
                let fault = fault_of(&store, None);
                let named = (fault.block(), fault.name(), fault.payload());
                let block = model.entries[&tensor.name].block;
                assert_eq!(
                    named,
                    (Some(block), Some(tensor.name), Some(tensor.payload)),
                    "{section} at {at}: {fault}"
                );
                flip(&path, at);
            }
        }
    }
    assert!(verify(&*store, VerifyOptions::default()).is_ok());
}

#[test]
fn the_first_of_several_faults_is_returned_by_any_number_of_threads() {
    let (_dir, store, _) = imported();
    let damaged: Vec<_> = tensors().into_iter().skip(3).step_by(4).collect();
    for tensor in &damaged {
        flip(&store.payloads().path(tensor.payload), 4096);
    }
    let order: Vec<_> = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .index()
        .chain_b()
        .collect();
    let faults = [1, 2, 7].map(|threads| {
        match verify(
            &*store,
            VerifyOptions {
                threads,
                ..VerifyOptions::default()
            },
        ) {
            Err(ChainError::Corrupt(fault)) => *fault,
            other => panic!("{other:?}"),
        }
    });
    let place = |block| order.iter().position(|hash| Some(*hash) == block).unwrap();
    let model = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .model(None)
        .unwrap();
    let first = damaged
        .iter()
        .map(|tensor| place(Some(model.entries[&tensor.name].block)))
        .min();
    for fault in faults {
        assert_eq!(Some(place(fault.block())), first, "{fault}");
    }
}

#[test]
fn a_payload_that_is_missing_short_or_exchanged_is_named() {
    let (_dir, store, _) = imported();
    let tensors = tensors();
    let (first, other) = (&tensors[1], &tensors[2]);
    let path = store.payloads().path(first.payload);
    fs::write(&path, &first.bytes[..100]).unwrap();
    assert!(
        matches!(fault_of(&store, None), Fault::PayloadLen { name, found: 100, .. } if name == first.name)
    );
    fs::remove_file(&path).unwrap();
    assert!(
        matches!(fault_of(&store, None), Fault::PayloadMissing { name, .. } if name == first.name)
    );
    let same_len = tensors
        .iter()
        .find(|t| t.bytes.len() == first.bytes.len() && t.payload != first.payload);
    fs::write(&path, &same_len.unwrap_or(other).bytes).unwrap();
    assert_eq!(fault_of(&store, None).name(), Some(first.name));
}

#[test]
fn files_that_no_block_names_are_counted_and_unfinished_ones_removed() {
    let (dir, store, _) = imported();
    let stray = PayloadHash::of_bytes(b"stray");
    fs::write(store.payloads().path(stray), b"stray").unwrap();
    let unfinished = store.payloads().writer().unwrap();
    let report = verify(&*store, VerifyOptions::default()).unwrap();
    assert_eq!((report.unreferenced, report.temporary), (1, 1));
    std::mem::forget(unfinished);
    drop(store);
    let report = verify(&*open_store(dir.path()), VerifyOptions::default()).unwrap();
    assert_eq!((report.unreferenced, report.temporary), (1, 0));
}

/// Overwrites one record, as someone with the database in hand can.
fn overwrite(store: &RocksStore, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key, value);
    store
        .write(store.begin_generation().unwrap(), &batch)
        .unwrap();
}

/// What an altered record holds.
type Alter = fn(&[u8]) -> Vec<u8>;

#[test]
fn altered_records_of_the_database_are_found() {
    let altered: [(Family, Alter); 3] = [
        (Family::Headers, |value| {
            String::from_utf8(value.to_vec())
                .unwrap()
                .replace("1700000000000", "1700000000001")
                .into()
        }),
        (Family::Commits, |value| value[1..].to_vec()),
        (Family::Bodies, |value| [value, b" "].concat()),
    ];
    for (family, alter) in altered {
        let (_dir, store, manifest) = imported();
        let payload = Records(&*store)
            .block(manifest)
            .unwrap()
            .unwrap()
            .header
            .payload_hash;
        let key = if family == Family::Bodies {
            payload.as_bytes()
        } else {
            manifest.as_bytes()
        };
        let value = store.get(family, key).unwrap().unwrap();
        overwrite(&store, family, key, &alter(&value));
        assert_eq!(
            fault_of(&store, None).block(),
            Some(manifest),
            "{}",
            family.name()
        );
    }
}

#[test]
fn an_index_that_does_not_follow_from_the_blocks_is_found() {
    let (_dir, store, manifest) = imported();
    overwrite(&store, Family::ByIndex, b"A-nothing", b"");
    assert!(matches!(
        fault_of(&store, None),
        Fault::Index {
            family: "by_index",
            ..
        }
    ));
    let (_dir, store, _) = imported();
    let commit = store.get(Family::Commits, manifest.as_bytes()).unwrap();
    overwrite(&store, Family::Commits, &[9; 32], &commit.unwrap());
    assert!(matches!(
        fault_of(&store, None),
        Fault::Index {
            family: "commits",
            ..
        }
    ));
    let (_dir, store, _) = imported();
    overwrite(&store, Family::ReceiptsByTime, &[0; 24], b"");
    assert!(matches!(
        verify(&*store, VerifyOptions::default()),
        Err(ChainError::Damaged(_))
    ));
    assert!(
        ChainReader::open(store)
            .unwrap()
            .models()
            .contains(&ModelId(manifest))
    );
}

/// Every tensor that it names is there, and lawfully signed: only the architecture says that one is missing.
#[test]
fn a_manifest_that_lacks_a_tensor_of_its_architecture_is_found() {
    let (_dir, store, manifest) = imported();
    let records = Records(&*store);
    let mut header = records.block(manifest).unwrap().unwrap().header;
    let commit = records.commit(manifest).unwrap().unwrap();
    let body = records.body(header.payload_hash).unwrap().unwrap();
    let mut body = ManifestBody::from_payload(&body).unwrap();
    let (missing, _) = body.entries.pop_last().unwrap();
    let body = body.to_payload().unwrap();
    header.index += 1;
    header.prev_hash = Some(manifest);
    header.payload_hash = PayloadHash::of_bytes(&body);
    header.payload_len = body.len() as u64;
    let block = header.sign(&key(1));
    let mut batch = Batch::default();
    batch.put_block(block.hash(), &block, &commit, Some(&body));
    store
        .write(store.begin_generation().unwrap(), &batch)
        .unwrap();
    let fault = fault_of(&store, None);
    let Fault::Refused { refusal, .. } = fault else {
        panic!("{fault}")
    };
    assert_eq!(refusal, Refusal::Body(BodyError::Missing(missing)));
}

/// A flipped byte in a table file fails RocksDB's own checksum.
#[test]
fn a_damaged_database_file_is_found() {
    let (dir, store, _) = imported();
    drop(store);
    let tables = fs::read_dir(dir.path().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut tables: Vec<_> = tables
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .collect();
    tables.sort();
    assert!(!tables.is_empty());
    for table in tables {
        let len = fs::metadata(&table).unwrap().len();
        flip(&table, len / 3);
        let opened = RocksStore::open_read_only(DataDir::new(dir.path()));
        let verified = opened.and_then(|store| verify(&store, VerifyOptions::default()));
        assert!(verified.is_err(), "{}", table.display());
        flip(&table, len / 3);
    }
    let store = RocksStore::open_read_only(DataDir::new(dir.path())).unwrap();
    assert!(verify(&store, VerifyOptions::default()).is_ok());
}

/// A killed node leaves its last records in the log. A torn end is a crash, anything else there is damage.
#[test]
fn a_damaged_log_is_found_and_a_torn_one_recovered() {
    let (dir, store, _) = imported();
    let log = |dir: &Path| {
        let files = fs::read_dir(dir.join("db")).unwrap();
        let mut logs = files.map(|entry| entry.unwrap().path());
        logs.find(|path| path.extension().is_some_and(|kind| kind == "log"))
            .unwrap()
    };
    let copy = || {
        let copy = tempfile::tempdir().unwrap();
        let from = dir.path().join(".");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(copy.path())
            .status();
        assert!(copied.unwrap().success());
        copy
    };
    let damaged = copy();
    flip(&log(damaged.path()), 2000);
    let opened = RocksStore::open(DataDir::new(damaged.path()));
    assert!(matches!(opened.err(), Some(ChainError::Damaged(_))));

    let torn = copy();
    let path = log(torn.path());
    let len = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(len - 10)
        .unwrap();
    let torn = open_store(torn.path());
    assert_eq!(
        verify(&*torn, VerifyOptions::default()).unwrap().model,
        None
    );
    assert_eq!(import(&torn, &key(1)), import(&store, &key(1)));
}

/// Writes the model's whole chain anew, every block but the genesis signed by `key`.
fn resign(store: &RocksStore, genesis: &SignedBlock, key: &NodeKey) -> Batch {
    let mut batch = Batch::default();
    let mut renamed = std::collections::HashMap::new();
    let mut blocks = Records(store).blocks().unwrap();
    blocks.sort_by_key(|(_, block)| {
        (
            block.header.block_type == BlockType::Manifest,
            block.header.chain,
            block.header.index,
        )
    });
    for (old, block) in &blocks {
        let commit = Records(store).commit(*old).unwrap().unwrap();
        let mut header = block.header.clone();
        let mut body = Records(store).body(header.payload_hash).unwrap();
        let signed = if header.block_type == BlockType::Genesis {
            body = Some(if genesis == block {
                body.unwrap()
            } else {
                genesis_block("local", NOW_MS, key).unwrap().body.unwrap()
            });
            genesis.clone()
        } else {
            header.network_id = genesis.header.network();
            header.prev_hash = header.prev_hash.map(|hash| renamed[&hash]);
            header.meta_ref = header.meta_ref.map(|hash| renamed[&hash]);
            if header.block_type == BlockType::Manifest {
                let mut text = String::from_utf8(body.unwrap()).unwrap();
                for (old, new) in &renamed {
                    text = text.replace(&BlockHash::to_string(old), &BlockHash::to_string(new));
                }
                header.payload_hash = PayloadHash::of_bytes(text.as_bytes());
                body = Some(text.into_bytes());
            }
            header.sign(key)
        };
        renamed.insert(*old, signed.hash());
        batch.put_block(signed.hash(), &signed, &commit, body.as_deref());
    }
    batch
}

/// A store in a fresh directory that holds the batch and the model's payload files.
fn forged(batch: &Batch, payloads_of: &RocksStore) -> (tempfile::TempDir, Arc<RocksStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    for tensor in tensors() {
        fs::copy(
            payloads_of.payloads().path(tensor.payload),
            store.payloads().path(tensor.payload),
        )
        .unwrap();
    }
    store
        .write(store.begin_generation().unwrap(), batch)
        .unwrap();
    (dir, store)
}

#[test]
fn a_store_resigned_by_another_key_is_refused() {
    let (_dir, store, _) = imported();
    let genesis = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .index()
        .genesis()
        .unwrap();
    let genesis = Records(&*store).block(genesis).unwrap().unwrap();
    let thief = key(66);
    let (_dir, forged) = forged(&resign(&store, &genesis, &thief), &store);
    let fault = fault_of(&forged, None);
    let Fault::Refused { refusal, .. } = fault else {
        panic!("{fault}")
    };
    assert_eq!(refusal.rule(), "signer");
    assert!(matches!(
        ChainReader::open(forged).err(),
        Some(ChainError::Corrupt(_))
    ));
}

#[test]
fn a_store_with_another_genesis_too_is_refused_with_an_anchor_only() {
    let (_dir, store, manifest) = imported();
    let anchor = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .index()
        .genesis()
        .unwrap();
    let thief = key(66);
    let genesis = genesis_block("local", NOW_MS, &thief).unwrap().block;
    let (_dir, forged) = forged(&resign(&store, &genesis, &thief), &store);
    let report = verify(&*forged, VerifyOptions::default()).unwrap();
    assert_ne!(report.genesis, anchor);
    assert_eq!(fault_of(&forged, Some(anchor)), Fault::Anchor(anchor));
    assert_eq!(fault_of(&forged, Some(manifest)), Fault::Anchor(manifest));
}

#[test]
fn an_older_state_is_found_against_a_newer_anchor_only() {
    let (_dir, store, manifest) = imported();
    let mut older = Batch::default();
    for (hash, block) in Records(&*store).blocks().unwrap() {
        if hash != manifest {
            let commit = Records(&*store).commit(hash).unwrap().unwrap();
            let body = Records(&*store).body(block.header.payload_hash).unwrap();
            older.put_block(hash, &block, &commit, body.as_deref());
        }
    }
    let (_dir, older) = forged(&older, &store);
    assert_eq!(
        verify(&*older, VerifyOptions::default()).unwrap().model,
        None
    );
    assert_eq!(fault_of(&older, Some(manifest)), Fault::Anchor(manifest));
    assert_eq!(import(&older, &key(1)), Ok(manifest));
}
