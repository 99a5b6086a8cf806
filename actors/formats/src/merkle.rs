//! The domain-separated SHA-256 Merkle tree of a TensorBlock.
//!
//! Leaves are ranges of [`LEAF_LEN`] bytes, the last one may be short. leaf = SHA-256(0x00, domain, bytes),
//! node = SHA-256(0x01, domain, left, right), domain = `blyan/tensorblock/v1` and a zero byte. A tree over n leaves
//! splits at the largest power of two below n, which is the same as pairing neighbours level by level and carrying
//! an unpaired last entry up unchanged.
//!
//! The stored form is the levels one after the other, leaves first, each level with all of its entries (a carried
//! one stands in both levels), 32 bytes an entry; so the root is the last 32 bytes.

use sha2::{Digest, Sha256};

use crate::hash::{HASH_LEN, PayloadHash, TENSORBLOCK_DOMAIN, domain_hash};

/// Bytes of a leaf.
pub const LEAF_LEN: usize = 64 * 1024;

/// One entry of the tree.
pub type Node = [u8; HASH_LEN];

const LEAF_TAG: u8 = 0x00;
const NODE_TAG: u8 = 0x01;

/// Hash of a leaf's bytes.
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Node {
    domain_hash(&[LEAF_TAG], &[TENSORBLOCK_DOMAIN, bytes])
}

/// Hash of two neighbours.
#[must_use]
pub fn node_hash(left: &Node, right: &Node) -> Node {
    domain_hash(&[NODE_TAG], &[TENSORBLOCK_DOMAIN, left, right])
}

/// Number of leaves over `len` bytes.
#[must_use]
pub const fn leaf_count(len: u64) -> u64 {
    len.div_ceil(LEAF_LEN as u64)
}

/// Widths of the levels over `leaves` leaves, from the leaves to the root; empty for no leaves.
pub fn level_widths(leaves: u64) -> impl Iterator<Item = u64> {
    let first = (leaves > 0).then_some(leaves);
    std::iter::successors(first, |&width| (width > 1).then_some(width.div_ceil(2)))
}

/// Length of the stored tree in bytes; none if it does not fit in 64 bits.
#[must_use]
pub fn tree_len(leaves: u64) -> Option<u64> {
    level_widths(leaves)
        .try_fold(0_u64, u64::checked_add)?
        .checked_mul(HASH_LEN as u64)
}

/// Number of leaves of the file whose whole length, tree included, is `file_len`; none if no file has that length.
/// A block header's `payload_len` gives it, so a proof can be checked without the file.
#[must_use]
pub fn leaf_count_of_file(file_len: u64) -> Option<u64> {
    let holds = |leaves: u64| {
        let covered = file_len.checked_sub(tree_len(leaves)?)?;
        (leaf_count(covered) == leaves).then_some(leaves)
    };
    let most = leaf_count(file_len);
    // A level costs at most half of the one below plus one entry: at least 1/1025 less than `most` can be ruled out.
    let least = most.saturating_sub(most / 512 + 2).max(1);
    (least..=most).find_map(holds)
}

/// The next level up.
fn parents(level: &[Node]) -> impl Iterator<Item = Node> {
    level.chunks(2).map(|pair| match pair {
        [left, right] => node_hash(left, right),
        _ => pair[0],
    })
}

/// The stored form of the tree over these leaves.
#[must_use]
pub fn build(leaves: Vec<Node>) -> Vec<Node> {
    let mut tree = leaves;
    let mut start = 0;
    while tree.len() - start > 1 {
        let level: Vec<Node> = parents(&tree[start..]).collect();
        start = tree.len();
        tree.extend(level);
    }
    tree
}

/// The root over these leaves, as [`build`] would find it; none without leaves.
#[must_use]
pub fn root(leaves: Vec<Node>) -> Option<Node> {
    let mut level = leaves;
    while level.len() > 1 {
        level = parents(&level).collect();
    }
    level.first().copied()
}

/// Whether every stored entry above the leaves is what the entries below it give.
#[must_use]
pub fn is_consistent(tree: &[Node], leaves: u64) -> bool {
    let mut rest = tree;
    for width in level_widths(leaves) {
        let Some((level, above)) = rest.split_at_checked(width as usize) else {
            return false;
        };
        if level.len() > 1
            && !parents(level).eq(above.iter().take(level.len().div_ceil(2)).copied())
        {
            return false;
        }
        rest = above;
    }
    rest.is_empty()
}

/// Hashes a stream of bytes into leaves without keeping the bytes.
#[derive(Default)]
pub struct LeafHasher {
    leaves: Vec<Node>,
    open: Option<Sha256>,
    open_len: usize,
}

impl LeafHasher {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LEAF_LEN - self.open_len));
            self.open.get_or_insert_with(new_leaf).update(now);
            self.open_len += now.len();
            if self.open_len == LEAF_LEN {
                self.close();
            }
            bytes = later;
        }
    }

    /// The leaves of everything seen.
    #[must_use]
    pub fn finish(mut self) -> Vec<Node> {
        self.close();
        self.leaves
    }

    fn close(&mut self) {
        self.leaves
            .extend(self.open.take().map(|hasher| Node::from(hasher.finalize())));
        self.open_len = 0;
    }
}

fn new_leaf() -> Sha256 {
    Sha256::new()
        .chain_update([LEAF_TAG])
        .chain_update(TENSORBLOCK_DOMAIN)
}

/// That one leaf belongs to a tree: its neighbours on the way to the root, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub leaf_index: u64,
    pub siblings: Vec<Node>,
}

impl Proof {
    /// Takes the proof of a leaf out of a stored tree; none if the leaf or an entry is not there.
    #[must_use]
    pub fn of(tree: &[Node], leaves: u64, leaf_index: u64) -> Option<Self> {
        if leaf_index >= leaves {
            return None;
        }
        let (mut start, mut index) = (0, leaf_index);
        let mut siblings = Vec::new();
        for width in level_widths(leaves) {
            let sibling = index ^ 1;
            if sibling < width {
                siblings.push(*tree.get(usize::try_from(start + sibling).ok()?)?);
            }
            start += width;
            index /= 2;
        }
        Some(Self {
            leaf_index,
            siblings,
        })
    }

    /// Whether `leaf` stands at `leaf_index` in the tree with this root. `leaves` must come from a trusted source
    /// ([`leaf_count_of_file`] of the header's `payload_len`): the root alone does not fix it.
    #[must_use]
    pub fn verify(&self, root: PayloadHash, leaves: u64, leaf: &Node) -> bool {
        self.root_over(leaves, leaf) == Some(*root.as_bytes())
    }

    fn root_over(&self, leaves: u64, leaf: &Node) -> Option<Node> {
        if self.leaf_index >= leaves {
            return None;
        }
        let mut siblings = self.siblings.iter();
        let (mut node, mut index) = (*leaf, self.leaf_index);
        for width in level_widths(leaves) {
            if index ^ 1 < width {
                let sibling = siblings.next()?;
                node = if index % 2 == 0 {
                    node_hash(&node, sibling)
                } else {
                    node_hash(sibling, &node)
                };
            }
            index /= 2;
        }
        siblings.next().is_none().then_some(node)
    }
}
