//! What the read endpoints answer, as JSON.

use std::collections::BTreeMap;

use blyan_protocol as protocol;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt in its chat template.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
}

impl From<protocol::Usage> for Usage {
    fn from(usage: protocol::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens,
        }
    }
}

/// A snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotReply {
    /// Names it.
    pub id: String,
    /// ms since 1970-01-01 UTC.
    pub created_ms: u64,
    /// Hash of the network's first block.
    pub genesis: String,
    /// Blocks of all chains.
    pub blocks: u64,
    /// Receipts.
    pub receipts: u64,
    /// Payload files.
    pub payloads: u64,
    /// Their bytes.
    pub payload_bytes: u64,
    /// Merkle root over its records, in hex.
    pub root: String,
}

/// What the experts did for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Experts {
    /// Experts per layer and token.
    pub top_k: u32,
    /// Distinct experts used, over all layers.
    pub used: u32,
    /// Experts that were loaded for this request.
    pub loaded: u32,
}

impl From<protocol::ExpertsUsed> for Experts {
    fn from(experts: protocol::ExpertsUsed) -> Self {
        Self {
            top_k: experts.top_k,
            used: experts.used,
            loaded: experts.loaded,
        }
    }
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// From admission to the first step.
    pub queue_ms: f64,
    /// Steps that read the prompt.
    pub prefill_ms: f64,
    /// Steps after the first token.
    pub decode_ms: f64,
    /// Tokens after the first over `decode_ms`.
    pub tokens_per_second: f64,
}

impl From<protocol::Timing> for Timing {
    fn from(timing: protocol::Timing) -> Self {
        Self {
            queue_ms: rounded(timing.queue_ms),
            prefill_ms: rounded(timing.prefill_ms),
            decode_ms: rounded(timing.decode_ms),
            tokens_per_second: rounded(timing.tokens_per_second),
        }
    }
}

/// Three decimals are enough for a person and a chart.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// How well the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Everything runs.
    Ok,
    /// Chat is answered, but a part is down or an expert is corrupt.
    Degraded,
    /// No chat is answered.
    Unavailable,
}

/// Every part's state in one report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The sum of what follows.
    pub status: HealthStatus,
    /// What is not as it should be, a sentence each.
    pub reasons: Vec<String>,
    /// The binary's version.
    pub version: String,
    /// Since the start of the process.
    pub uptime_s: u64,
    /// The manifest that is served.
    pub model_id: Option<String>,
    /// State of every worker by path.
    pub parts: BTreeMap<String, String>,
    /// Replicas that serve.
    pub replicas_running: usize,
    /// Replicas that are configured.
    pub replicas_configured: usize,
    /// Blocks whose payload fails its hash.
    pub corrupt_blocks: usize,
    /// The disk is full: no block, payload or snapshot is taken until there is room.
    pub read_only: bool,
    /// Threads that were given up as stuck and have not come back.
    pub zombies: usize,
    /// Requests admitted and not ended.
    pub requests: usize,
    /// Those of them that wait for a replica.
    pub waiting: usize,
}

/// What failed its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntegrityStatus {
    /// `ok` or `corrupt`.
    pub status: String,
    /// The manifest that is served.
    pub model_id: Option<String>,
    /// Weights of that model.
    pub blocks: usize,
    /// Those in quarantine.
    pub corrupt: Vec<CorruptBlock>,
}

/// One weight in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorruptBlock {
    /// The weight, such as `layer4.expert7`.
    pub name: String,
    /// Its block.
    pub block: String,
    /// Its payload, which is also its file's name.
    pub payload_hash: String,
    /// Which check failed.
    pub fault: String,
}

/// The newest block of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainHead {
    /// `A` or `B`.
    pub chain: String,
    /// Its block hash.
    pub hash: String,
    /// Its index.
    pub index: u64,
    /// Blocks on the chain.
    pub blocks: u64,
}

/// One version of a tensor: a block of chain B, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReply {
    /// The tensor, for instance `layer4.expert7`.
    pub name: String,
    /// The block hash.
    pub hash: String,
    /// 0 without parents, else 1 + the highest index of the parents.
    pub index: u64,
    /// Merkle root of the weights.
    pub payload_hash: String,
    /// Their length in bytes.
    pub payload_len: u64,
    /// The blocks that it was made from.
    pub depends_on: Vec<String>,
    /// The architecture block that it was made for.
    pub meta_ref: Option<String>,
    /// The blocks that it deprecates.
    pub supersedes: Vec<String>,
    /// The blocks that deprecate it. It stays on the chain.
    pub superseded_by: Vec<String>,
    /// Whether the newest manifest names it.
    pub current: bool,
}

/// A block of chain B and what it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageReply {
    /// Parents before children; the block that was asked for is the last.
    pub blocks: Vec<VersionReply>,
    /// Whether there are older ancestors than these.
    pub truncated: bool,
}

/// One block with its signature and the record of who accepted it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BlockReply {
    /// The block hash.
    pub hash: String,
    /// The header, everything that the hash covers.
    #[schema(value_type = Object)]
    pub header: serde_json::Value,
    /// ECDSA over the hash, in hex.
    pub signature: String,
    /// Who accepted it, when and under which rule.
    #[schema(value_type = Object)]
    pub commit: serde_json::Value,
}

/// How often one expert was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpertStats {
    /// Such as `layer4.expert7`.
    pub name: String,
    /// Its block on chain B.
    pub block: String,
    /// Its payload.
    pub payload_hash: String,
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Whether it takes part in every token.
    pub always_on: bool,
    /// Tokens it computed, over all receipts.
    pub tokens: u64,
    /// Requests that used it.
    pub requests: u64,
    /// `ok` or `corrupt`.
    pub state: String,
    /// Earned by it on this node, in 10^-6 BLY; null while the ledger does not answer.
    pub earned: Option<String>,
}
