//! What a store keeps, who may write to it, and what a failed sync leaves.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_chain::{
    Admission, ChainConfig, ChainError, ChainReader, ChainWriter, DataDir, ReceiptCursor,
    RocksStore, Store, VerifyOptions, open_or_create, verify,
};
use blyan_formats::{ChainId, ContentHash, ErrorClass, PayloadHash};
use blyan_protocol::ModelId;

use crate::support::{
    Call, NOW_MS, ScriptedDisk, When, acceptance, block_of, import, imported, key, open_chain,
    open_store, receipt, tensors,
};

#[test]
fn an_import_is_read_back_after_reopening() {
    let (dir, store, manifest) = imported();
    drop(store);
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    let model = reader.model(None).unwrap();
    assert_eq!(model.id, ModelId(manifest));
    assert_eq!(model.entries.len(), 20);
    assert_eq!(
        reader.model(Some(ModelId(manifest))).unwrap().entries,
        model.entries
    );
    for tensor in tensors() {
        let location = reader.locate(tensor.payload).unwrap();
        assert_eq!(location.name, tensor.name);
        assert_eq!(location.block, model.entries[&tensor.name].block);
        assert_eq!(fs::read(&location.path).unwrap(), tensor.bytes);
    }
    let head = reader.head(ChainId::A).unwrap();
    assert_eq!((head.index, head.hash, head.tips), (2, manifest, 1));
    assert_eq!(reader.head(ChainId::B).unwrap().tips, 20);
    assert_eq!(
        reader.block(manifest).unwrap().commit.accepted_by,
        key(1).public_key()
    );
}

#[test]
fn importing_again_changes_nothing() {
    let (dir, store, manifest) = imported();
    let blocks = ChainReader::open(Arc::clone(&store)).unwrap().index().len();
    assert_eq!(import(&store, &key(1)), Ok(manifest));
    assert_eq!(
        ChainReader::open(Arc::clone(&store)).unwrap().index().len(),
        blocks
    );
    drop(store);
    assert_eq!(import(&open_store(dir.path()), &key(1)), Ok(manifest));
}

#[test]
fn the_same_key_makes_the_same_chain_anywhere() {
    assert_eq!(imported().2, imported().2);
}

#[test]
fn a_stopped_data_directory_may_be_copied_to_any_path() {
    let (dir, store, manifest) = imported();
    drop(store);
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join("elsewhere");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(dir.path())
        .arg(&to)
        .status()
        .unwrap();
    assert!(copied.success());
    drop(dir);
    let store = open_store(&to);
    assert_eq!(
        verify(&*store, VerifyOptions::default()).unwrap().model,
        Some(ModelId(manifest))
    );
    let reader = ChainReader::open(store).unwrap();
    assert!(
        reader
            .locate(tensors()[0].payload)
            .unwrap()
            .path
            .starts_with(&to)
    );
}

#[test]
fn a_second_writer_is_told_that_the_directory_is_held() {
    let (dir, store, manifest) = imported();
    let error = RocksStore::open(DataDir::new(dir.path())).err().unwrap();
    assert_eq!(error, ChainError::Held(dir.path().to_owned()));
    let beside = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    assert_eq!(beside.models(), [ModelId(manifest)]);
    assert_eq!(
        verify(&**beside.store(), VerifyOptions::default())
            .unwrap()
            .blocks_b,
        20
    );
    assert_eq!(beside.store().begin_generation(), Err(ChainError::ReadOnly));
    drop((beside, store));
    open_store(dir.path());
}

#[test]
fn reading_changes_no_file() {
    let (dir, store, _) = imported();
    drop(store);
    let before = listing(dir.path());
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    verify(&**reader.store(), VerifyOptions::default()).unwrap();
    drop(reader);
    assert_eq!(listing(dir.path()), before);
}

/// Every file below a folder with its length and time of change.
fn listing(dir: &std::path::Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), meta.len(), meta.modified().unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// A writer that is opened moves its log to table files, and the same when it is closed.
#[test]
fn a_reader_sees_the_whole_chain_while_writers_come_and_go() {
    let (dir, store, manifest) = imported();
    drop(store);
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = || {
        let mut times = 0;
        while !done.load(Ordering::SeqCst) {
            let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
            assert_eq!(reader.models(), [ModelId(manifest)]);
            let report = verify(&**reader.store(), VerifyOptions::default()).unwrap();
            assert_eq!((report.blocks_a, report.blocks_b), (3, 20));
            times += 1;
        }
        times
    };
    std::thread::scope(|scope| {
        let reading = scope.spawn(read);
        for number in 0..40 {
            let chain = ChainWriter::open(open_store(dir.path())).unwrap();
            chain.record_receipts(&[receipt(number, NOW_MS)]).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        assert!(reading.join().unwrap() > 0);
    });
}

#[test]
fn an_empty_directory_holds_no_chain() {
    let dir = tempfile::tempdir().unwrap();
    let error = ChainReader::open_read_only(DataDir::new(dir.path()))
        .err()
        .unwrap();
    assert_eq!(error, ChainError::NoChain(dir.path().to_owned()));
    drop(open_store(dir.path()));
    let error = ChainReader::open_read_only(DataDir::new(dir.path()))
        .err()
        .unwrap();
    assert_eq!(error, ChainError::NoChain(dir.path().to_owned()));
}

#[test]
fn a_pinned_genesis_refuses_every_other_network() {
    let (_dir, store, _) = imported();
    let genesis = ChainReader::open(Arc::clone(&store))
        .unwrap()
        .index()
        .genesis()
        .unwrap();
    let pinned = |genesis| ChainConfig {
        genesis: Some(genesis),
        ..ChainConfig::default()
    };
    assert!(
        open_or_create(
            Arc::clone(&store),
            &pinned(genesis),
            &key(1),
            NOW_MS,
            NOW_MS
        )
        .is_ok()
    );
    let other = blyan_formats::BlockHash::from_bytes([9; 32]);
    let error = open_or_create(store, &pinned(other), &key(1), NOW_MS, NOW_MS)
        .err()
        .unwrap();
    assert!(
        matches!(error, ChainError::OtherNetwork { expected, .. } if expected == other),
        "{error}"
    );

    let empty = tempfile::tempdir().unwrap();
    let store = open_store(empty.path());
    let error = open_or_create(Arc::clone(&store), &pinned(other), &key(1), NOW_MS, NOW_MS)
        .err()
        .unwrap();
    assert!(matches!(error, ChainError::OtherNetwork { .. }), "{error}");
    assert!(ChainReader::open(store).unwrap().index().is_empty());
}

#[test]
fn an_abandoned_generation_may_not_write() {
    let (_dir, store, _) = imported();
    let old = ChainWriter::open(Arc::clone(&store)).unwrap();
    let new = ChainWriter::open(Arc::clone(&store)).unwrap();
    let error = old.record_receipts(&[receipt(1, NOW_MS)]).unwrap_err();
    assert!(matches!(error, ChainError::Fenced { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert_eq!(new.record_receipts(&[receipt(2, NOW_MS)]), Ok(1));
    assert_eq!(new.receipts(None, 10).unwrap(), [receipt(2, NOW_MS)]);
}

#[test]
fn the_first_receipt_of_a_request_stays() {
    let (dir, store, _) = imported();
    let chain = ChainWriter::open(Arc::clone(&store)).unwrap();
    let later = blyan_protocol::Receipt {
        tokens_out: 99,
        ..receipt(1, NOW_MS + 5)
    };
    assert_eq!(
        chain.record_receipts(&[receipt(1, NOW_MS), later.clone(), receipt(2, NOW_MS)]),
        Ok(2)
    );
    assert_eq!(chain.record_receipts(&[later]), Ok(0));
    drop((chain, store));
    let chain = ChainWriter::open(open_store(dir.path())).unwrap();
    assert_eq!(
        chain.receipts(None, 10).unwrap(),
        [receipt(1, NOW_MS), receipt(2, NOW_MS)]
    );
    assert_eq!(
        chain.receipt(&receipt(2, NOW_MS).request_id).unwrap(),
        Some(receipt(2, NOW_MS))
    );
}

#[test]
fn receipts_come_in_pages_ordered_by_their_end() {
    let (_dir, store, _) = imported();
    let chain = ChainWriter::open(store).unwrap();
    let ends = [30, 10, 20, 20, 40];
    let stored: Vec<_> = ends
        .iter()
        .zip(1..)
        .map(|(end, number)| receipt(number, NOW_MS + end))
        .collect();
    chain.record_receipts(&stored).unwrap();
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = chain.receipts(after, 2).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(ReceiptCursor::of(last));
        pages.push(
            page.iter()
                .map(|receipt| receipt.tokens_out)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(pages, [vec![2, 3], vec![4, 1], vec![5]]);
}

#[test]
fn the_hash_of_a_derivation_is_remembered() {
    let (dir, store, _) = imported();
    let payload = tensors()[0].payload;
    let hash = ContentHash::of(b"fp32");
    let chain = ChainWriter::open(Arc::clone(&store)).unwrap();
    assert_eq!(chain.locate(payload).unwrap().fp32_sha256, None);
    chain.remember_fp32(payload, hash).unwrap();
    let unknown = PayloadHash::of_bytes(b"unknown");
    assert_eq!(
        chain.remember_fp32(unknown, hash),
        Err(ChainError::NoPayload(unknown))
    );
    drop((chain, store));
    let reader = ChainReader::open_read_only(DataDir::new(dir.path())).unwrap();
    assert_eq!(
        reader.locate(payload).unwrap().fp32_sha256,
        Some(*hash.as_bytes())
    );
}

#[test]
fn a_block_without_its_payload_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let mut chain = open_chain(Arc::clone(&store), &key(1)).unwrap();
    let architecture = crate::support::append_architecture(&mut chain, &key(1)).unwrap();
    let tensor = &tensors()[0];
    let block = block_of(&chain, tensor, architecture, &key(1)).unwrap();
    let refused = |chain: &mut ChainWriter<RocksStore>| match chain
        .append_all(std::slice::from_ref(&block), acceptance(&key(1)))
    {
        Err(ChainError::Refused { refusal, .. }) => refusal.rule(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut chain), "payload_missing");
    fs::write(store.payloads().path(tensor.payload), &tensor.bytes[1..]).unwrap();
    assert_eq!(refused(&mut chain), "payload_len");
    store.payloads().put(tensor.payload, &tensor.bytes).unwrap();
    let appended = chain
        .append_all(std::slice::from_ref(&block), acceptance(&key(1)))
        .unwrap();
    assert_eq!(appended[0].admission, Admission::New);
    let appended = chain.append_all(&[block], acceptance(&key(1))).unwrap();
    assert_eq!(appended[0].admission, Admission::Known);
}

/// Fails every call of one kind from the `from`th call of that kind on.
fn failing(call: Call, when: When, from: u64) -> ScriptedDisk {
    let seen = AtomicU64::new(0);
    ScriptedDisk::new(move |_, called, at| {
        if (called, at) != (call, when) {
            return Ok(());
        }
        let number = seen.fetch_add(1, Ordering::SeqCst);
        if number >= from {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            Ok(())
        }
    })
}

/// Imports on a failing disk, then looks with a working one, then imports again.
fn import_on(disk: ScriptedDisk) {
    let dir = tempfile::tempdir().unwrap();
    let opened = RocksStore::open_with(DataDir::new(dir.path()), Arc::new(disk));
    let failed = opened
        .map(Arc::new)
        .and_then(|store| import(&store, &key(1)));
    let error = failed.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal, "{error}");
    if let Ok(reader) = ChainReader::open_read_only(DataDir::new(dir.path())) {
        assert_eq!(
            reader.models(),
            [],
            "published after a failed sync: {error}"
        );
    }
    let store = open_store(dir.path());
    assert_eq!(ChainReader::open(Arc::clone(&store)).unwrap().models(), []);
    assert_eq!(import(&store, &key(1)).unwrap(), imported().2);
    let report = verify(&*store, VerifyOptions::default()).unwrap();
    assert_eq!(
        (report.blocks_a, report.blocks_b, report.temporary),
        (3, 20, 0)
    );
}

#[test]
fn nothing_is_published_after_a_failed_sync_of_a_payload() {
    for from in [0, 1, 19] {
        import_on(failing(Call::SyncFile, When::Before, from));
        import_on(failing(Call::Rename, When::Before, from));
    }
}

#[test]
fn nothing_is_published_after_a_failed_sync_of_the_payload_folder() {
    let folders = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&folders);
    let counting = ScriptedDisk::new(move |_, called, at| {
        let is_one = called == Call::SyncDir && at == When::Before;
        seen.fetch_add(u64::from(is_one), Ordering::SeqCst);
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open_with(DataDir::new(dir.path()), Arc::new(counting)).unwrap();
    import(&Arc::new(store), &key(1)).unwrap();
    let syncs = folders.load(Ordering::SeqCst);
    assert!(
        syncs >= 3,
        "the root, before the genesis, after the payloads: {syncs}"
    );
    for from in 0..syncs {
        import_on(failing(Call::SyncDir, When::Before, from));
    }
}

/// The batches of an import: layout, genesis, architecture, three of weights, manifest.
#[test]
fn nothing_is_published_after_a_failed_batch() {
    for from in 0..7 {
        import_on(failing(Call::WriteBatch, When::Before, from));
    }
}

/// The records are in the database's log when the sync fails, so they would come back.
#[test]
fn a_batch_that_was_written_but_not_synced_is_taken_back() {
    for from in 0..7 {
        import_on(failing(Call::WriteBatch, When::After, from));
    }
}

#[test]
fn after_a_failed_write_the_store_refuses_all_others() {
    let (dir, store, manifest) = imported();
    drop(store);
    let disk = Arc::new(failing(Call::WriteBatch, When::After, 0));
    let store = Arc::new(RocksStore::open_with(DataDir::new(dir.path()), disk).unwrap());
    let chain = ChainWriter::open(Arc::clone(&store)).unwrap();
    let first = chain.record_receipts(&[receipt(1, NOW_MS)]).unwrap_err();
    assert!(matches!(first, ChainError::NotDurable { .. }), "{first}");
    assert_eq!(
        chain.record_receipts(&[receipt(2, NOW_MS)]),
        Err(first.clone())
    );
    assert_eq!(ChainWriter::open(Arc::clone(&store)).err(), Some(first));
    assert_eq!(
        ChainReader::open(store).unwrap().models(),
        [ModelId(manifest)]
    );
}
