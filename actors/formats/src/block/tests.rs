use super::*;
use crate::name::LayerPart;

fn key() -> NodeKey {
    NodeKey::from_secret_bytes([3; 32]).unwrap()
}

fn hash(byte: u8) -> BlockHash {
    BlockHash::from_bytes([byte; 32])
}

fn expert() -> BlockHeader {
    BlockHeader {
        version: BLOCK_VERSION,
        network_id: NetworkId::from_bytes([1; 32]),
        chain: ChainId::B,
        index: 0,
        timestamp_ms: 1_700_000_000_000,
        block_type: BlockType::Expert,
        prev_hash: None,
        depends_on: Some(vec![]),
        supersedes: None,
        expert_name: Some(TensorName::expert_of(4, 7)),
        layer_id: Some(4),
        meta_ref: Some(hash(2)),
        payload_type: PayloadType::Tensorblock,
        payload_hash: PayloadHash::of_bytes(b"x"),
        payload_len: 170_176,
        nonce: 0,
        miner_pub: key().public_key(),
    }
}

fn manifest() -> BlockHeader {
    BlockHeader {
        chain: ChainId::A,
        index: 2,
        block_type: BlockType::Manifest,
        prev_hash: Some(hash(9)),
        depends_on: None,
        expert_name: None,
        layer_id: None,
        meta_ref: None,
        payload_type: PayloadType::Json,
        payload_len: 100,
        ..expert()
    }
}

fn genesis() -> BlockHeader {
    BlockHeader {
        network_id: NetworkId::NONE,
        index: 0,
        block_type: BlockType::Genesis,
        prev_hash: None,
        ..manifest()
    }
}

#[test]
fn sound_shapes_pass() {
    let child = BlockHeader {
        index: 3,
        depends_on: Some(vec![hash(1), hash(2)]),
        ..expert()
    };
    let embedding = BlockHeader {
        block_type: BlockType::SharedWeights,
        expert_name: Some(TensorName::Embedding),
        layer_id: None,
        ..expert()
    };
    let router = BlockHeader {
        block_type: BlockType::Router,
        expert_name: Some(TensorName::layer_part(4, LayerPart::Router)),
        ..expert()
    };
    for header in [expert(), child, embedding, router, manifest(), genesis()] {
        assert_eq!(header.validate_shape(), Ok(()), "{header:?}");
    }
}

/// One change to a sound header each, and the refusal that it must meet.
#[test]
fn every_refusal_is_met() {
    let parents = |list: Vec<BlockHash>| BlockHeader {
        index: 1,
        depends_on: Some(list),
        ..expert()
    };
    let supersedes = |list: Vec<BlockHash>| BlockHeader {
        supersedes: Some(list),
        ..expert()
    };
    let many = (0..=DEPENDS_ON_MAX as u8).map(hash).collect();
    let (block_type, name) = (BlockType::Router, TensorName::expert_of(4, 7));
    let cases = [
        (
            BlockHeader {
                version: 2,
                ..expert()
            },
            BlockError::Version(2),
        ),
        (
            BlockHeader {
                chain: ChainId::C,
                ..expert()
            },
            BlockError::ChainOfType {
                block_type: BlockType::Expert,
                chain: ChainId::C,
            },
        ),
        (
            BlockHeader {
                chain: ChainId::B,
                ..manifest()
            },
            BlockError::ChainOfType {
                block_type: BlockType::Manifest,
                chain: ChainId::B,
            },
        ),
        (
            BlockHeader {
                index: 0,
                ..manifest()
            },
            BlockError::GenesisPlace,
        ),
        (
            BlockHeader {
                index: 1,
                ..genesis()
            },
            BlockError::GenesisPlace,
        ),
        (
            BlockHeader {
                network_id: NetworkId::NONE,
                ..expert()
            },
            BlockError::NetworkId,
        ),
        (
            BlockHeader {
                network_id: NetworkId::from_bytes([1; 32]),
                ..genesis()
            },
            BlockError::NetworkId,
        ),
        (
            BlockHeader {
                timestamp_ms: u64::MAX,
                ..expert()
            },
            BlockError::Timestamp(u64::MAX),
        ),
        (
            BlockHeader {
                prev_hash: Some(hash(1)),
                ..expert()
            },
            BlockError::PrevHash,
        ),
        (
            BlockHeader {
                prev_hash: Some(hash(1)),
                ..genesis()
            },
            BlockError::PrevHash,
        ),
        (
            BlockHeader {
                prev_hash: None,
                ..manifest()
            },
            BlockError::PrevHash,
        ),
        (
            BlockHeader {
                depends_on: None,
                ..expert()
            },
            BlockError::DependsOnPlace,
        ),
        (
            BlockHeader {
                depends_on: Some(vec![]),
                ..manifest()
            },
            BlockError::DependsOnPlace,
        ),
        (parents(many), BlockError::DependsOnLen(65)),
        (parents(vec![hash(2), hash(1)]), BlockError::DependsOnOrder),
        (parents(vec![hash(1), hash(1)]), BlockError::DependsOnOrder),
        (parents(vec![]), BlockError::IndexOfParents),
        (
            BlockHeader {
                supersedes: Some(vec![hash(1)]),
                ..manifest()
            },
            BlockError::SupersedesPlace,
        ),
        (supersedes(vec![]), BlockError::SupersedesLen(0)),
        (
            supersedes((0..65).map(hash).collect()),
            BlockError::SupersedesLen(65),
        ),
        (
            supersedes(vec![hash(2), hash(1)]),
            BlockError::SupersedesOrder,
        ),
        (
            supersedes(vec![hash(1), hash(1)]),
            BlockError::SupersedesOrder,
        ),
        (
            BlockHeader {
                index: 0,
                ..parents(vec![hash(1)])
            },
            BlockError::IndexOfParents,
        ),
        (
            BlockHeader {
                expert_name: None,
                layer_id: None,
                ..expert()
            },
            BlockError::ExpertNamePlace,
        ),
        (
            BlockHeader {
                expert_name: Some(name),
                ..manifest()
            },
            BlockError::ExpertNamePlace,
        ),
        (
            BlockHeader {
                block_type,
                ..expert()
            },
            BlockError::ExpertNameType { name, block_type },
        ),
        (
            BlockHeader {
                layer_id: None,
                ..expert()
            },
            BlockError::LayerId,
        ),
        (
            BlockHeader {
                layer_id: Some(5),
                ..expert()
            },
            BlockError::LayerId,
        ),
        (
            BlockHeader {
                layer_id: Some(0),
                ..manifest()
            },
            BlockError::LayerId,
        ),
        (
            BlockHeader {
                meta_ref: None,
                ..expert()
            },
            BlockError::MetaRefPlace,
        ),
        (
            BlockHeader {
                meta_ref: Some(hash(1)),
                ..manifest()
            },
            BlockError::MetaRefPlace,
        ),
        (
            BlockHeader {
                payload_type: PayloadType::Json,
                ..expert()
            },
            BlockError::PayloadType(BlockType::Expert),
        ),
        (
            BlockHeader {
                payload_len: 0,
                ..expert()
            },
            BlockError::PayloadLen {
                len: 0,
                len_max: TENSORBLOCK_PAYLOAD_LEN_MAX,
            },
        ),
        (
            BlockHeader {
                payload_len: JSON_PAYLOAD_LEN_MAX + 1,
                ..manifest()
            },
            BlockError::PayloadLen {
                len: JSON_PAYLOAD_LEN_MAX + 1,
                len_max: JSON_PAYLOAD_LEN_MAX,
            },
        ),
    ];
    for (header, refusal) in cases {
        assert_eq!(header.validate_shape(), Err(refusal), "{header:?}");
    }
}

#[test]
fn every_field_is_under_the_hash_and_the_signature() {
    let signed = expert().sign(&key());
    assert_eq!(signed.verify(), Ok(()));
    let header = &signed.header;
    let changes = [
        BlockHeader {
            network_id: NetworkId::from_bytes([2; 32]),
            ..header.clone()
        },
        BlockHeader {
            timestamp_ms: 1,
            ..header.clone()
        },
        BlockHeader {
            expert_name: Some(TensorName::expert_of(4, 8)),
            ..header.clone()
        },
        BlockHeader {
            meta_ref: Some(hash(3)),
            ..header.clone()
        },
        BlockHeader {
            supersedes: Some(vec![hash(3)]),
            ..header.clone()
        },
        BlockHeader {
            payload_hash: PayloadHash::of_bytes(b"y"),
            ..header.clone()
        },
        BlockHeader {
            payload_len: 1,
            ..header.clone()
        },
        BlockHeader {
            nonce: 1,
            ..header.clone()
        },
        BlockHeader {
            index: 1,
            depends_on: Some(vec![hash(1)]),
            ..header.clone()
        },
        BlockHeader {
            miner_pub: NodeKey::generate().public_key(),
            ..header.clone()
        },
    ];
    for header in changes {
        let block = SignedBlock {
            header,
            signature: signed.signature,
        };
        assert_ne!(block.hash(), signed.hash());
        assert_eq!(
            block.verify(),
            Err(BlockError::Signature(SignatureFault::Mismatch)),
            "{:?}",
            block.header
        );
    }
}

#[test]
fn the_stored_form_is_hashed_as_the_header_is() {
    let child = BlockHeader {
        index: 1,
        depends_on: Some(vec![hash(1)]),
        supersedes: Some(vec![hash(1)]),
        ..expert()
    };
    for header in [expert(), child, manifest(), genesis()] {
        let block = header.sign(&key());
        let (hash, stored) = block.written();
        assert_eq!((hash, &stored), (block.hash(), &block.to_canonical()));
        assert_eq!(SignedBlock::read(&stored), Ok((hash, block)));
    }
}

#[test]
fn only_the_canonical_form_is_read() {
    let signed = expert().sign(&key());
    let bytes = signed.to_canonical();
    assert_eq!(SignedBlock::from_canonical(&bytes), Ok(signed));
    let text = String::from_utf8(bytes).unwrap();
    for (from, to) in [
        ("{\"header\"", "{ \"header\""),
        ("\"nonce\":0", "\"nonce\":0,\"other\":0"),
        ("\"nonce\":0", "\"nonce\":-0"),
        ("\"nonce\":0,\"payload", "\"nonce\":0,\"nonce\":0,\"payload"),
        ("\"payload_type\"", "\"prev_hash\":null,\"payload_type\""),
        ("\"layer_id\":4", "\"layer_id\":65536"),
        ("\"chain\":\"B\"", "\"chain\":\"E\""),
        ("layer4.expert7", "layer04.expert7"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert!(
            SignedBlock::from_canonical(changed.as_bytes()).is_err(),
            "{to}"
        );
    }
    let long = vec![b' '; SIGNED_BLOCK_LEN_MAX + 1];
    assert!(matches!(
        SignedBlock::from_canonical(&long),
        Err(BlockError::Canonical(CanonicalError::TooLong { .. }))
    ));
}

#[test]
fn the_largest_header_fits_its_bound() {
    let parents: Vec<_> = (0..DEPENDS_ON_MAX as u8).map(hash).collect();
    let header = BlockHeader {
        index: u64::MAX,
        supersedes: Some(parents.clone()),
        depends_on: Some(parents),
        nonce: u64::MAX,
        ..expert()
    };
    assert_eq!(header.validate_shape(), Ok(()));
    assert!(header.sign(&key()).to_canonical().len() <= SIGNED_BLOCK_LEN_MAX);
}

#[test]
fn a_genesis_names_its_own_network() {
    let genesis = genesis();
    assert_eq!(genesis.network(), NetworkId::of_genesis(genesis.hash()));
    assert_eq!(manifest().network(), NetworkId::from_bytes([1; 32]));
}

#[test]
fn a_commit_record_has_a_stored_form() {
    let record = CommitRecord {
        accepted_by: key().public_key(),
        accepted_ms: 5,
        rule: CommitRule::AuthorisedKey,
    };
    let text = String::from_utf8(to_canonical(&record).unwrap()).unwrap();
    assert!(
        text.ends_with("\"accepted_ms\":5,\"rule\":\"authorised_key\"}"),
        "{text}"
    );
}

#[test]
fn chains_are_letters() {
    for chain in [ChainId::A, ChainId::B, ChainId::C, ChainId::D] {
        assert_eq!(chain.to_string().parse(), Ok(chain));
    }
    assert_eq!("a".parse::<ChainId>(), Err(ChainIdError));
}
