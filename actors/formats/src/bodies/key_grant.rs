use serde::{Deserialize, Serialize};

use super::{BodyError, Payload, require};
use crate::keys::PublicKey;

const KEYS_MAX: usize = 64;

/// Payload of a `key_grant` block: keys that may sign `expert` blocks on chain B from here on, and nothing else. Grants
/// add up and are never taken back; whether such a block is served is for a manifest to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGrantBody {
    /// Sorted, without repetition, 1 to 64.
    pub keys: Vec<PublicKey>,
}

impl KeyGrantBody {
    /// A grant to these keys, in any order and with repetitions.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self { keys }
    }
}

impl Payload for KeyGrantBody {
    const LEN_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), BodyError> {
        require(
            (1..=KEYS_MAX).contains(&self.keys.len()),
            "keys",
            "must have 1 to 64 entries",
        )?;
        require(
            self.keys.is_sorted_by(|a, b| a < b),
            "keys",
            "must be sorted and without repetition",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NodeKey;

    fn key(byte: u8) -> PublicKey {
        NodeKey::from_secret_bytes([byte; 32]).unwrap().public_key()
    }

    #[test]
    fn a_grant_round_trips_at_its_longest() {
        let body = KeyGrantBody::new((1..=64).map(key).chain([key(1)]));
        assert_eq!(body.keys.len(), 64);
        let bytes = body.to_payload().unwrap();
        assert_eq!(KeyGrantBody::from_payload(&bytes), Ok(body));
    }

    #[test]
    fn broken_rules_are_named() {
        let sorted = KeyGrantBody::new([key(1), key(2)]).keys;
        let reversed = sorted.iter().rev().copied().collect();
        let cases = [
            KeyGrantBody::new([]),
            KeyGrantBody::new((1..=65).map(key)),
            KeyGrantBody { keys: reversed },
            KeyGrantBody {
                keys: vec![sorted[0], sorted[0]],
            },
        ];
        for body in cases {
            assert!(
                matches!(
                    body.to_payload(),
                    Err(BodyError::Field { field: "keys", .. })
                ),
                "{body:?}"
            );
        }
        assert!(KeyGrantBody::from_payload(b"{\"keys\":[],\"until\":1}").is_err());
    }
}
