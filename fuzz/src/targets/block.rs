//! Blocks and the JSON payloads of chain A: one spelling, one hash, a signature that stands over all of it.

use blyan_formats::bodies::{
    ChatTemplate, Decimal, ExpertShape, Family, Payload, Rope, RopeStyle, Routing, StringTable,
    Tokenizer, TokenizerKind,
};
use blyan_formats::{
    ArchitectureBody, AuditAnchorBody, BlockHash, BlockHeader, BlockType, ChainId, ContentHash,
    GenesisBody, KeyGrantBody, ManifestBody, NetworkId, NodeKey, PayloadHash, SignedBlock,
    TensorName,
};

use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "block",
    run,
    seeds,
};

fn run(input: &[u8]) {
    body::<GenesisBody>(input);
    body::<KeyGrantBody>(input);
    body::<ArchitectureBody>(input);
    body::<ManifestBody>(input);
    body::<AuditAnchorBody>(input);
    if let Ok((hash, block)) = heap::bounded(input, 1, SignedBlock::read) {
        one_spelling(input, hash, &block);
        signed(&block);
    }
}

fn body<B: Payload>(input: &[u8]) {
    // Read for its own sake, and written again to see that this is the one spelling.
    if let Ok(body) = heap::bounded(input, 2, B::from_payload) {
        assert_eq!(body.to_payload().as_deref(), Ok(input));
    }
}

fn one_spelling(input: &[u8], hash: BlockHash, block: &SignedBlock) {
    assert_eq!(block.written(), (hash, input.to_vec()));
    assert_eq!(block.header.hash(), hash);
    assert_eq!(block.hash(), hash);
    let second: serde_json::Value = serde_json::from_slice(input).expect("it was read");
    assert_eq!(serde_json::to_value(block).ok(), Some(second));
}

/// Signed by a key of ours a header verifies exactly if its shape is sound, and any other header is refused.
fn signed(block: &SignedBlock) {
    let ours = block.header.clone().sign(&key());
    assert_eq!(ours.verify().is_ok(), ours.header.validate_shape().is_ok());
    let changes: [fn(&mut BlockHeader); 3] = [
        |header| header.nonce ^= 1,
        |header| header.timestamp_ms ^= 1,
        |header| header.payload_len ^= 1,
    ];
    for change in changes {
        let mut changed = ours.clone();
        change(&mut changed.header);
        assert!(changed.verify_signature().is_err(), "{changed:?}");
    }
    if block.verify().is_ok() {
        let mut other = block.clone();
        other.header.miner_pub = key().public_key();
        assert!(other.header.miner_pub == block.header.miner_pub || other.verify().is_err());
    }
}

fn key() -> NodeKey {
    NodeKey::from_secret_bytes([7; 32]).expect("a number below the curve's order")
}

fn header(block_type: BlockType) -> BlockHeader {
    BlockHeader {
        version: 1,
        network_id: NetworkId::of_genesis(BlockHash::from_bytes([1; 32])),
        chain: block_type.chain(),
        index: 1,
        timestamp_ms: 1_700_000_000_000,
        block_type,
        prev_hash: None,
        depends_on: None,
        supersedes: None,
        expert_name: None,
        layer_id: None,
        meta_ref: None,
        payload_type: block_type.payload_type(),
        payload_hash: PayloadHash::from_bytes([2; 32]),
        payload_len: 5000,
        nonce: 0,
        miner_pub: key().public_key(),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let hashes = |numbers: &[u8]| {
        numbers
            .iter()
            .map(|n| BlockHash::from_bytes([*n; 32]))
            .collect()
    };
    let on_a = BlockHeader {
        prev_hash: Some(BlockHash::from_bytes([3; 32])),
        ..header(BlockType::Manifest)
    };
    let expert = BlockHeader {
        depends_on: Some(hashes(&[4, 5])),
        supersedes: Some(hashes(&[6])),
        expert_name: Some(TensorName::expert_of(1, 2)),
        layer_id: Some(1),
        meta_ref: Some(BlockHash::from_bytes([7; 32])),
        ..header(BlockType::Expert)
    };
    let genesis = BlockHeader {
        network_id: NetworkId::NONE,
        index: 0,
        ..header(BlockType::Genesis)
    };
    let misplaced = BlockHeader {
        chain: ChainId::D,
        ..header(BlockType::Router)
    };
    let blocks =
        [on_a, expert, genesis, misplaced].map(|header| header.sign(&key()).to_canonical());
    blocks.into_iter().chain(bodies()).collect()
}

fn bodies() -> [Vec<u8>; 5] {
    let architecture = architecture();
    let entries = architecture
        .tensor_names()
        .zip((0..).map(|n| BlockHash::from_bytes([n; 32])));
    let manifest = ManifestBody {
        architecture: BlockHash::from_bytes([200; 32]),
        entries: entries.collect(),
    };
    let anchor = AuditAnchorBody {
        count: 3,
        head: ContentHash::from_bytes([7; 32]),
    };
    [
        GenesisBody::new("fuzz", [key().public_key()]).to_payload(),
        KeyGrantBody::new([key().public_key()]).to_payload(),
        architecture.to_payload(),
        manifest.to_payload(),
        anchor.to_payload(),
    ]
    .map(|payload| payload.expect("a sound body"))
}

fn architecture() -> ArchitectureBody {
    let decimal = |text: &str| text.parse::<Decimal>().expect("a decimal");
    ArchitectureBody {
        family: Family::Llama,
        name: "fuzz".into(),
        license: "Apache-2.0".into(),
        layers: 1,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        vocab: 3,
        context: 128,
        rms_epsilon: decimal("0.00001"),
        rope: Rope {
            base: decimal("100000"),
            style: RopeStyle::Interleaved,
        },
        experts: ExpertShape {
            per_layer: 2,
            always_on: 1,
            neurons: 48,
            routing: Routing::TopScoresUnitWeight,
        },
        tokenizer: tokenizer(),
        chat_template: ChatTemplate::Chatml,
        system_prompt: Some("Be brief.".into()),
    }
}

fn tokenizer() -> Tokenizer {
    let table = |texts: &[&str]| {
        let mut table = StringTable::default();
        assert!(texts.iter().all(|text| table.push(text)));
        table
    };
    Tokenizer {
        kind: TokenizerKind::Gpt2Smollm,
        vocab: table(&["a", "\u{120}b", "c"]),
        merges: table(&["a b"]),
        token_types: vec![3, 1, 1],
        bos: 1,
        eos: 2,
        unknown: 0,
        padding: 2,
        add_bos: false,
        add_space_prefix: false,
    }
}
