//! Payload files that rot on the disk, and where their copies come from.

use std::cell::{Cell, RefCell};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blyan_chain::scrub::{self, Finding, Repair, ScrubOptions, ScrubReport};
use blyan_chain::{ChainError, DataDir, RocksStore, Store as _, VerifyOptions, snapshot, verify};
use blyan_formats::PayloadHash;

use crate::support::{NOW_MS, imported, open_store, tensors};

/// Flips one bit in the file itself: every link to it and every map of it sees that.
fn rot(path: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// A pass, and what was told.
fn pass(store: &RocksStore, repair_dir: Option<&Path>) -> (ScrubReport, Vec<Finding>) {
    let told = RefCell::new(Vec::new());
    let report = scrub::scrub(
        store,
        &ScrubOptions {
            repair_dir,
            now_ms: NOW_MS,
            pace: &|_| ControlFlow::Continue(()),
            told: &|finding| told.borrow_mut().push(finding.clone()),
        },
    );
    (report.unwrap(), told.into_inner())
}

fn whole(store: &RocksStore) -> Result<(), ChainError> {
    verify(store, VerifyOptions::default()).map(drop)
}

#[test]
fn a_whole_store_is_read_to_its_end() {
    let (_dir, store, _) = imported();
    let (report, told) = pass(&store, None);
    let bytes = tensors()
        .iter()
        .map(|tensor| tensor.bytes.len() as u64)
        .sum();
    let expected = ScrubReport {
        payloads: 20,
        bytes,
        finished: true,
        ..ScrubReport::default()
    };
    assert_eq!((report, told), (expected, Vec::new()));
}

#[test]
fn every_kind_of_damage_is_found_and_repaired_from_a_second_directory() {
    let (_dir, store, _) = imported();
    let copies = tempfile::tempdir().unwrap();
    let tensors = tensors();
    for tensor in &tensors {
        fs::write(
            copies.path().join(tensor.payload.to_string()),
            &tensor.bytes,
        )
        .unwrap();
    }
    let path = |number: usize| store.payloads().path(tensors[number].payload);
    rot(&path(0), 0);
    rot(&path(1), tensors[1].bytes.len() as u64 - 1);
    fs::remove_file(path(2)).unwrap();
    fs::write(path(3), &tensors[3].bytes[1..]).unwrap();
    let damaged = fs::metadata(path(0)).unwrap().ino();
    let (report, told) = pass(&store, Some(copies.path()));
    assert_eq!(
        (report.repaired, report.damaged, report.finished),
        (4, 0, true)
    );
    for tensor in &tensors[..4] {
        let about: Vec<_> = told
            .iter()
            .filter(|found| found.payload == tensor.payload)
            .collect();
        assert_eq!(
            (about[0].name, &about[0].state),
            (tensor.name, &Repair::Found)
        );
        let from = copies.path().join(tensor.payload.to_string());
        assert_eq!(about[1].state, Repair::Repaired { from });
        assert_eq!(
            fs::read(store.payloads().path(tensor.payload)).unwrap(),
            tensor.bytes
        );
    }
    assert_eq!(told.len(), 8);
    // Maps of the damaged file stay what they were.
    assert_ne!(fs::metadata(path(0)).unwrap().ino(), damaged);
    assert_eq!(whole(&store), Ok(()));
    assert_eq!(pass(&store, None).0.repaired, 0);
}

/// Snapshots hold links, so what the disk damages in place is damaged in them; one that was copied is not.
#[test]
fn a_snapshot_repairs_what_it_does_not_share() {
    let (dir, store, _) = imported();
    let taken = snapshot::create(&store, NOW_MS).unwrap();
    let payload = tensors()[0].payload;
    rot(&store.payloads().path(payload), 200);
    let (report, told) = pass(&store, None);
    assert_eq!((report.repaired, report.damaged), (0, 1));
    let Repair::Failed { why } = &told[1].state else {
        panic!("{told:?}")
    };
    assert!(why.contains("a link to the damaged file"), "{why}");
    assert!(whole(&store).is_err());
    assert!(snapshot::verify_snapshot(&taken, VerifyOptions::default()).is_err());
    // A newer snapshot, whose file is another one.
    let newer = snapshot::create(&store, NOW_MS + 1).unwrap();
    let copy = newer.layout.payload(payload);
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, &tensors()[0].bytes).unwrap();
    let (report, told) = pass(&store, Some(&dir.path().join("nothing")));
    assert_eq!((report.repaired, report.damaged), (1, 0));
    assert_eq!(told[1].state, Repair::Repaired { from: copy });
    assert_eq!(whole(&store), Ok(()));
    for snapshot in [taken, newer] {
        snapshot::verify_snapshot(&snapshot, VerifyOptions::default()).unwrap();
    }
}

#[test]
fn a_damaged_copy_is_never_taken() {
    let (_dir, store, _) = imported();
    let copies = tempfile::tempdir().unwrap();
    let tensor = &tensors()[4];
    let path = store.payloads().path(tensor.payload);
    let copy = copies.path().join(tensor.payload.to_string());
    fs::write(&copy, &tensor.bytes).unwrap();
    rot(&copy, 300);
    rot(&path, 301);
    let before = fs::read(&path).unwrap();
    let (report, _) = pass(&store, Some(copies.path()));
    assert_eq!((report.repaired, report.damaged), (0, 1));
    assert_eq!(fs::read(&path).unwrap(), before);
    let temporary = fs::read_dir(store.layout().payloads()).unwrap();
    let temporary = temporary.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".tmp")
    });
    assert_eq!(temporary.count(), 0);
}

/// Two payloads, then the process goes; the next one begins with the third.
#[test]
fn a_pass_goes_on_after_a_restart_and_the_next_waits_its_time() {
    let (dir, store, _) = imported();
    let reads = Cell::new(0);
    let stopping = |_| {
        reads.set(reads.get() + 1);
        if reads.get() > 200 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let mut cursor = scrub::Cursor {
        began_ms: NOW_MS,
        after: None,
        finished: false,
    };
    let mut hashes: Vec<PayloadHash> = tensors().iter().map(|tensor| tensor.payload).collect();
    hashes.sort();
    cursor.after = Some(hashes[11]);
    let written = serde_json::to_vec(&cursor).unwrap();
    fs::write(DataDir::new(dir.path()).scrub(), written).unwrap();
    drop(store);
    let store: Arc<RocksStore> = open_store(dir.path());
    let every = Duration::from_secs(60);
    let next = |now| scrub::next_pass(store.layout(), every, now).unwrap();
    assert_eq!(next(NOW_MS), Duration::ZERO);
    let options = ScrubOptions {
        repair_dir: None,
        now_ms: NOW_MS + 5_000,
        pace: &stopping,
        told: &|finding| panic!("{finding:?}"),
    };
    let report = scrub::scrub(&store, &options).unwrap();
    assert_eq!((report.payloads, report.finished), (8, true));
    assert_eq!(next(NOW_MS + 20_000), Duration::from_secs(40));
    assert_eq!(next(NOW_MS + 61_000), Duration::ZERO);
    // A pass that its caller ends stays where it was.
    reads.set(200);
    let report = scrub::scrub(
        &store,
        &ScrubOptions {
            now_ms: NOW_MS + 61_000,
            ..options
        },
    )
    .unwrap();
    assert_eq!((report.payloads, report.finished), (0, false));
}
