use std::collections::HashMap;
use std::fmt;

use blyan_formats::{BlockHash, PayloadHash, TensorName};
use blyan_protocol::LeaseError;
use serde::Serialize;

/// A payload whose bytes fail a check. It stays known until it passes all of them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorruptPayload {
    /// The expert or shared weight.
    pub name: TensorName,
    /// The payload, and the name of its file.
    pub payload: PayloadHash,
    /// The block that carries it, where it is known.
    pub block: Option<BlockHash>,
    /// The part of the file that is wrong: `length`, `header`, `scales`, `padding`, `data`, `tree` or `map`.
    pub section: &'static str,
    /// Which check failed, in words.
    pub fault: String,
    /// When it was found, in milliseconds since 1970.
    pub since_ms: u64,
}

impl CorruptPayload {
    /// The refusal of a lease.
    pub fn lease_error(&self) -> LeaseError {
        LeaseError::Corrupt {
            name: self.name,
            payload: self.payload,
            fault: self.fault.clone(),
        }
    }
}

impl fmt::Display for CorruptPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.payload, self.fault)
    }
}

/// What is known to be corrupt.
#[derive(Debug, Default)]
pub struct CorruptRegister {
    entries: HashMap<PayloadHash, CorruptPayload>,
}

impl CorruptRegister {
    /// The record of a payload.
    pub fn get(&self, payload: &PayloadHash) -> Option<&CorruptPayload> {
        self.entries.get(payload)
    }

    /// Keeps the first record of a payload; true if there was none.
    pub fn add(&mut self, record: CorruptPayload) -> bool {
        let fresh = !self.entries.contains_key(&record.payload);
        if fresh {
            self.entries.insert(record.payload, record);
        }
        fresh
    }

    /// Forgets a payload that was verified again.
    pub fn remove(&mut self, payload: &PayloadHash) -> Option<CorruptPayload> {
        self.entries.remove(payload)
    }

    /// Every record, in the order of names.
    pub fn list(&self) -> Vec<CorruptPayload> {
        let mut list: Vec<_> = self.entries.values().cloned().collect();
        list.sort_unstable_by_key(|record| (record.name, record.payload));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, payload: u8, fault: &str) -> CorruptPayload {
        CorruptPayload {
            name: name.parse().unwrap(),
            payload: PayloadHash::from_bytes([payload; 32]),
            block: None,
            section: "data",
            fault: fault.to_owned(),
            since_ms: 1,
        }
    }

    #[test]
    fn the_first_record_of_a_payload_stays() {
        let mut register = CorruptRegister::default();
        assert!(register.add(record("layer1.expert2", 7, "first")));
        assert!(!register.add(record("layer1.expert2", 7, "second")));
        assert_eq!(
            register
                .get(&PayloadHash::from_bytes([7; 32]))
                .unwrap()
                .fault,
            "first"
        );
        assert_eq!(register.list().len(), 1);
    }

    #[test]
    fn the_list_is_in_the_order_of_names_and_forgets_what_was_removed() {
        let mut register = CorruptRegister::default();
        register.add(record("layer1.expert2", 7, "a"));
        register.add(record("layer0.expert2", 8, "b"));
        let names: Vec<_> = register.list().iter().map(|r| r.name.to_string()).collect();
        assert_eq!(names, ["layer0.expert2", "layer1.expert2"]);
        assert!(register.remove(&PayloadHash::from_bytes([7; 32])).is_some());
        assert!(register.remove(&PayloadHash::from_bytes([7; 32])).is_none());
        assert_eq!(register.list().len(), 1);
    }
}
