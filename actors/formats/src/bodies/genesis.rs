use serde::{Deserialize, Serialize};

use super::{BodyError, Payload, require};
use crate::keys::PublicKey;

const NAME_LEN_MAX: usize = 64;
const KEYS_MAX: usize = 64;

/// Payload of the genesis block: what the network is called and whose blocks it accepts from the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisBody {
    /// For people; the network's id is the hash of its genesis block. 1 to 64 printable ASCII characters.
    pub network_name: String,
    /// Sorted, without repetition, 1 to 64.
    pub authorised_keys: Vec<PublicKey>,
}

impl GenesisBody {
    /// A genesis for these keys, in any order and with repetitions.
    #[must_use]
    pub fn new(network_name: impl Into<String>, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut authorised_keys: Vec<_> = keys.into_iter().collect();
        authorised_keys.sort_unstable();
        authorised_keys.dedup();
        Self {
            network_name: network_name.into(),
            authorised_keys,
        }
    }

    #[must_use]
    pub fn authorises(&self, key: &PublicKey) -> bool {
        self.authorised_keys.binary_search(key).is_ok()
    }
}

impl Payload for GenesisBody {
    const LEN_MAX: usize = 16 * 1024;

    fn validate(&self) -> Result<(), BodyError> {
        let name = self.network_name.as_bytes();
        require(
            (1..=NAME_LEN_MAX).contains(&name.len()),
            "network_name",
            "must have 1 to 64 characters",
        )?;
        require(
            name.iter().all(|b| (b' '..=b'~').contains(b)),
            "network_name",
            "must be printable ASCII",
        )?;
        require(
            (1..=KEYS_MAX).contains(&self.authorised_keys.len()),
            "authorised_keys",
            "must have 1 to 64 entries",
        )?;
        let sorted = self.authorised_keys.is_sorted_by(|a, b| a < b);
        require(
            sorted,
            "authorised_keys",
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
    fn a_genesis_round_trips_and_knows_its_keys() {
        let body = GenesisBody::new("test", [key(2), key(1), key(2)]);
        assert_eq!(
            GenesisBody::from_payload(&body.to_payload().unwrap()),
            Ok(body.clone())
        );
        assert_eq!(body.authorised_keys.len(), 2);
        assert!(body.authorises(&key(1)) && body.authorises(&key(2)) && !body.authorises(&key(3)));
    }

    #[test]
    fn broken_rules_are_named() {
        let mut unsorted = GenesisBody::new("test", [key(1), key(2)]);
        unsorted.authorised_keys.reverse();
        let cases = [
            (GenesisBody::new("", [key(1)]), "network_name"),
            (GenesisBody::new("x".repeat(65), [key(1)]), "network_name"),
            (GenesisBody::new("tab\t", [key(1)]), "network_name"),
            (GenesisBody::new("test", []), "authorised_keys"),
            (
                GenesisBody::new("test", (1..=65).map(key)),
                "authorised_keys",
            ),
            (unsorted, "authorised_keys"),
        ];
        for (body, named) in cases {
            assert!(
                matches!(body.to_payload(), Err(BodyError::Field { field, .. }) if field == named),
                "{body:?}"
            );
        }
    }
}
