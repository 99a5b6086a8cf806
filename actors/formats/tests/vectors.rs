//! Recomputes the vectors in `tests/vectors` of the repository, which another implementation wrote (`generate.py`).

use std::path::{Path, PathBuf};

use blyan_formats::bodies::Payload;
use blyan_formats::hash::sha256;
use blyan_formats::merkle::{self, Proof};
use blyan_formats::tensorblock::{TensorBuf, TensorView, verify_proof, write_tensorblock};
use blyan_formats::{
    BlockHash, BlockHeader, GenesisBody, NodeKey, PayloadHash, PublicKey, Signature, SignedBlock,
    from_canonical, to_canonical,
};
use serde::Deserialize;
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/vectors")
        .join(name)
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct CanonicalVector {
    input: String,
    canonical: String,
}

#[test]
fn canonical_json_is_what_python_writes() {
    let vectors: Vec<CanonicalVector> = read("canonical_json.json");
    assert!(vectors.len() > 200);
    for CanonicalVector { input, canonical } in vectors {
        let value: Value = serde_json::from_str(&input).unwrap();
        assert_eq!(
            String::from_utf8(to_canonical(&value).unwrap()).unwrap(),
            canonical,
            "{input}"
        );
        assert_eq!(
            from_canonical::<Value>(canonical.as_bytes()).unwrap(),
            value,
            "{input}"
        );
        if input != canonical {
            assert!(
                from_canonical::<Value>(input.as_bytes()).is_err(),
                "{input}"
            );
        }
    }
}

#[derive(Deserialize)]
struct TextRefused {
    why: String,
    text: String,
}

#[test]
fn other_spellings_are_refused() {
    let vectors: Vec<TextRefused> = read("canonical_json_refused.json");
    assert!(vectors.len() > 20);
    for TextRefused { why, text } in vectors {
        assert!(from_canonical::<Value>(text.as_bytes()).is_err(), "{why}");
    }
}

#[derive(Deserialize)]
struct HeaderRefused {
    why: String,
    header: String,
}

#[test]
fn headers_of_another_shape_are_refused() {
    let vectors: Vec<HeaderRefused> = read("block_refused.json");
    assert!(vectors.len() > 25);
    for HeaderRefused { why, header } in vectors {
        let header = from_canonical::<BlockHeader>(header.as_bytes());
        let refused = header.is_err() || header.is_ok_and(|h| h.validate_shape().is_err());
        assert!(refused, "{why}");
    }
}

#[derive(Deserialize)]
struct SignatureRefused {
    why: String,
    public_key: PublicKey,
    hash: BlockHash,
    signature: Signature,
}

#[test]
fn signatures_that_do_not_hold_are_refused() {
    let vectors: Vec<SignatureRefused> = read("signature_refused.json");
    assert_eq!(vectors.len(), 7);
    for vector in vectors {
        let verified = vector.public_key.verify(vector.hash, &vector.signature);
        assert!(verified.is_err(), "{}", vector.why);
    }
}

#[derive(Deserialize)]
struct BlockVectors {
    secret_key: String,
    public_key: String,
    genesis_payload: String,
    blocks: Vec<BlockVector>,
}

#[derive(Deserialize)]
struct BlockVector {
    name: String,
    header: String,
    hash: BlockHash,
    signature: String,
    block: String,
}

#[test]
fn block_hashes_and_signatures_are_recomputed() {
    let vectors: BlockVectors = read("block.json");
    let mut secret = [0; 32];
    hex::decode_to_slice(&vectors.secret_key, &mut secret).unwrap();
    let key = NodeKey::from_secret_bytes(secret).unwrap();
    assert_eq!(key.public_key().to_string(), vectors.public_key);
    for BlockVector {
        name,
        header,
        hash,
        signature,
        block,
    } in vectors.blocks
    {
        let signed = SignedBlock::from_canonical(block.as_bytes()).unwrap();
        signed.verify().unwrap();
        assert_eq!(signed.header.to_canonical(), header.as_bytes(), "{name}");
        assert_eq!(signed.hash(), hash, "{name}");
        assert_eq!(signed.signature.to_string(), signature, "{name}");
        assert_eq!(signed.header.clone().sign(&key), signed, "{name}");
        assert_eq!(signed.to_canonical(), block.as_bytes(), "{name}");
    }
}

#[test]
fn genesis_payload_is_recomputed() {
    let vectors: BlockVectors = read("block.json");
    let body = GenesisBody::from_payload(vectors.genesis_payload.as_bytes()).unwrap();
    assert_eq!(
        body,
        GenesisBody::new("vectors", [vectors.public_key.parse().unwrap()])
    );
    let genesis = SignedBlock::from_canonical(vectors.blocks[0].block.as_bytes()).unwrap();
    assert_eq!(
        genesis.header.payload_hash,
        PayloadHash::of_bytes(vectors.genesis_payload.as_bytes())
    );
    assert_eq!(genesis.header.network().genesis(), vectors.blocks[0].hash);
    let next = SignedBlock::from_canonical(vectors.blocks[1].block.as_bytes()).unwrap();
    assert_eq!(next.header.network(), genesis.header.network());
}

#[derive(Deserialize)]
struct TensorVector {
    name: String,
    dtype: u32,
    quantisation: u32,
    rows: usize,
    cols: usize,
    file_len: u64,
    file_sha256: String,
    payload_hash: PayloadHash,
    leaf_count: u64,
    file: Option<String>,
    #[serde(default)]
    values: Vec<f32>,
}

/// The vectors' formula for int8 rows: element (31 r + 7 c) mod 255 - 127, scale of row r (r + 1) / 1024.
fn int8_rows(rows: usize, cols: usize) -> TensorBuf {
    let element = |i: usize| ((31 * (i / cols) + 7 * (i % cols)) % 255) as i16 - 127;
    let values = (0..rows * cols).map(|i| element(i) as i8).collect();
    let scales = (0..rows).map(|row| (row + 1) as f32 / 1024.0).collect();
    TensorBuf::int8_rows(rows, cols, values, scales).unwrap()
}

fn check_file(vector: &TensorVector, file: &[u8]) {
    assert_eq!(file.len() as u64, vector.file_len, "{}", vector.name);
    assert_eq!(
        hex::encode(sha256(file)),
        vector.file_sha256,
        "{}",
        vector.name
    );
    let view = TensorView::parse(file).unwrap();
    view.verify_full(vector.payload_hash).unwrap();
    let spec = view.spec();
    assert_eq!(
        (spec.dtype as u32, spec.quantisation as u32),
        (vector.dtype, vector.quantisation)
    );
    assert_eq!(
        (spec.rows, spec.cols),
        (vector.rows as u64, vector.cols as u64)
    );
    assert_eq!(view.tile_count(), vector.leaf_count);
    assert_eq!(
        merkle::leaf_count_of_file(vector.file_len),
        Some(vector.leaf_count)
    );

    let mut again = Vec::new();
    let written = write_tensorblock(&view.tensor(), &mut again).unwrap();
    assert_eq!(
        (written.payload_hash, written.len),
        (vector.payload_hash, vector.file_len)
    );
    assert!(again == file, "{} is written differently", vector.name);
}

#[test]
fn tensorblocks_are_recomputed() {
    let vectors: Vec<TensorVector> = read("tensorblock.json");
    assert_eq!(vectors.len(), 7);
    for vector in &vectors {
        let file = match &vector.file {
            Some(name) => std::fs::read(path(name)).unwrap(),
            None => {
                let mut file = Vec::new();
                write_tensorblock(&int8_rows(vector.rows, vector.cols).as_tensor(), &mut file)
                    .unwrap();
                file
            }
        };
        check_file(vector, &file);
        let mut values = vec![0.0; vector.rows * vector.cols];
        TensorView::parse(&file)
            .unwrap()
            .tensor()
            .dequantise_into(&mut values)
            .unwrap();
        if vector.file.is_some() {
            assert_eq!(values, vector.values, "{}", vector.name);
        }
    }
}

#[derive(Deserialize)]
struct TensorRefused {
    why: String,
    file: String,
    payload_hash: PayloadHash,
    len: usize,
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
struct Edit {
    at: usize,
    hex: String,
}

#[test]
fn damaged_tensorblocks_are_refused() {
    let vectors: Vec<TensorRefused> = read("tensorblock_refused.json");
    assert_eq!(vectors.len(), 20);
    for vector in vectors {
        let mut file = std::fs::read(path(&vector.file)).unwrap();
        for Edit { at, hex } in vector.edits {
            let bytes = hex::decode(hex).unwrap();
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        file.truncate(vector.len);
        let verified =
            TensorView::parse(&file).and_then(|view| view.verify_full(vector.payload_hash));
        assert!(verified.is_err(), "{}", vector.why);
    }
}

#[derive(Deserialize)]
struct ProofRefused {
    why: String,
    #[serde(flatten)]
    proof: ProofVector,
}

#[test]
fn proofs_that_lead_elsewhere_are_refused() {
    let vectors: Vec<ProofRefused> = read("merkle_proof_refused.json");
    assert_eq!(vectors.len(), 9);
    for ProofRefused { why, proof: vector } in vectors {
        let leaf = *vector.leaf.0.as_bytes();
        let proof = Proof {
            leaf_index: vector.leaf_index,
            siblings: vector
                .siblings
                .iter()
                .map(|node| *node.0.as_bytes())
                .collect(),
        };
        assert!(
            !proof.verify(vector.root, vector.leaf_count, &leaf),
            "{why}"
        );
    }
}

#[derive(Deserialize)]
struct ProofVector {
    leaf_count: u64,
    leaf_index: u64,
    leaf: ContentHex,
    root: PayloadHash,
    siblings: Vec<ContentHex>,
}

#[derive(Deserialize)]
struct ContentHex(blyan_formats::ContentHash);

#[test]
fn merkle_proofs_are_recomputed() {
    let vectors: Vec<ProofVector> = read("merkle_proof.json");
    assert_eq!(vectors.len(), 15);
    for vector in vectors {
        let is_last = vector.leaf_index + 1 == vector.leaf_count;
        let tile =
            vec![(vector.leaf_index % 251) as u8; if is_last { 1000 } else { merkle::LEAF_LEN }];
        assert_eq!(merkle::leaf_hash(&tile), *vector.leaf.0.as_bytes());
        let siblings = vector
            .siblings
            .iter()
            .map(|node| *node.0.as_bytes())
            .collect();
        let proof = Proof {
            leaf_index: vector.leaf_index,
            siblings,
        };
        assert!(verify_proof(vector.root, vector.leaf_count, &proof, &tile));
        assert!(!verify_proof(
            vector.root,
            vector.leaf_count,
            &proof,
            &tile[1..]
        ));
        let other = Proof {
            leaf_index: vector.leaf_index ^ 1,
            ..proof
        };
        assert!(!verify_proof(vector.root, vector.leaf_count, &other, &tile));
    }
}
