use serde::{Deserialize, Serialize};

/// The section `uploads` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadsConfig {
    /// Uploads that may be open at once; 0 takes none.
    pub open_max: usize,
    /// Of these, with blocks of one key.
    pub open_per_key_max: usize,
    /// Bytes that all open uploads may come to have together, and the longest payload.
    pub bytes_max: u64,
    /// Uploads of one key that are open or were stored within 24 hours (TIER-09).
    pub per_key_per_day: usize,
    /// An upload to which nothing came for so long is removed.
    pub expire_ms: u64,
    /// Bytes of one piece, at most.
    pub chunk_bytes_max: usize,
}

impl Default for UploadsConfig {
    fn default() -> Self {
        Self {
            open_max: 16,
            open_per_key_max: 4,
            bytes_max: 1 << 30,
            per_key_per_day: 20,
            expire_ms: 24 * 60 * 60 * 1000,
            chunk_bytes_max: 1 << 20,
        }
    }
}

impl UploadsConfig {
    /// Refuses values with which no upload could end.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        if !(4096..=16 << 20).contains(&self.chunk_bytes_max) {
            return Err("uploads.chunk_bytes_max must be 4096 to 16777216".to_owned());
        }
        if self.expire_ms == 0 {
            return Err("uploads.expire_ms must be above 0".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_what_cannot_work_is_named() {
        assert_eq!(UploadsConfig::default().validate(), Ok(()));
        let tiny = UploadsConfig {
            chunk_bytes_max: 4095,
            ..UploadsConfig::default()
        };
        assert!(
            tiny.validate()
                .unwrap_err()
                .starts_with("uploads.chunk_bytes_max")
        );
        let gone = UploadsConfig {
            expire_ms: 0,
            ..UploadsConfig::default()
        };
        assert!(
            gone.validate()
                .unwrap_err()
                .starts_with("uploads.expire_ms")
        );
    }
}
