use std::cmp::Ordering;
use std::path::Path;

use blyan_formats::PublicKey;

use super::record::SignedRecord;
use super::segment::Segment;
use super::{AuditError, AuditFault, FaultKind, Record, RecordHash};

/// Where a log ends.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// Records.
    pub(super) count: u64,
    /// The last one's hash.
    pub(super) head: RecordHash,
    /// The last file.
    pub(super) segment: Option<Segment>,
    /// Length of its whole lines in bytes.
    pub(super) len: u64,
    /// The last line, with its end; empty where the last file has none.
    pub(super) last_line: Vec<u8>,
    /// An append that was cut off in its middle: never acknowledged, or not yet.
    pub(super) torn: Vec<u8>,
}

/// How much to check on the way. Each record names the one before, so the last signature stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signatures {
    /// Finds the first record that was changed.
    All,
    /// Finds whether one was.
    Last,
}

/// Goes through a log from its first record to its last, stops at the first fault, and shows each record.
pub(super) struct Walk<'a> {
    dir: &'a Path,
    key: PublicKey,
    signatures: Signatures,
    end: End,
    last: Option<SignedRecord>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(dir: &'a Path, key: PublicKey, signatures: Signatures) -> Self {
        let end = End {
            count: 0,
            head: RecordHash::NONE,
            segment: None,
            len: 0,
            last_line: Vec::new(),
            torn: Vec::new(),
        };
        Self {
            dir,
            key,
            signatures,
            end,
            last: None,
        }
    }

    pub(super) fn run(
        mut self,
        visit: &mut dyn FnMut(&Record, RecordHash) -> Result<(), FaultKind>,
    ) -> Result<End, AuditError> {
        let segments = Segment::list(self.dir)?;
        for segment in segments {
            self.enter(segment)?;
            self.read(visit)?;
        }
        if let Some(last) = &self.last
            && !last.is_signed_by(self.key, self.end.head)
        {
            return Err(self.fault(self.end.count, FaultKind::Changed));
        }
        Ok(self.end)
    }

    /// A file may begin only where the one before has ended with a whole record.
    fn enter(&mut self, segment: Segment) -> Result<(), AuditError> {
        let expected = self.end.count + 1;
        if !self.end.torn.is_empty() {
            return Err(self.fault(expected, FaultKind::NotARecord));
        }
        let first = segment.first;
        self.end.segment = Some(segment);
        self.end.len = 0;
        self.end.last_line.clear();
        if first == expected {
            return Ok(());
        }
        let found = self.first_of_current();
        Err(self.fault(expected, self.misplaced(found, FaultKind::FileName)))
    }

    fn read(
        &mut self,
        visit: &mut dyn FnMut(&Record, RecordHash) -> Result<(), FaultKind>,
    ) -> Result<(), AuditError> {
        let Some(segment) = self.end.segment.clone() else {
            return Ok(());
        };
        for line in segment.lines()? {
            let line = line?;
            if !line.whole {
                return self.tear(line.bytes);
            }
            let (record, hash) = self.check(&line.bytes)?;
            self.end.count = record.record.seq;
            self.end.head = hash;
            self.end.len += line.bytes.len() as u64 + 1;
            self.end.last_line = line.bytes;
            self.end.last_line.push(b'\n');
            let seq = record.record.seq;
            visit(&record.record, hash).map_err(|kind| self.fault(seq, kind))?;
            self.last = Some(record);
        }
        Ok(())
    }

    /// A line without an end is what a crash left, unless it goes on after a whole record.
    fn tear(&mut self, bytes: Vec<u8>) -> Result<(), AuditError> {
        let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<SignedRecord>();
        let goes_on = matches!(values.next(), Some(Ok(_))) && values.byte_offset() < bytes.len();
        if goes_on {
            return Err(self.fault(self.end.count + 1, FaultKind::NotARecord));
        }
        self.end.torn = bytes;
        Ok(())
    }

    fn check(&self, line: &[u8]) -> Result<(SignedRecord, RecordHash), AuditError> {
        let expected = self.end.count + 1;
        let fault = |kind| self.fault(expected, kind);
        let signed = SignedRecord::parse(line).map_err(|_| fault(FaultKind::NotARecord))?;
        let hash = signed
            .record
            .hash()
            .map_err(|_| fault(FaultKind::NotARecord))?;
        if self.signatures == Signatures::All {
            self.check_signature(&signed, hash).map_err(fault)?;
        }
        let found = signed.record.seq;
        if found != expected {
            return Err(fault(
                self.misplaced(Some(found), FaultKind::OutOfOrder { found }),
            ));
        }
        if signed.record.prev != self.end.head {
            return Err(fault(FaultKind::NotLinked));
        }
        Ok((signed, hash))
    }

    fn check_signature(&self, signed: &SignedRecord, hash: RecordHash) -> Result<(), FaultKind> {
        let found = signed.record.key;
        if found == self.key && signed.is_signed_by(self.key, hash) {
            return Ok(());
        }
        Err(if found != self.key && signed.is_signed_by(found, hash) {
            FaultKind::OtherKey { found }
        } else {
            FaultKind::Changed
        })
    }

    /// What it means that `found` stands where the next record should: it was removed, unless it is elsewhere.
    fn misplaced(&self, found: Option<u64>, otherwise: FaultKind) -> FaultKind {
        let expected = self.end.count + 1;
        let Some(found) = found else {
            return otherwise;
        };
        match found.cmp(&expected) {
            Ordering::Greater if !self.is_anywhere(expected) => FaultKind::Removed { found },
            Ordering::Greater | Ordering::Less => FaultKind::OutOfOrder { found },
            Ordering::Equal => otherwise,
        }
    }

    fn is_anywhere(&self, seq: u64) -> bool {
        let segments = Segment::list(self.dir).unwrap_or_default();
        segments
            .iter()
            .filter_map(|segment| segment.lines().ok())
            .flat_map(|lines| lines.map_while(Result::ok))
            .filter_map(|line| SignedRecord::parse(&line.bytes).ok())
            .any(|signed| signed.record.seq == seq)
    }

    fn first_of_current(&self) -> Option<u64> {
        let line = self.end.segment.as_ref()?.lines().ok()?.next()?.ok()?;
        Some(SignedRecord::parse(&line.bytes).ok()?.record.seq)
    }

    fn fault(&self, seq: u64, kind: FaultKind) -> AuditError {
        let file = self.end.segment.as_ref().map(Segment::name);
        AuditFault {
            file: file.unwrap_or_else(|| super::AUDIT_DIR.to_owned()),
            seq,
            kind,
        }
        .into()
    }
}
