//! The JSON payloads of chain A: genesis, key grant, architecture, manifest, audit anchor.
//!
//! They are read with [`Payload::from_payload`], which bounds the length, accepts canonical JSON only and validates,
//! and written with [`Payload::to_payload`], which validates first. No payload holds a float: decimals are texts.

mod architecture;
mod audit_anchor;
mod decimal;
mod genesis;
mod key_grant;
mod manifest;
mod strings;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::canonical::{CanonicalError, from_canonical_bounded, to_canonical};
use crate::name::TensorName;

pub use architecture::{
    ArchitectureBody, ChatTemplate, ExpertShape, Family, Rope, RopeStyle, Routing, Tokenizer,
    TokenizerKind,
};
pub use audit_anchor::AuditAnchorBody;
pub use decimal::Decimal;
pub use genesis::GenesisBody;
pub use key_grant::KeyGrantBody;
pub use manifest::ManifestBody;
pub use strings::StringTable;

/// Why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error("{field} {rule}")]
    Field {
        field: &'static str,
        rule: &'static str,
    },
    #[error("the manifest lacks {0}, which the architecture asks for")]
    Missing(TensorName),
    #[error("the manifest names {0}, which the architecture does not know")]
    Unexpected(TensorName),
}

/// Refuses `field` with `rule` unless `holds`.
pub(crate) fn require(
    holds: bool,
    field: &'static str,
    rule: &'static str,
) -> Result<(), BodyError> {
    if holds {
        Ok(())
    } else {
        Err(BodyError::Field { field, rule })
    }
}

/// A JSON payload of a block.
pub trait Payload: Serialize + DeserializeOwned {
    /// Longest canonical form, in bytes.
    const LEN_MAX: usize;

    /// # Errors
    /// The first rule that does not hold.
    fn validate(&self) -> Result<(), BodyError>;

    /// Canonical JSON of a valid payload: the bytes that `payload_hash` covers.
    ///
    /// # Errors
    /// [`BodyError`] if the payload is invalid or longer than [`Payload::LEN_MAX`].
    fn to_payload(&self) -> Result<Vec<u8>, BodyError> {
        self.validate()?;
        let bytes = to_canonical(self)?;
        if bytes.len() > Self::LEN_MAX {
            return Err(CanonicalError::TooLong {
                len: bytes.len(),
                len_max: Self::LEN_MAX,
            }
            .into());
        }
        Ok(bytes)
    }

    /// # Errors
    /// [`BodyError`] if the bytes are too long, not canonical, or not a valid payload.
    fn from_payload(bytes: &[u8]) -> Result<Self, BodyError> {
        let body: Self = from_canonical_bounded(bytes, Self::LEN_MAX)?;
        body.validate()?;
        Ok(body)
    }
}
