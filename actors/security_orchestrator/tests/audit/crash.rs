//! Kills and failing disks: what was acknowledged is there, what was torn is said.

use std::fs;
use std::sync::atomic::Ordering;

use blyan_security::audit::{Action, AuditError, RecordOutcome, verify};

use crate::house::{BadDisk, Failure, House, entry};

/// The bytes of a log's only file after each of its first two records.
fn two_records() -> (House, Vec<u8>, usize) {
    let house = House::new();
    let mut log = house.open().unwrap().0;
    log.append(&[entry(1)]).unwrap();
    let first = fs::read(&house.files()[0]).unwrap().len();
    log.append(&[entry(2)]).unwrap();
    drop(log);
    let bytes = fs::read(&house.files()[0]).unwrap();
    (house, bytes, first)
}

#[test]
fn a_torn_append_is_cut_and_recorded_at_every_byte() {
    let (house, bytes, first) = two_records();
    let file = house.files()[0].clone();
    for len in first..bytes.len() {
        fs::write(&file, &bytes[..len]).unwrap();
        let torn = (len - first) as u64;
        let report = verify(&house.dir(), house.public_key(), &[]).unwrap();
        assert_eq!(
            (report.end.count, report.torn_len),
            (1, torn),
            "{len} bytes"
        );

        let (mut log, replayed) = house.open().unwrap();
        assert_eq!(replayed[0].entry(), entry(1));
        let cuts: Vec<_> = replayed[1..].iter().map(|record| record.action).collect();
        let expected = if torn > 0 {
            vec![Action::TailCut]
        } else {
            vec![]
        };
        assert_eq!(cuts, expected, "{len} bytes");
        if let Some(cut) = replayed.get(1) {
            assert!(
                cut.reason.starts_with(&format!("{torn} bytes ")),
                "{}",
                cut.reason
            );
            assert_eq!(cut.outcome, RecordOutcome::Done);
        }
        log.append(&[entry(3)]).unwrap();
        let end = log.anchor();
        drop(log);
        let report = verify(&house.dir(), house.public_key(), &[end]).unwrap();
        assert_eq!((report.end, report.torn_len), (end, 0), "{len} bytes");
    }
}

#[test]
fn a_crash_between_the_record_of_a_cut_and_the_cut_itself_is_recorded_too() {
    let (house, bytes, first) = two_records();
    let file = house.files()[0].clone();
    // The torn append was longer than the record of its cut, whose bytes stand over its beginning.
    fs::write(&file, &bytes[..first + 40]).unwrap();
    drop(house.open().unwrap());
    let cut = fs::read(&file).unwrap();
    let rest = [&cut[..], b"what is left of a long one"].concat();
    fs::write(&file, rest).unwrap();
    let (_, replayed) = house.open().unwrap();
    let actions: Vec<_> = replayed.iter().map(|record| record.action).collect();
    assert_eq!(
        actions,
        [Action::Quarantine, Action::TailCut, Action::TailCut]
    );
    assert!(verify(&house.dir(), house.public_key(), &[]).is_ok());
}

#[test]
fn a_crash_after_a_new_file_and_before_its_first_record_is_no_fault() {
    let (house, anchors) = House::with(3);
    let next = house.dir().join("00000000000000000004.audit");
    fs::write(&next, b"").unwrap();
    assert!(verify(&house.dir(), house.public_key(), &anchors).is_ok());
    let mut log = house.open().unwrap().0;
    log.append(&[entry(4)]).unwrap();
    let end = log.anchor();
    assert_eq!(
        verify(&house.dir(), house.public_key(), &[end])
            .unwrap()
            .end
            .count,
        4
    );
    assert!(fs::metadata(next).unwrap().len() > 0);
}

#[test]
fn after_a_failed_write_nothing_more_is_written_until_the_log_is_opened_anew() {
    for len in [0, 1, 100] {
        let house = House::new();
        let disk = BadDisk::new(Failure::ShortWrite(len));
        let mut log = house.open_on(disk.clone()).unwrap().0;
        log.append(&[entry(1)]).unwrap();
        let acknowledged = log.anchor();
        disk.arm();
        for _ in 0..2 {
            let refused = log.append(&[entry(2)]).unwrap_err();
            assert!(matches!(refused, AuditError::NotDurable(_)), "{refused}");
        }
        assert_eq!(
            disk.failures.load(Ordering::SeqCst),
            1,
            "the second is not tried"
        );
        assert_eq!(log.anchor(), acknowledged);
        drop(log);
        let (_, replayed) = house.open().unwrap();
        assert_eq!(replayed[0].entry(), entry(1));
        assert!(
            replayed[1..]
                .iter()
                .all(|record| record.action == Action::TailCut)
        );
        assert!(verify(&house.dir(), house.public_key(), &[acknowledged]).is_ok());
    }
}

/// It was written whole, so it is found again: decided, though nobody was told.
#[test]
fn a_record_whose_sync_failed_is_written_and_synced_again() {
    let house = House::new();
    let disk = BadDisk::new(Failure::Sync);
    let mut log = house.open_on(disk.clone()).unwrap().0;
    log.append(&[entry(1)]).unwrap();
    disk.arm();
    assert!(log.append(&[entry(2)]).is_err());
    drop(log);
    assert!(
        matches!(house.open_on(disk), Err(AuditError::NotDurable(_))),
        "not before it is certain"
    );
    let (_, replayed) = house.open().unwrap();
    assert_eq!(replayed.len(), 2);
}

#[test]
fn a_log_has_one_writer() {
    let house = House::new();
    let log = house.open().unwrap().0;
    assert!(matches!(house.open(), Err(AuditError::Held(_))));
    drop(log);
    assert!(house.open().is_ok());
}

#[test]
fn many_records_of_one_append_share_a_sync_and_are_all_there() {
    let house = House::new();
    let mut log = house.open().unwrap().0;
    let entries: Vec<_> = (1..=50).map(entry).collect();
    let records = log.append(&entries).unwrap();
    assert_eq!(records.last().map(|record| record.seq), Some(50));
    assert!(log.append(&[]).unwrap().is_empty());
    drop(log);
    assert_eq!(house.open().unwrap().1, records);
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let house = House::new();
    let mut log = house.open().unwrap().0;
    let mut long = entry(1);
    long.reason = "\u{1}".repeat(10) + &"\u{e9}".repeat(1_000);
    long.who = "\u{1}".repeat(500);
    long.subject = "\u{10ffff}".repeat(500);
    let record = log.append(&[long]).unwrap().remove(0);
    assert_eq!(
        (record.reason.len(), record.who.len(), record.subject.len()),
        (512, 128, 256)
    );
    drop(log);
    assert_eq!(house.open().unwrap().1, [record]);
    assert!(verify(&house.dir(), house.public_key(), &[]).is_ok());
}

#[test]
fn a_copy_elsewhere_is_as_good() {
    let (house, anchors) = House::with(5);
    let other = tempfile::tempdir().unwrap();
    house.copy_to(other.path());
    let report = verify(other.path(), house.public_key(), &anchors).unwrap();
    assert_eq!(report.end, anchors[4]);
}
