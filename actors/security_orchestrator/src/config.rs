use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::Rules;

/// The section `security` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    /// How long after a quarantine by rule the first recovery is tried (SEC-09).
    pub probe_after_ms: u64,
    /// The longest pause between two tries; each failed one doubles it up to here.
    pub probe_after_max_ms: u64,
    /// Stuck reports of one component within `stuck_window_ms` that quarantine it.
    pub stuck_max: usize,
    /// See `stuck_max`.
    pub stuck_window_ms: u64,
    /// Refused tries of the admin endpoints that get an audit record of their own within a minute; the others share
    /// one that holds their number.
    pub denied_records_max: u32,
    /// How often the rules are looked at (SEC-20 asks for 10 s at most).
    pub tick_ms: u64,
    /// How often new audit records are anchored on chain A; each quarantine is anchored at once.
    pub anchor_every_ms: u64,
    /// Size above which the audit log goes on in a new file.
    pub segment_len_max_bytes: u64,
    /// How long a caller waits for an answer that needs no component.
    pub reply_timeout_ms: u64,
    /// How long a caller waits for a quarantine, recovery or failover to take effect.
    pub decide_timeout_ms: u64,
    /// Messages that may wait for the orchestrator.
    pub mailbox_len_max: usize,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            probe_after_ms: 300_000,
            probe_after_max_ms: 3_600_000,
            stuck_max: 3,
            stuck_window_ms: 3_600_000,
            denied_records_max: 1_000,
            tick_ms: 1_000,
            anchor_every_ms: 60_000,
            segment_len_max_bytes: 16 << 20,
            reply_timeout_ms: 2_000,
            decide_timeout_ms: 60_000,
            mailbox_len_max: 1_024,
        }
    }
}

impl SecurityConfig {
    /// Refuses values with which the orchestrator could not work.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("probe_after_ms", self.probe_after_ms),
            ("stuck_max", self.stuck_max as u64),
            ("stuck_window_ms", self.stuck_window_ms),
            ("anchor_every_ms", self.anchor_every_ms),
            ("reply_timeout_ms", self.reply_timeout_ms),
            ("decide_timeout_ms", self.decide_timeout_ms),
            ("mailbox_len_max", self.mailbox_len_max as u64),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("security.{key} must be above 0"));
        }
        if self.probe_after_max_ms < self.probe_after_ms {
            return Err(
                "security.probe_after_max_ms must not be below security.probe_after_ms".to_owned(),
            );
        }
        if !(10..=10_000).contains(&self.tick_ms) {
            return Err("security.tick_ms must be 10 to 10000".to_owned());
        }
        if !(4_096..=1 << 30).contains(&self.segment_len_max_bytes) {
            return Err("security.segment_len_max_bytes must be 4096 to 1073741824".to_owned());
        }
        Ok(())
    }

    pub(crate) const fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    pub(crate) const fn decide_timeout(&self) -> Duration {
        Duration::from_millis(self.decide_timeout_ms)
    }

    /// What the pure core goes by.
    pub const fn rules(&self) -> Rules {
        Rules {
            probe_after_ms: self.probe_after_ms,
            probe_after_max_ms: self.probe_after_max_ms,
            stuck_max: self.stuck_max,
            stuck_window_ms: self.stuck_window_ms,
            denied_records_max: self.denied_records_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_what_cannot_work_is_named() {
        assert_eq!(SecurityConfig::default().validate(), Ok(()));
        let broken = [
            (r#"{"probe_after_ms":0}"#, "probe_after_ms"),
            (r#"{"probe_after_max_ms":1}"#, "probe_after_max_ms"),
            (r#"{"stuck_max":0}"#, "stuck_max"),
            (r#"{"tick_ms":20000}"#, "tick_ms"),
            (r#"{"segment_len_max_bytes":1}"#, "segment_len_max_bytes"),
            (r#"{"mailbox_len_max":0}"#, "mailbox_len_max"),
        ];
        for (json, key) in broken {
            let config: SecurityConfig = serde_json::from_str(json).unwrap();
            let refused = config.validate().unwrap_err();
            assert!(refused.contains(key), "{refused}");
        }
        assert!(serde_json::from_str::<SecurityConfig>(r#"{"tik_ms":1}"#).is_err());
    }
}
