use std::path::PathBuf;
use std::time::Duration;

use blyan_formats::BlockHash;
use serde::{Deserialize, Serialize};

use crate::verify::VERIFY_THREADS;

/// Without a pause a small store would be read all the time.
const SCRUB_EVERY_MS_MIN: u64 = 1_000;

/// The section `chain` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// Hash of the genesis of the network to belong to, 64 hex digits; without it a fresh node starts a network of
    /// its own (SEC-23).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genesis: Option<BlockHash>,
    /// What a network that this node starts is called; part of its genesis.
    pub network_name: String,
    /// How long a caller waits for an answer of the chain.
    pub reply_timeout_ms: u64,
    /// Messages that may wait for the chain.
    pub mailbox_len_max: usize,
    /// Payload files that are verified at a time: some wait for the disk while others are hashed.
    pub verify_threads: usize,
    /// How often a running node makes a snapshot; 0 is never.
    pub snapshot_every_ms: u64,
    /// Bytes of the disk that a node keeps free: with less it reads only. Half of them are for receipts.
    pub disk_reserve_bytes: u64,
    /// How fast a running node re-reads its payload files, bytes a second; 0 is never.
    pub scrub_bytes_per_s: u64,
    /// From the start of one pass over all payloads to that of the next.
    pub scrub_every_ms: u64,
    /// A folder with copies of payload files, each named by its payload hash: damaged ones are repaired from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_dir: Option<PathBuf>,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            genesis: None,
            network_name: "local".to_owned(),
            reply_timeout_ms: 2_000,
            mailbox_len_max: 1_024,
            verify_threads: VERIFY_THREADS,
            snapshot_every_ms: 3_600_000,
            disk_reserve_bytes: 256 << 20,
            scrub_bytes_per_s: 8 << 20,
            scrub_every_ms: 24 * 3_600_000,
            repair_dir: None,
        }
    }
}

impl ChainConfig {
    /// Between two snapshots of a running node; `None` where none is wanted.
    pub fn snapshot_every(&self) -> Option<Duration> {
        (self.snapshot_every_ms > 0).then(|| Duration::from_millis(self.snapshot_every_ms))
    }

    /// Between the starts of two passes of the scrubber.
    pub const fn scrub_every(&self) -> Duration {
        Duration::from_millis(self.scrub_every_ms)
    }

    /// Refuses values with which the chain could not work.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let name = self.network_name.as_bytes();
        let printable = name.iter().all(|byte| (b' '..=b'~').contains(byte));
        if !printable || !(1..=64).contains(&name.len()) {
            return Err("chain.network_name must be 1 to 64 printable ASCII characters".to_owned());
        }
        if self.reply_timeout_ms == 0 {
            return Err("chain.reply_timeout_ms must be above 0".to_owned());
        }
        if self.mailbox_len_max == 0 {
            return Err("chain.mailbox_len_max must be above 0".to_owned());
        }
        if !(1..=64).contains(&self.verify_threads) {
            return Err("chain.verify_threads must be 1 to 64".to_owned());
        }
        if self.scrub_every_ms < SCRUB_EVERY_MS_MIN {
            return Err(format!(
                "chain.scrub_every_ms must be at least {SCRUB_EVERY_MS_MIN}; scrub_bytes_per_s = 0 turns it off"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ChainConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn defaults_are_valid_and_unknown_keys_are_named() {
        assert_eq!(parse("{}").unwrap(), ChainConfig::default());
        assert_eq!(ChainConfig::default().validate(), Ok(()));
        let error = parse(r#"{"genesys":"x"}"#).unwrap_err().to_string();
        assert!(error.contains("genesys"), "{error}");
    }

    #[test]
    fn a_pinned_genesis_is_64_hex_digits() {
        let hash = "ab".repeat(32);
        let config = parse(&format!(r#"{{"genesis":"{hash}"}}"#)).unwrap();
        assert_eq!(
            config.genesis.map(|genesis| genesis.to_string()),
            Some(hash)
        );
        assert!(parse(r#"{"genesis":"ab"}"#).is_err());
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let broken = [
            (r#"{"network_name":""}"#, "network_name"),
            (r#"{"network_name":"é"}"#, "network_name"),
            (r#"{"reply_timeout_ms":0}"#, "reply_timeout_ms"),
            (r#"{"mailbox_len_max":0}"#, "mailbox_len_max"),
            (r#"{"verify_threads":65}"#, "verify_threads"),
            (r#"{"scrub_every_ms":999}"#, "scrub_every_ms"),
        ];
        for (json, key) in broken {
            let refused = parse(json).unwrap().validate().unwrap_err();
            assert!(refused.contains(key), "{refused}");
        }
    }
}
