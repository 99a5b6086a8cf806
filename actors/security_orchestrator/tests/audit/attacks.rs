//! Row by row: what an attacker who can write the files may try, and what `verify` calls it.

use std::fs::{self, OpenOptions};
use std::sync::Arc;

use blyan_formats::{FormatError, Signature, to_canonical};
use blyan_security::audit::{
    Anchor, AuditError, AuditLog, AuditOptions, FaultKind, LINE_LEN_MAX, RealDisk, Record,
    RecordHash, verify,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::house::{House, RECORDS, SEGMENT_LEN_MAX, entry, key};

#[derive(Serialize, Deserialize)]
struct Signed {
    record: Record,
    signature: Signature,
}

/// A line with its record changed and its old signature.
fn forge(line: &[u8], change: impl FnOnce(&mut Record)) -> Result<Vec<u8>, FormatError> {
    let mut signed: Signed = serde_json::from_slice(line).unwrap();
    change(&mut signed.record);
    let mut line = to_canonical(&signed)?;
    line.push(b'\n');
    Ok(line)
}

#[test]
fn an_untouched_log_is_whole_at_every_anchor() {
    let (house, anchors) = House::with(RECORDS);
    assert!(house.files().len() > 2, "the log goes on in new files");
    let report = verify(&house.dir(), house.public_key(), &anchors).unwrap();
    assert_eq!((report.end.count, report.torn_len), (RECORDS, 0));
    assert_eq!(Some(report.end), anchors.last().copied());
    assert_eq!(report.last_anchor, anchors.last().copied());
    let (log, replayed) = house.open().unwrap();
    assert_eq!(log.anchor(), report.end);
    let entries: Vec<_> = replayed.iter().map(Record::entry).collect();
    assert_eq!(entries, (1..=RECORDS).map(entry).collect::<Vec<_>>());
}

#[test]
fn no_log_is_an_empty_log() {
    let house = House::new();
    let report = verify(&house.dir(), house.public_key(), &[]).unwrap();
    assert_eq!(report.end.count, 0);
    assert!(!house.dir().exists(), "verification changes nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any byte of any file, to any other value: with an anchor at the end nothing goes unseen.
    #[test]
    fn a_changed_byte_is_found(at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let (house, anchors) = House::with(RECORDS);
        let mut lines = house.lines();
        let total: usize = lines.iter().map(|(_, line)| line.len()).sum();
        let mut at = at.index(total);
        let mut number = 0;
        while at >= lines[number].1.len() {
            at -= lines[number].1.len();
            number += 1;
        }
        lines[number].1[at] ^= flip;
        house.rewrite(&lines);
        let fault = house.fault(&anchors);
        let file = lines[number].0.file_name().unwrap().to_string_lossy().into_owned();
        prop_assert_eq!(fault.seq, number as u64 + 1, "{}", fault);
        prop_assert_eq!(&fault.file, &file, "{}", fault);
    }
}

#[test]
fn a_changed_record_is_named() {
    let (house, _) = House::with(RECORDS);
    let mut lines = house.lines();
    let change = |record: &mut Record| "nothing happened".clone_into(&mut record.reason);
    lines[9].1 = forge(&lines[9].1, change).unwrap();
    house.rewrite(&lines);
    let fault = house.fault(&[]);
    assert_eq!((fault.seq, fault.kind), (10, FaultKind::Changed));
    assert!(
        matches!(house.open(), Err(AuditError::Fault(found)) if found.seq == 10),
        "nothing is built on it"
    );
}

#[test]
fn a_removed_record_is_named() {
    for number in [1, 2, 12, RECORDS - 1] {
        let (house, _) = House::with(RECORDS);
        let mut lines = house.lines();
        lines.remove(usize::try_from(number - 1).unwrap());
        house.rewrite(&lines);
        let fault = house.fault(&[]);
        let removed = FaultKind::Removed { found: number + 1 };
        assert_eq!((fault.seq, fault.kind), (number, removed));
    }
}

#[test]
fn a_removed_file_is_named() {
    let (house, anchors) = House::with(RECORDS);
    fs::remove_file(&house.files()[1]).unwrap();
    let fault = house.fault(&[]);
    assert!(matches!(fault.kind, FaultKind::Removed { .. }), "{fault}");

    let (house, _) = House::with(RECORDS);
    fs::remove_file(house.files().last().unwrap()).unwrap();
    assert!(matches!(house.kind(&anchors), FaultKind::Cut { .. }));
}

#[test]
fn two_swapped_records_are_named() {
    for (one, other) in [(4_u64, 5_u64), (3, 20), (1, 2)] {
        let (house, _) = House::with(RECORDS);
        let mut lines = house.lines();
        let at = |number: u64| usize::try_from(number - 1).unwrap();
        let line = lines[at(one)].1.clone();
        lines[at(one)].1 = std::mem::replace(&mut lines[at(other)].1, line);
        house.rewrite(&lines);
        let fault = house.fault(&[]);
        let swapped = FaultKind::OutOfOrder { found: other };
        assert_eq!((fault.seq, fault.kind), (one, swapped));
    }
}

#[test]
fn a_repeated_record_is_named() {
    let (house, _) = House::with(RECORDS);
    let mut lines = house.lines();
    let again = lines[4].clone();
    lines.insert(5, again);
    house.rewrite(&lines);
    let fault = house.fault(&[]);
    assert_eq!(
        (fault.seq, fault.kind),
        (6, FaultKind::OutOfOrder { found: 5 })
    );
}

#[test]
fn the_last_record_again_is_out_of_order_and_nothing_is_missing() {
    let (house, _) = House::with(RECORDS);
    let mut lines = house.lines();
    lines.extend_from_within(lines.len() - 1..);
    house.rewrite(&lines);
    let fault = house.fault(&[]);
    let found = RECORDS;
    assert_eq!(
        (fault.seq, fault.kind),
        (RECORDS + 1, FaultKind::OutOfOrder { found })
    );
}

/// Cuts the log after `keep` records, whole files included.
fn cut(house: &House, keep: usize) {
    let mut lines = house.lines();
    lines.truncate(keep);
    let files = house.files();
    house.rewrite(&lines);
    for file in files {
        if fs::metadata(&file).unwrap().len() == 0 {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn a_tail_cut_before_an_anchor_is_named() {
    for keep in [0, 1, 9, 22] {
        let (house, anchors) = House::with(RECORDS);
        cut(&house, keep);
        let last = keep as u64;
        let cut = FaultKind::Cut { last, anchored: 23 };
        let fault = house.fault(&anchors[22..23]);
        assert_eq!((fault.seq, fault.kind), (last + 1, cut));
    }
}

#[test]
fn a_tail_cut_after_the_last_anchor_is_the_stated_limit() {
    let (house, anchors) = House::with(RECORDS);
    cut(&house, 15);
    let report = verify(&house.dir(), house.public_key(), &anchors[..15]).unwrap();
    assert_eq!(
        (report.end, report.last_anchor),
        (anchors[14], Some(anchors[14]))
    );
}

#[test]
fn a_log_signed_anew_by_another_key_is_named() {
    let (house, _) = House::with(RECORDS);
    let stranger = key(9);
    let other = tempfile::tempdir().unwrap();
    let options = AuditOptions {
        dir: other.path().join("audit"),
        key: Arc::clone(&stranger),
        segment_len_max: SEGMENT_LEN_MAX,
        disk: Arc::new(RealDisk),
    };
    let mut log = AuditLog::open(options.clone(), 1, &mut |_| {}).unwrap();
    for number in 1..=RECORDS {
        log.append(&[entry(number)]).unwrap();
    }
    let fault = verify(&options.dir, house.public_key(), &[]).unwrap_err();
    let AuditError::Fault(fault) = fault else {
        panic!("{fault}");
    };
    let found = stranger.public_key();
    assert_eq!((fault.seq, fault.kind), (1, FaultKind::OtherKey { found }));

    // The same, but saying that the node signed it.
    let mut lines = house.lines();
    let claim = |record: &mut Record| record.key = found;
    lines[3].1 = forge(&lines[3].1, claim).unwrap();
    house.rewrite(&lines);
    assert_eq!(house.fault(&[]).kind, FaultKind::Changed);
}

#[test]
fn a_log_written_anew_with_the_nodes_key_differs_from_its_anchor() {
    let (house, _) = House::with(RECORDS);
    let other = House::new();
    let mut log = other.open().unwrap().0;
    let mut early = entry(1);
    early.at_ms += 1;
    log.append(&[early]).unwrap();
    let forged: Anchor = log.anchor();
    let fault = house.fault(&[forged]);
    assert_eq!((fault.seq, fault.kind), (1, FaultKind::AnchorDiffers));

    // Records of two logs of one key do not fit together.
    for number in 2..=3 {
        log.append(&[entry(number)]).unwrap();
    }
    drop(log);
    let (mut lines, others) = (house.lines(), other.lines());
    lines[2].1.clone_from(&others[2].1);
    house.rewrite(&lines);
    assert_eq!(house.kind(&[]), FaultKind::NotLinked);
}

#[test]
fn nothing_else_may_lie_in_the_folder() {
    for name in [
        "notes.txt",
        "1.audit",
        "0000000000000000000x.audit",
        "+0000000000000000009.audit",
    ] {
        let (house, _) = House::with(3);
        fs::write(house.dir().join(name), b"").unwrap();
        let fault = house.fault(&[]);
        assert_eq!(
            (fault.file.as_str(), fault.kind),
            (name, FaultKind::Stranger)
        );
    }
    let (house, _) = House::with(3);
    fs::create_dir(house.dir().join("00000000000000000009.audit")).unwrap();
    assert_eq!(house.kind(&[]), FaultKind::Stranger);
}

#[test]
fn a_renamed_file_is_named() {
    let (house, _) = House::with(3);
    let renamed = house.dir().join("00000000000000000002.audit");
    fs::rename(&house.files()[0], renamed).unwrap();
    assert_eq!(house.fault(&[]).kind, FaultKind::FileName);
}

#[test]
fn what_hangs_on_the_last_record_is_found() {
    for tail in [&b"x"[..], b" ", b"{}\n", b"\0\0"] {
        let (house, _) = House::with(3);
        let mut file = OpenOptions::new()
            .append(true)
            .open(&house.files()[0])
            .unwrap();
        std::io::Write::write_all(&mut file, tail).unwrap();
        let verified = verify(&house.dir(), house.public_key(), &[]);
        match verified {
            // It may be the beginning of an append as far as anybody can tell, and says how long it is.
            Ok(report) => assert_eq!(report.torn_len, tail.len() as u64),
            Err(error) => assert!(matches!(error, AuditError::Fault(_)), "{error}"),
        }
    }
}

#[test]
fn the_last_line_end_is_covered_too() {
    let (house, _) = House::with(3);
    let mut lines = house.lines();
    *lines[2].1.last_mut().unwrap() = b' ';
    house.rewrite(&lines);
    let fault = house.fault(&[]);
    assert_eq!((fault.seq, fault.kind), (3, FaultKind::NotARecord));
    assert!(matches!(house.open(), Err(AuditError::Fault(_))));
}

#[test]
fn a_change_of_the_last_record_is_found_at_opening() {
    let (house, _) = House::with(3);
    let mut lines = house.lines();
    let change = |record: &mut Record| record.at_ms += 1;
    lines[2].1 = forge(&lines[2].1, change).unwrap();
    house.rewrite(&lines);
    let refused = house.open().map(|_| ()).unwrap_err();
    let AuditError::Fault(fault) = refused else {
        panic!("{refused}");
    };
    assert_eq!((fault.seq, fault.kind), (3, FaultKind::Changed));
}

#[test]
fn a_line_longer_than_any_record_is_no_torn_append() {
    let (house, _) = House::with(3);
    let mut lines = house.lines();
    let file = lines[0].0.clone();
    lines.push((file, vec![b'{'; 2 * LINE_LEN_MAX]));
    house.rewrite(&lines);
    let fault = house.fault(&[]);
    assert_eq!((fault.seq, fault.kind), (4, FaultKind::NotARecord));
}

#[test]
fn a_torn_append_is_at_most_as_long_as_a_record() {
    for (len, is_torn) in [(LINE_LEN_MAX, true), (LINE_LEN_MAX + 1, false)] {
        let (house, _) = House::with(3);
        let mut lines = house.lines();
        let file = lines[0].0.clone();
        lines.push((file, vec![b'{'; len]));
        house.rewrite(&lines);
        let verified = verify(&house.dir(), house.public_key(), &[]);
        let torn_len = verified.map(|report| report.torn_len).ok();
        assert_eq!(torn_len, is_torn.then_some(len as u64), "{len} bytes");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_no_empty_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit");
    fs::write(&file, b"").unwrap();
    let refused = verify(&file, House::new().public_key(), &[]);
    assert!(matches!(refused, Err(AuditError::Io { .. })), "{refused:?}");
}

#[test]
fn a_torn_append_in_the_middle_of_the_log_is_a_fault() {
    let (house, _) = House::with(RECORDS);
    let first = house.files()[0].clone();
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 10]).unwrap();
    assert_eq!(house.kind(&[]), FaultKind::NotARecord);
}

#[test]
fn an_anchor_of_nothing_has_no_head() {
    let (house, anchors) = House::with(1);
    let nothing = |head| Anchor { count: 0, head };
    let empty = nothing(RecordHash::NONE);
    assert!(verify(&house.dir(), house.public_key(), &[empty]).is_ok());
    let forged = nothing(anchors[0].head);
    assert_eq!(house.kind(&[forged]), FaultKind::AnchorDiffers);
}
