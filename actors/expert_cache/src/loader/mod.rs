//! From a payload's name to verified, mapped weights. Blocks the calling thread while it reads and hashes.

mod fp32;
mod payload;
mod shared;
mod weights;

use std::sync::{Arc, Once};
use std::time::Duration;

use blyan_formats::PayloadHash;
use blyan_protocol::{PayloadLocation, PayloadSource, WeightForm};
use tokio::time::timeout;

use crate::CacheError;

pub(crate) use payload::{VerifiedPayload, corrupt_map};
pub use shared::SharedWeights;
pub(crate) use weights::Weights;

/// Finds, verifies and maps payloads. Holds no state of its own.
pub(crate) struct Loader {
    source: Arc<dyn PayloadSource>,
    source_timeout: Duration,
    forgetting: Once,
}

impl Loader {
    pub(crate) fn new(source: Arc<dyn PayloadSource>, source_timeout: Duration) -> Self {
        Self {
            source,
            source_timeout,
            forgetting: Once::new(),
        }
    }

    /// Asks the chain where the payload lies, maps it and checks every byte.
    pub(crate) async fn open(&self, payload: PayloadHash) -> Result<VerifiedPayload, CacheError> {
        let location = self.locate(payload).await?;
        VerifiedPayload::open(payload, location)
    }

    async fn locate(&self, payload: PayloadHash) -> Result<PayloadLocation, CacheError> {
        match timeout(self.source_timeout, self.source.locate(payload)).await {
            Ok(location) => Ok(location?),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Maps the weights of a verified payload in the form asked for.
    pub(crate) async fn map(
        &self,
        verified: VerifiedPayload,
        form: WeightForm,
    ) -> Result<Weights, CacheError> {
        match form {
            WeightForm::Stored => Weights::stored(verified),
            WeightForm::Fp32 if verified.holds_fp32() => Weights::stored(verified),
            WeightForm::Fp32 => self.derived(&verified).await,
        }
    }

    /// Maps the fp32 derivation; makes it first, if it is missing or wrong.
    async fn derived(&self, verified: &VerifiedPayload) -> Result<Weights, CacheError> {
        let location = verified.location();
        let len = verified.fp32_len();
        let remembered = location.fp32_sha256;
        if let Some(sha256) = remembered
            && let Some(map) = fp32::map_if_equal(&location.fp32_path, len, &sha256)?
        {
            return Ok(Weights::fp32_derived(map, verified));
        }
        if remembered.is_some() {
            tracing::warn!(name = %location.name, path = %location.fp32_path.display(), "fp32 derivation is wrong, rebuilding");
        }
        let sha256 = fp32::write(verified)?;
        self.remember(verified, sha256).await;
        let map = fp32::map_if_equal(&location.fp32_path, len, &sha256)?
            .ok_or_else(|| CacheError::Derivation(location.fp32_path.clone()))?;
        Ok(Weights::fp32_derived(map, verified))
    }

    /// A derivation that the chain could not remember is only made again next time.
    async fn remember(&self, verified: &VerifiedPayload, sha256: [u8; 32]) {
        let remembering = self.source.remember_fp32(verified.payload(), sha256);
        let outcome = match timeout(self.source_timeout, remembering).await {
            Ok(outcome) => outcome.map_err(CacheError::from),
            Err(_) => Err(self.no_answer()),
        };
        // Said once: a store that is opened read-only refuses every one.
        if let Err(error) = outcome {
            self.forgetting.call_once(|| {
                tracing::warn!(name = %verified.location().name, %error, "fp32 derivations are not remembered");
            });
        }
    }

    fn no_answer(&self) -> CacheError {
        CacheError::SourceTimeout(self.source_timeout.as_millis() as u64)
    }
}
