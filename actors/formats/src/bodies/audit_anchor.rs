use serde::{Deserialize, Serialize};

use super::{BodyError, Payload, require};
use crate::ContentHash;

/// Payload of an `audit_anchor` block: that the signer's audit log held so many records, the last of which had this
/// hash. A log that is shorter or says something else up to there was changed afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditAnchorBody {
    /// Records, at least 1.
    pub count: u64,
    /// Hash of the last one.
    pub head: ContentHash,
}

impl Payload for AuditAnchorBody {
    const LEN_MAX: usize = 256;

    fn validate(&self) -> Result<(), BodyError> {
        require(self.count > 0, "count", "must be at least 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_round_trips_and_an_empty_log_has_none() {
        let head = ContentHash::from_bytes([7; 32]);
        let anchor = AuditAnchorBody { count: 3, head };
        let bytes = anchor.to_payload().unwrap();
        assert_eq!(AuditAnchorBody::from_payload(&bytes), Ok(anchor));
        let none = AuditAnchorBody { count: 0, head };
        assert!(none.to_payload().is_err());
        assert!(AuditAnchorBody::from_payload(b"{\"count\":1}").is_err());
    }
}
