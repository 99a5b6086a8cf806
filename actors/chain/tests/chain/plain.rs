//! The plain model of a chain: a list of blocks that is searched from end to end for every question.

use std::collections::{BTreeSet, HashSet};

use blyan_chain::{BlockQuery, ChainIndex, ParamIndex};
use blyan_formats::{BlockHash, BlockType, ChainId, SignedBlock, TensorName};

/// A block that is on the chain.
#[derive(Clone, Debug)]
pub struct Held {
    pub hash: BlockHash,
    pub block: SignedBlock,
}

/// The plain model: every question is answered by looking at all blocks.
#[derive(Clone, Default)]
pub struct Plain(pub Vec<Held>);

impl Plain {
    pub fn find(&self, hash: BlockHash) -> Option<&Held> {
        self.0.iter().find(|held| held.hash == hash)
    }

    pub fn on(&self, chain: ChainId) -> Vec<&Held> {
        self.0
            .iter()
            .filter(|held| held.block.header.chain == chain)
            .collect()
    }

    pub fn of_type(&self, block_type: BlockType) -> Vec<&Held> {
        self.0
            .iter()
            .filter(|held| held.block.header.block_type == block_type)
            .collect()
    }

    pub fn named(&self, name: TensorName) -> Vec<&Held> {
        self.0
            .iter()
            .filter(|held| held.block.header.expert_name == Some(name))
            .collect()
    }

    /// The block and everything that it depends on.
    pub fn ancestors(&self, hash: BlockHash) -> BTreeSet<BlockHash> {
        let mut found = BTreeSet::from([hash]);
        let mut waiting = vec![hash];
        while let Some(next) = waiting.pop() {
            let parents = self
                .find(next)
                .into_iter()
                .flat_map(|held| held.block.header.depends_on.iter().flatten());
            waiting.extend(parents.filter(|parent| found.insert(**parent)));
        }
        found
    }

    pub fn tips_of_b(&self) -> usize {
        let depended: HashSet<_> = self
            .0
            .iter()
            .flat_map(|held| held.block.header.depends_on.iter().flatten())
            .collect();
        self.on(ChainId::B)
            .iter()
            .filter(|held| !depended.contains(&held.hash))
            .count()
    }
}

/// Every question is answered alike.
pub fn check_against(plain: &Plain, index: &ChainIndex, names: &[TensorName]) {
    let chain_a: Vec<_> = plain.on(ChainId::A).iter().map(|held| held.hash).collect();
    assert_eq!(index.chain_a(), chain_a);
    let mut chain_b: Vec<_> = plain
        .on(ChainId::B)
        .iter()
        .map(|held| (held.block.header.index, held.hash))
        .collect();
    chain_b.sort();
    assert!(index.chain_b().eq(chain_b.iter().map(|(_, hash)| *hash)));
    match index.head(ChainId::B) {
        Some(head) => {
            assert_eq!(Some(&(head.index, head.hash)), chain_b.last());
            assert_eq!(
                (head.blocks, head.tips),
                (chain_b.len() as u64, plain.tips_of_b() as u64)
            );
        }
        None => assert!(chain_b.is_empty()),
    }
    let manifests: Vec<_> = plain
        .of_type(BlockType::Manifest)
        .iter()
        .map(|held| held.hash)
        .collect();
    assert!(index.manifests().eq(manifests.iter().copied()));
    assert_eq!(
        index.params().map(|params| params.model().0),
        manifests.last().copied()
    );
    check_order(index);
    check_queries(plain, index, names);
}

/// Versions, deprecation, lineage and queries, each by a search through all blocks.
fn check_queries(plain: &Plain, index: &ChainIndex, names: &[TensorName]) {
    for held in plain.on(ChainId::B) {
        let newer = plain.on(ChainId::B).into_iter().filter(|other| {
            let superseded = other.block.header.supersedes.iter().flatten();
            superseded.into_iter().any(|old| *old == held.hash)
        });
        let newer: BTreeSet<_> = newer.map(|other| other.hash).collect();
        assert!(index.superseded_by(held.hash).eq(newer));
        let lineage = index.lineage(held.hash, plain.0.len()).unwrap();
        assert!(!lineage.truncated);
        let found: Vec<_> = lineage.blocks.iter().map(|v| v.block.hash).collect();
        assert_eq!(found.last(), Some(&held.hash));
        assert_eq!(BTreeSet::from_iter(found), plain.ancestors(held.hash));
    }
    for name in names.iter().copied() {
        let held: BTreeSet<_> = plain.named(name).iter().map(|held| held.hash).collect();
        assert_eq!(
            index
                .versions(name)
                .map(|b| b.hash)
                .collect::<BTreeSet<_>>(),
            held
        );
        let query = BlockQuery {
            names: [name].into(),
            architecture: index.params().map(ParamIndex::architecture),
            ..BlockQuery::default()
        };
        let wanted = plain.named(name).into_iter().filter(|held| {
            let fits = query
                .architecture
                .is_none_or(|of| held.block.header.meta_ref == Some(of));
            fits && index.superseded_by(held.hash).next().is_none()
        });
        let wanted: BTreeSet<_> = wanted.map(|held| held.hash).collect();
        assert_eq!(
            index.find(&query).map(|b| b.hash).collect::<BTreeSet<_>>(),
            wanted
        );
    }
    let experts = BlockQuery {
        block_type: Some(BlockType::Expert),
        deprecated: true,
        ..BlockQuery::default()
    };
    assert_eq!(
        index.find(&experts).count(),
        plain.of_type(BlockType::Expert).len()
    );
}

/// Parents stand before children.
fn check_order(index: &ChainIndex) {
    let mut seen = HashSet::new();
    for hash in index.chain_b() {
        assert!(
            index
                .get(&hash)
                .unwrap()
                .parents
                .iter()
                .all(|parent| seen.contains(parent))
        );
        seen.insert(hash);
    }
}
