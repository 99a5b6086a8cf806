use std::fmt;
use std::str::FromStr;

use blyan_formats::canonical::CanonicalError;
use blyan_formats::canonical::from_canonical_bounded;
use blyan_formats::hash::{HashParseError, domain_hash};
use blyan_formats::{BlockHash, ContentHash, NodeKey, PublicKey, Signature, to_canonical};
use serde::{Deserialize, Serialize};

/// Domain of a record's hash.
pub const AUDIT_DOMAIN: &[u8] = b"blyan/audit/v1\0";

/// Longest `who` of a record, in bytes; longer texts are cut.
pub const WHO_LEN_MAX: usize = 128;
/// Longest `subject`, in bytes.
pub const SUBJECT_LEN_MAX: usize = 256;
/// Longest `reason`, in bytes.
pub const REASON_LEN_MAX: usize = 512;

/// Longest line, in bytes: each byte of a text may take six in JSON.
pub const LINE_LEN_MAX: usize = 6 * (WHO_LEN_MAX + SUBJECT_LEN_MAX + REASON_LEN_MAX) + 1024;

/// SHA-256 of a record under [`AUDIT_DOMAIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordHash(ContentHash);

impl RecordHash {
    /// What the first record names as the one before.
    pub const NONE: Self = Self(ContentHash::from_bytes([0; 32]));
}

impl From<ContentHash> for RecordHash {
    fn from(hash: ContentHash) -> Self {
        Self(hash)
    }
}

impl From<RecordHash> for ContentHash {
    fn from(hash: RecordHash) -> Self {
        hash.0
    }
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RecordHash {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A component is out of service.
    Quarantine,
    /// One try to bring a component back begins.
    Probe,
    /// A component is back in service.
    Recover,
    /// What ran on a component moves elsewhere, and it is restarted.
    Failover,
    /// A threshold was crossed.
    Alert,
    /// A try of an admin endpoint without the right to.
    Denied,
    /// Bytes of an append that was never acknowledged gave way to this record.
    TailCut,
    /// A key may sign experts.
    Grant,
    /// Experts are part of the model that answers.
    Adopt,
    /// The chain goes back to a snapshot.
    Rollback,
}

impl Action {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Probe => "probe",
            Self::Recover => "recover",
            Self::Failover => "failover",
            Self::Alert => "alert",
            Self::Denied => "denied",
            Self::TailCut => "tail_cut",
            Self::Grant => "grant",
            Self::Adopt => "adopt",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordOutcome {
    /// It was ordered; a later record says what came of it.
    Begun,
    /// It holds from this record on.
    Done,
    /// It was so before.
    Unchanged,
    /// A rule forbids it.
    Refused,
    /// It was tried and did not work.
    Failed,
}

/// Why a component is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An admin wants it.
    Operator,
    /// The tree took it out: it used its restart window up.
    Window,
    /// It was stuck too often.
    Stuck,
    /// Stored data that it rests on is damaged.
    Corrupt,
    /// Something that it gave or holds failed its verification (SEC-22).
    Tampering,
}

impl Cause {
    /// Whether only a full verification of the stored data may lift it.
    pub const fn needs_verification(self) -> bool {
        matches!(self, Self::Corrupt | Self::Tampering)
    }
}

/// What a caller gives the log to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Who wanted it: an admin as the edge knows it, or `orchestrator`.
    pub who: String,
    /// What it is about.
    pub action: Action,
    /// The component's path.
    pub subject: String,
    /// Why, in words; may hold what a client or a panic said.
    pub reason: String,
    /// What came of it.
    pub outcome: RecordOutcome,
    /// Of a quarantine: why.
    pub cause: Option<Cause>,
    /// Of a quarantine by rule: when a recovery is tried.
    pub next_probe_ms: Option<u64>,
}

impl Entry {
    /// Cuts free texts to their bounds, at a character's start.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut(&mut self.who, WHO_LEN_MAX);
        cut(&mut self.subject, SUBJECT_LEN_MAX);
        cut(&mut self.reason, REASON_LEN_MAX);
        self
    }
}

fn cut(text: &mut String, len_max: usize) {
    text.truncate(text.floor_char_boundary(len_max));
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// The hash of the record before.
    pub prev: RecordHash,
    /// Whose signature stands beside it.
    pub key: PublicKey,
    /// [`Entry::at_ms`].
    pub at_ms: u64,
    /// [`Entry::who`].
    pub who: String,
    /// [`Entry::action`].
    pub action: Action,
    /// [`Entry::subject`].
    pub subject: String,
    /// [`Entry::reason`].
    pub reason: String,
    /// [`Entry::outcome`].
    pub outcome: RecordOutcome,
    /// [`Entry::cause`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// [`Entry::next_probe_ms`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_probe_ms: Option<u64>,
}

impl Record {
    pub(crate) fn new(seq: u64, prev: RecordHash, key: PublicKey, entry: Entry) -> Self {
        let entry = entry.bounded();
        Self {
            seq,
            prev,
            key,
            at_ms: entry.at_ms,
            who: entry.who,
            action: entry.action,
            subject: entry.subject,
            reason: entry.reason,
            outcome: entry.outcome,
            cause: entry.cause,
            next_probe_ms: entry.next_probe_ms,
        }
    }

    /// What its caller gave.
    pub fn entry(&self) -> Entry {
        Entry {
            at_ms: self.at_ms,
            who: self.who.clone(),
            action: self.action,
            subject: self.subject.clone(),
            reason: self.reason.clone(),
            outcome: self.outcome,
            cause: self.cause,
            next_probe_ms: self.next_probe_ms,
        }
    }

    /// Its hash, which the next record names.
    ///
    /// # Errors
    /// A text longer than canonical JSON allows.
    pub fn hash(&self) -> Result<RecordHash, CanonicalError> {
        let digest = domain_hash(AUDIT_DOMAIN, &[&to_canonical(self)?]);
        Ok(RecordHash(ContentHash::from_bytes(digest)))
    }
}

/// A line without its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignedRecord {
    pub(crate) record: Record,
    pub(crate) signature: Signature,
}

impl SignedRecord {
    pub(crate) fn sign(record: Record, key: &NodeKey) -> Result<Self, CanonicalError> {
        let signature = key.sign(digest(record.hash()?));
        Ok(Self { record, signature })
    }

    pub(crate) fn parse(line: &[u8]) -> Result<Self, CanonicalError> {
        from_canonical_bounded(line, LINE_LEN_MAX)
    }

    /// The line with its end.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>, CanonicalError> {
        let mut line = to_canonical(self)?;
        line.push(b'\n');
        Ok(line)
    }

    pub(crate) fn is_signed_by(&self, key: PublicKey, hash: RecordHash) -> bool {
        key.verify(digest(hash), &self.signature).is_ok()
    }
}

/// Keys sign block hashes; the domains keep a record's from ever being one.
const fn digest(hash: RecordHash) -> BlockHash {
    BlockHash::from_bytes(*hash.0.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest() -> Entry {
        let worst = |len| "\u{1}".repeat(len);
        Entry {
            at_ms: u64::MAX,
            who: worst(WHO_LEN_MAX),
            action: Action::Quarantine,
            subject: worst(SUBJECT_LEN_MAX),
            reason: worst(REASON_LEN_MAX),
            outcome: RecordOutcome::Unchanged,
            cause: Some(Cause::Tampering),
            next_probe_ms: Some(u64::MAX),
        }
    }

    #[test]
    fn the_longest_record_fits_into_a_line_with_less_than_a_kibibyte_to_spare() {
        let key = NodeKey::from_secret_bytes([7; 32]).unwrap();
        let record = Record::new(u64::MAX, RecordHash::NONE, key.public_key(), longest());
        let line = SignedRecord::sign(record, &key).unwrap().to_line().unwrap();
        assert!(line.len() <= LINE_LEN_MAX, "{}", line.len());
        assert!(line.len() + 1024 > LINE_LEN_MAX, "{}", line.len());
        assert!(SignedRecord::parse(&line[..line.len() - 1]).is_ok());
    }

    #[test]
    fn what_may_be_damaged_is_verified_before_it_comes_back_and_nothing_else() {
        for (cause, verified) in [
            (Cause::Operator, false),
            (Cause::Window, false),
            (Cause::Stuck, false),
            (Cause::Corrupt, true),
            (Cause::Tampering, true),
        ] {
            assert_eq!(cause.needs_verification(), verified, "{cause:?}");
        }
    }

    #[test]
    fn actions_are_called_the_same_everywhere() {
        for action in [
            Action::Quarantine,
            Action::Probe,
            Action::Recover,
            Action::Failover,
            Action::Alert,
            Action::Denied,
            Action::TailCut,
        ] {
            let name = serde_json::to_value(action).unwrap();
            assert_eq!(name, action.as_str());
            assert_eq!(name, action.to_string());
        }
    }

    #[test]
    fn a_hash_is_the_same_as_text_and_as_content() {
        let content = ContentHash::from_bytes([0xab; 32]);
        let hash = RecordHash::from(content);
        assert_eq!(hash.to_string(), "ab".repeat(32));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(ContentHash::from(hash), content);
    }
}
