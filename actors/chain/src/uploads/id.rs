use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names an upload: 16 random bytes, as 32 lower-case hex digits. Whoever knows it may write to the upload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UploadId([u8; 16]);

/// A text that names no upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upload is named by 32 lower-case hex digits")]
pub struct UploadIdError;

impl UploadId {
    /// The name made of these random bytes.
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The beginning only: logs are no place for what opens something.
impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", hex::encode(&self.0[..4]))
    }
}

impl FromStr for UploadId {
    type Err = UploadIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| UploadIdError)?;
        let id = Self(bytes);
        // Hex digits in upper case would be a second name.
        (id.to_string() == text).then_some(id).ok_or(UploadIdError)
    }
}

impl TryFrom<String> for UploadId {
    type Error = UploadIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UploadId> for String {
    fn from(id: UploadId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_one_name() {
        let id = UploadId::from_random([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "ab",
            &"AB".repeat(16),
            &"ab".repeat(17),
            "../../etc/passwd",
        ] {
            assert_eq!(text.parse::<UploadId>(), Err(UploadIdError), "{text}");
        }
        assert!(!format!("{id:?}").contains(&id.to_string()));
    }
}
