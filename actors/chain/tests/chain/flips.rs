//! Flipped bits of headers, JSON payloads and payload files, each found before what it is in is used. BLYAN_FLIPS sets their
//! number.

use std::ops::ControlFlow;
use std::sync::Arc;

use blyan_chain::{
    Batch, ChainError, ChainReader, Family, PayloadDir, RocksStore, Store, Visit, WriteToken,
};
use blyan_formats::{BlockHash, ChainId, TensorView};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support;

/// A store one bit of which is not what was written.
struct FlippedStore {
    store: Arc<RocksStore>,
    flip: Mutex<Option<Flip>>,
}

struct Flip {
    family: Family,
    key: Vec<u8>,
    bit: usize,
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

impl FlippedStore {
    fn damage(&self, family: Family, key: &[u8], value: &mut [u8]) {
        if let Some(at) = &*self.flip.lock()
            && (at.family, at.key.as_slice()) == (family, key)
        {
            flip(value, at.bit);
        }
    }
}

impl Store for FlippedStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ChainError> {
        let mut value = self.store.get(family, key)?;
        if let Some(value) = &mut value {
            self.damage(family, key, value);
        }
        Ok(value)
    }

    fn scan(&self, family: Family, from: &[u8], visit: Visit<'_>) -> Result<(), ChainError> {
        self.store.scan(family, from, &mut |key, value| {
            let mut value = value.to_vec();
            self.damage(family, key, &mut value);
            visit(key, &value)
        })
    }

    fn write(&self, token: WriteToken, batch: &Batch) -> Result<(), ChainError> {
        self.store.write(token, batch)
    }

    fn begin_generation(&self) -> Result<WriteToken, ChainError> {
        self.store.begin_generation()
    }

    fn payloads(&self) -> &PayloadDir {
        self.store.payloads()
    }
}

fn records(store: &RocksStore, family: Family) -> Vec<(Vec<u8>, usize)> {
    let mut all = Vec::new();
    let scanned = store.scan(family, &[], &mut |key, value| {
        all.push((key.to_vec(), value.len()));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    all
}

fn number_and_rng() -> (usize, StdRng) {
    let number = std::env::var("BLYAN_FLIPS").ok();
    let number = number.map_or(4_000, |text| text.parse().expect("a number"));
    let seed = std::env::var("BLYAN_SEED").ok();
    let seed = seed.map_or_else(rand::random, |text| text.parse().expect("a number"));
    println!("{number} flips, BLYAN_SEED={seed} repeats them");
    (number, StdRng::seed_from_u64(seed))
}

#[test]
fn no_flipped_header_or_json_payload_is_used() {
    let (_dir, store, _) = support::imported();
    let (number, mut rng) = number_and_rng();
    let (headers, bodies) = (
        records(&store, Family::Headers),
        records(&store, Family::Bodies),
    );
    let flipped = Arc::new(FlippedStore {
        store,
        flip: Mutex::new(None),
    });
    let reader = ChainReader::open(Arc::clone(&flipped)).unwrap();
    let on_a: Vec<BlockHash> = reader.index().chain_a().to_vec();
    assert!(on_a.iter().all(|block| reader.body(*block).is_ok()));
    for _ in 0..number / 2 {
        let (family, all) = match rng.random_bool(0.5) {
            true => (Family::Headers, &headers),
            false => (Family::Bodies, &bodies),
        };
        let (key, len) = &all[rng.random_range(0..all.len())];
        let bit = rng.random_range(0..len * 8);
        *flipped.flip.lock() = Some(Flip {
            family,
            key: key.clone(),
            bit,
        });
        let found = match family {
            // As a node does when it starts, so that no header is used before: also what the block's hash does not cover.
            Family::Headers => ChainReader::open(Arc::clone(&flipped)).is_err(),
            _ => on_a.iter().any(|block| reader.body(*block).is_err()),
        };
        assert!(found, "{family:?} {} bit {bit}", hex::encode(key));
    }
    *flipped.flip.lock() = None;
    assert!(reader.head(ChainId::A).is_some());
}

#[test]
fn no_flipped_payload_file_is_used() {
    let (number, mut rng) = number_and_rng();
    let mut tensors = support::tensors();
    for tensor in &tensors {
        let whole =
            TensorView::parse(&tensor.bytes).and_then(|view| view.verify_full(tensor.payload));
        assert_eq!(whole, Ok(()));
    }
    for _ in 0..number / 2 {
        let at = rng.random_range(0..tensors.len());
        let tensor = &mut tensors[at];
        let bit = rng.random_range(0..tensor.bytes.len() * 8);
        flip(&mut tensor.bytes, bit);
        let checked =
            TensorView::parse(&tensor.bytes).and_then(|view| view.verify_full(tensor.payload));
        assert!(checked.is_err(), "{} bit {bit}", tensor.name);
        flip(&mut tensor.bytes, bit);
    }
}
