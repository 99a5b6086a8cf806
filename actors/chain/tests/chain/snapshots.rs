//! Snapshots while the store is written to, and the way back to one, also where it is cut off at any step.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blyan_chain::snapshot::{self, KEPT};
use blyan_chain::{ChainError, DataDir, RocksStore, VerifyOptions, verify};

use crate::support::{self, Call, NOW_MS, ScriptedDisk, When};

fn verified(layout: &DataDir) -> blyan_chain::VerifyReport {
    let store = RocksStore::open_read_only(layout.clone()).unwrap();
    let report = verify(&store, VerifyOptions::default()).unwrap();
    blyan_chain::VerifyReport {
        elapsed: Duration::ZERO,
        ..report
    }
}

fn record(chain: &blyan_chain::ChainWriter<RocksStore>, number: u8) {
    let receipt = support::receipt(number, NOW_MS + u64::from(number));
    chain.record_receipts(&[receipt]).unwrap();
}

#[test]
fn a_store_goes_back_to_a_snapshot_and_keeps_what_it_replaced() {
    let (dir, store, manifest) = support::imported();
    let layout = DataDir::new(dir.path());
    let chain = support::open_chain(Arc::clone(&store), &support::key(1)).unwrap();
    record(&chain, 1);
    let taken = snapshot::create(&store, NOW_MS).unwrap();
    assert_eq!((taken.manifest.receipts, taken.manifest.payloads), (1, 20));
    record(&chain, 2);
    drop(chain);
    // A payload that is gone, and one that another file has taken the place of.
    let tensors = support::tensors();
    fs::remove_file(layout.payload(tensors[0].payload)).unwrap();
    fs::remove_file(layout.payload(tensors[1].payload)).unwrap();
    fs::write(layout.payload(tensors[1].payload), b"something else").unwrap();
    let held = snapshot::restore(&layout, &taken, VerifyOptions::default()).unwrap_err();
    assert!(matches!(held, ChainError::Held(_)));
    drop(store);
    let restored = snapshot::restore(&layout, &taken, VerifyOptions::default()).unwrap();
    assert_eq!(restored.payloads, 2);
    let report = verified(&layout);
    assert_eq!((report.receipts, report.unreferenced), (1, 0));
    assert_eq!(report.model.unwrap().0, manifest);
    // The snapshot is as it was, and the store goes on from there.
    let chain = support::open_chain(support::open_store(dir.path()), &support::key(1)).unwrap();
    record(&chain, 3);
    drop(chain);
    assert_eq!(verified(&layout).receipts, 2);
    let report = snapshot::verify_snapshot(&taken, VerifyOptions::default()).unwrap();
    assert_eq!(report.receipts, 1);
    assert!(dir.path().join("db.replaced").is_dir());
}

/// A power cut just after may leave what was synced and nothing else.
#[test]
fn a_snapshot_gets_its_name_after_every_file_and_folder_of_it_is_synced() {
    let (dir, store, _) = support::imported();
    drop(store);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let disk = ScriptedDisk::new(move |_, call, when| {
        if when == When::After {
            seen.lock().unwrap().push(call);
        }
        Ok(())
    });
    let store = RocksStore::open_with(DataDir::new(dir.path()), Arc::new(disk)).unwrap();
    calls.lock().unwrap().clear();
    let taken = snapshot::create(&store, NOW_MS).unwrap();
    let files = fs::read_dir(taken.layout.db()).unwrap().count();
    let calls = calls.lock().unwrap();
    let named = calls.iter().position(|call| *call == Call::Rename).unwrap();
    let before = |call| calls[..named].iter().filter(|made| **made == call).count();
    assert!(before(Call::SyncFile) >= files, "{files} files: {calls:?}");
    assert!(before(Call::SyncDir) >= 3, "{calls:?}");
}

#[test]
fn a_folder_that_is_not_there_holds_none_and_one_that_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let layout = DataDir::new(dir.path());
    assert!(snapshot::list(&layout).unwrap().is_empty());
    fs::write(layout.snapshots(), b"a file").unwrap();
    assert!(matches!(
        snapshot::list(&layout),
        Err(ChainError::Io { .. })
    ));
}

/// What a crash leaves of a snapshot that was being made.
#[test]
fn half_a_snapshot_is_removed_at_the_opening_and_whole_ones_stay() {
    let (dir, store, _) = support::imported();
    let layout = DataDir::new(dir.path());
    let taken = snapshot::create(&store, NOW_MS).unwrap();
    drop(store);
    let half = layout.snapshots().join(".tmp-half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("db"), b"half").unwrap();
    support::open_store(dir.path());
    assert!(!half.exists());
    assert_eq!(snapshot::list(&layout).unwrap()[0].id, taken.id);
    fs::remove_dir_all(layout.snapshots()).unwrap();
    fs::write(layout.snapshots(), b"a file").unwrap();
    assert!(RocksStore::open(layout.clone()).is_err());
    fs::remove_file(layout.snapshots()).unwrap();
    fs::write(dir.path().join("db.next"), b"a file").unwrap();
    assert!(RocksStore::open(layout).is_err(), "what cannot be removed");
}

/// What was doing, which databases are moved, whether the marker is there, receipts afterwards.
type Cut = (
    &'static str,
    &'static [(&'static str, &'static str)],
    bool,
    u64,
);

/// The places in which a restore can be cut off: which of the databases stands where, and whether the marker is there.
#[test]
fn a_restore_that_was_cut_off_is_finished_or_was_never_begun() {
    let cuts: [Cut; 4] = [
        (
            "before the marker",
            &[("db", "db.next"), ("db.replaced", "db")],
            false,
            2,
        ),
        (
            "after the marker",
            &[("db", "db.next"), ("db.replaced", "db")],
            true,
            1,
        ),
        ("between the two renames", &[("db", "db.next")], true, 1),
        ("before the marker is taken away", &[], true, 1),
    ];
    for (cut, renames, marked, receipts) in cuts {
        let (dir, store, _) = support::imported();
        let layout = DataDir::new(dir.path());
        let chain = support::open_chain(Arc::clone(&store), &support::key(1)).unwrap();
        record(&chain, 1);
        let taken = snapshot::create(&store, NOW_MS).unwrap();
        record(&chain, 2);
        drop((chain, store));
        snapshot::restore(&layout, &taken, VerifyOptions::default()).unwrap();
        for (from, to) in renames {
            fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        }
        if marked {
            fs::write(dir.path().join("restoring"), &taken.id).unwrap();
            let refused = RocksStore::open_read_only(layout.clone()).err();
            assert_eq!(refused, Some(ChainError::Busy), "{cut}");
        }
        drop(support::open_store(dir.path()));
        assert_eq!(verified(&layout).receipts, receipts, "{cut}");
        assert!(!dir.path().join("db.next").exists(), "{cut}");
        assert!(!dir.path().join("restoring").exists(), "{cut}");
    }
}

#[test]
fn snapshots_of_a_store_that_is_written_to_hold_one_moment_each() {
    let (_dir, store, _) = support::imported();
    let chain = support::open_chain(Arc::clone(&store), &support::key(1)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..u8::MAX).cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                record(&chain, number);
            }
        });
        for number in 0..8 {
            let taken = snapshot::create(&store, NOW_MS + number).unwrap();
            let report = snapshot::verify_snapshot(&taken, VerifyOptions::default());
            assert_eq!(report.unwrap().receipts, taken.manifest.receipts);
        }
        over.store(true, Ordering::Relaxed);
    });
    let all = snapshot::list(store.layout()).unwrap();
    assert_eq!(all.len(), 8);
    let newest = snapshot::find(store.layout(), None).unwrap();
    assert_eq!(newest, all[7]);
    let named = snapshot::find(store.layout(), Some(&all[3].id)).unwrap();
    assert_eq!(named, all[3]);
    let none = snapshot::find(store.layout(), Some("1-0"));
    assert_eq!(none, Err(ChainError::NoSnapshot(Some("1-0".to_owned()))));
}

#[test]
fn old_snapshots_go_and_the_newest_stays() {
    let (_dir, store, _) = support::imported();
    let kept_ms = KEPT.as_millis() as u64;
    for at in [NOW_MS, NOW_MS + 1, NOW_MS + kept_ms] {
        snapshot::create(&store, at).unwrap();
    }
    let times = || -> Vec<u64> {
        let all = snapshot::list(store.layout()).unwrap();
        all.iter()
            .map(|one| one.manifest.created_ms - NOW_MS)
            .collect()
    };
    assert_eq!(
        snapshot::prune(store.layout(), NOW_MS + kept_ms).unwrap(),
        0
    );
    assert_eq!(
        snapshot::prune(store.layout(), NOW_MS + kept_ms + 1).unwrap(),
        1
    );
    assert_eq!(times(), [1, kept_ms]);
    assert_eq!(snapshot::prune(store.layout(), NOW_MS * 2).unwrap(), 1);
    assert_eq!(times(), [kept_ms]);
}

#[test]
fn a_snapshot_that_is_not_what_it_was_is_not_restored() {
    let (dir, store, _) = support::imported();
    let layout = DataDir::new(dir.path());
    let taken = snapshot::create(&store, NOW_MS).unwrap();
    drop(store);
    let manifest = taken.layout.root().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let refuses = |what: &str| {
        let found = snapshot::find(&layout, None);
        let restored =
            found.and_then(|found| snapshot::restore(&layout, &found, VerifyOptions::default()));
        assert!(restored.is_err(), "{what}");
        assert_eq!(
            verified(&layout).unreferenced,
            0,
            "{what}: the store is left alone"
        );
    };
    fs::write(&manifest, text.replace("\"receipts\":0", "\"receipts\":1")).unwrap();
    refuses("another number");
    let root = taken.manifest.root.to_string();
    let tail = if root.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{tail}", &root[..root.len() - 1]);
    fs::write(&manifest, text.replace(&root, &other)).unwrap();
    refuses("another root");
    fs::write(&manifest, text.replace("\"version\":1", "\"version\":2")).unwrap();
    refuses("another version");
    fs::write(&manifest, &text[1..]).unwrap();
    refuses("half a manifest");
    fs::write(&manifest, &text).unwrap();
    let payload = taken.layout.payload(support::tensors()[3].payload);
    let bytes = fs::read(&payload).unwrap();
    fs::remove_file(&payload).unwrap();
    refuses("a payload that is gone");
    fs::write(&payload, &bytes[1..]).unwrap();
    refuses("a payload that is shorter");
    fs::write(&payload, &bytes).unwrap();
    snapshot::restore(
        &layout,
        &snapshot::find(&layout, None).unwrap(),
        VerifyOptions::default(),
    )
    .unwrap();
}
