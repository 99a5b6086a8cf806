use std::path::Path;

use blyan_formats::PublicKey;
use serde::Serialize;

use super::segment::Segment;
use super::walk::{Signatures, Walk};
use super::{Anchor, AuditError, AuditFault, FaultKind, RecordHash};

/// A log without a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Records, and the hash of the last one.
    #[serde(flatten)]
    pub end: Anchor,
    /// The last anchor that the log reaches; what was cut off after it cannot be seen.
    pub last_anchor: Option<Anchor>,
    /// Bytes of an append that is under way, or that a crash cut off and nobody was told of.
    pub torn_len: u64,
}

/// Checks every byte of a log: each record's form, signature, number and link, each file's name, and the anchors.
/// Changes nothing, takes no lock, and may run beside a node that writes.
///
/// Shown by `tests/attacks.rs`. What was cut off after the last anchor is not found: [the stated limit](super).
///
/// # Errors
/// [`AuditError::Fault`] for the first fault; [`AuditError::Io`].
pub fn verify(dir: &Path, key: PublicKey, anchors: &[Anchor]) -> Result<AuditReport, AuditError> {
    let mut anchors = anchors.to_vec();
    anchors.sort_unstable();
    let check = |count: u64, hash: RecordHash| {
        let mut here = anchors.iter().filter(|anchor| anchor.count == count);
        match here.all(|anchor| anchor.head == hash) {
            true => Ok(()),
            false => Err(FaultKind::AnchorDiffers),
        }
    };
    check(0, RecordHash::NONE).map_err(|kind| fault(dir, 0, kind))?;
    let walk = Walk::new(dir, key, Signatures::All);
    let end = walk.run(&mut |record, hash| check(record.seq, hash))?;
    if let Some(beyond) = anchors.iter().find(|anchor| anchor.count > end.count) {
        let cut = FaultKind::Cut {
            last: end.count,
            anchored: beyond.count,
        };
        return Err(fault(dir, end.count + 1, cut));
    }
    Ok(AuditReport {
        end: Anchor {
            count: end.count,
            head: end.head,
        },
        last_anchor: anchors.last().copied(),
        torn_len: end.torn.len() as u64,
    })
}

/// A fault of the log's end: named with the last file.
fn fault(dir: &Path, seq: u64, kind: FaultKind) -> AuditError {
    let last = Segment::list(dir).ok().and_then(|mut list| list.pop());
    AuditFault {
        file: last.map_or_else(|| super::AUDIT_DIR.to_owned(), |last| last.name()),
        seq,
        kind,
    }
    .into()
}
