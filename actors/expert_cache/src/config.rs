use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::CacheError;

const GIB: u64 = 1 << 30;

/// The section `expert_cache` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpertCacheConfig {
    /// Bytes of experts that may be mapped at once, in the form that is computed from (CACHE-01; the spec's
    /// `max_memory_gb`). Default 8 GiB.
    pub bytes_max: u64,
    /// The longest that the chain may take to say where a payload lies, in milliseconds. Default 5000.
    pub source_timeout_ms: u64,
    /// The longest that a lease waits for a loader that is being restarted, in milliseconds, within the lease's
    /// own deadline. Default 250.
    pub restart_wait_ms: u64,
    /// The longest that a load of nobody's lease (a prefetch) waits for room, in milliseconds. Default 1000.
    pub prefetch_wait_ms: u64,
    /// Messages that the actor admits at once. Default 256.
    pub mailbox_len_max: usize,
    /// The longest that one load may keep the actor's thread, in milliseconds, before the actor counts as stuck.
    /// Default 30000: a cold, slow disk is not a fault.
    pub stuck_limit_ms: u64,
}

impl Default for ExpertCacheConfig {
    fn default() -> Self {
        Self {
            bytes_max: 8 * GIB,
            source_timeout_ms: 5_000,
            restart_wait_ms: 250,
            prefetch_wait_ms: 1_000,
            mailbox_len_max: 256,
            stuck_limit_ms: 30_000,
        }
    }
}

impl ExpertCacheConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`CacheError::Config`] naming the key.
    pub fn validate(&self) -> Result<(), CacheError> {
        at_least_one("bytes_max", self.bytes_max)?;
        at_least_one("source_timeout_ms", self.source_timeout_ms)?;
        at_least_one("mailbox_len_max", self.mailbox_len_max as u64)?;
        at_least_one("stuck_limit_ms", self.stuck_limit_ms)?;
        if self.mailbox_len_max > 1 << 16 {
            return Err(CacheError::Config {
                key: "mailbox_len_max",
                why: "is above 65536".to_owned(),
            });
        }
        Ok(())
    }

    pub(crate) const fn source_timeout(&self) -> Duration {
        Duration::from_millis(self.source_timeout_ms)
    }

    pub(crate) const fn restart_wait(&self) -> Duration {
        Duration::from_millis(self.restart_wait_ms)
    }

    pub(crate) const fn prefetch_wait(&self) -> Duration {
        Duration::from_millis(self.prefetch_wait_ms)
    }

    pub(crate) const fn stuck_limit(&self) -> Duration {
        Duration::from_millis(self.stuck_limit_ms)
    }
}

fn at_least_one(key: &'static str, value: u64) -> Result<(), CacheError> {
    if value == 0 {
        return Err(CacheError::Config {
            key,
            why: "must be at least 1".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_eight_gib_and_valid() {
        let config = ExpertCacheConfig::default();
        assert_eq!(config.bytes_max, 8_589_934_592);
        assert!(config.validate().is_ok());
    }

    #[test]
    fn a_bound_of_nothing_is_refused_by_name() {
        let config = ExpertCacheConfig {
            bytes_max: 0,
            ..ExpertCacheConfig::default()
        };
        assert!(matches!(
            config.validate(),
            Err(CacheError::Config {
                key: "bytes_max",
                ..
            })
        ));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<ExpertCacheConfig>("max_memory_gb = 8").unwrap_err();
        assert!(error.to_string().contains("max_memory_gb"));
    }
}
