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
    let is_longer_than_all_below = |leaves: u64| {
        let covered = (leaves - 1).checked_mul(LEAF_LEN as u64)?;
        Some(tree_len(leaves)?.checked_add(covered)? < file_len)
    };
    let (mut low, mut high) = (0, leaf_count(file_len) + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match is_longer_than_all_below(middle) {
            Some(true) => low = middle,
            _ => high = middle,
        }
    }
    let covered = file_len.checked_sub(tree_len(low)?)?;
    (low > 0 && leaf_count(covered) == low).then_some(low)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Node> {
        (0..count).map(|i| leaf_hash(&i.to_le_bytes())).collect()
    }

    /// The definition: split at the largest power of two below the number of leaves.
    fn root_by_definition(leaves: &[Node]) -> Node {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(
                    &root_by_definition(&leaves[..split]),
                    &root_by_definition(&leaves[split..]),
                )
            }
        }
    }

    #[test]
    fn levels_give_the_root_of_the_definition() {
        for count in 1..70 {
            let tree = build(leaves(count));
            assert_eq!(
                tree.len() as u64 * HASH_LEN as u64,
                tree_len(count).unwrap()
            );
            assert_eq!(
                tree.last(),
                Some(&root_by_definition(&leaves(count))),
                "{count} leaves"
            );
            assert_eq!(root(leaves(count)), tree.last().copied());
            assert!(is_consistent(&tree, count));
        }
    }

    #[test]
    fn any_changed_or_missing_entry_is_inconsistent() {
        for count in 2..20 {
            let tree = build(leaves(count));
            for at in 0..tree.len() {
                let mut changed = tree.clone();
                changed[at][31] ^= 1;
                assert!(
                    !is_consistent(&changed, count),
                    "{count} leaves, entry {at}"
                );
            }
            assert!(!is_consistent(&tree[1..], count));
            assert!(!is_consistent(&tree[..tree.len() - 1], count));
            assert!(!is_consistent(
                &[tree.clone(), vec![[0; 32]]].concat(),
                count
            ));
        }
        assert!(is_consistent(&[], 0));
    }

    #[test]
    fn proofs_fit_one_leaf_one_place_and_one_count() {
        for count in 1..20 {
            let tree = build(leaves(count));
            let hash = PayloadHash::from_bytes(*tree.last().unwrap());
            for (index, leaf) in leaves(count).iter().enumerate() {
                let proof = Proof::of(&tree, count, index as u64).unwrap();
                assert!(proof.verify(hash, count, leaf));
                assert!(!proof.verify(hash, count, &leaf_hash(b"other")));
                for place in (0..count).filter(|place| *place != index as u64) {
                    let moved = Proof {
                        leaf_index: place,
                        ..proof.clone()
                    };
                    assert!(
                        !moved.verify(hash, count, leaf),
                        "{index} moved to {place} of {count}"
                    );
                }
            }
            assert_eq!(Proof::of(&tree, count, count), None);
            assert_eq!(
                Proof::of(&tree[..tree.len() - 1], count + 1, 0)
                    .filter(|p| p.verify(hash, count, &tree[0])),
                None
            );
        }
    }

    #[test]
    fn leaf_and_node_are_told_apart() {
        let [left, right] = [leaf_hash(b"l"), leaf_hash(b"r")];
        assert_ne!(
            leaf_hash([left, right].as_flattened()),
            node_hash(&left, &right)
        );
        assert_ne!(node_hash(&left, &right), node_hash(&right, &left));
    }

    #[test]
    fn the_files_length_gives_the_number_of_leaves() {
        let step = LEAF_LEN as u64;
        for covered in (1..400)
            .map(|i| i * step / 3)
            .chain([1, step - 1, step, step + 1, 1 << 40])
        {
            let count = leaf_count(covered);
            let file_len = covered + tree_len(count).unwrap();
            assert_eq!(leaf_count_of_file(file_len), Some(count), "{covered}");
        }
        assert_eq!(leaf_count_of_file(0), None);
        assert_eq!(leaf_count_of_file(32), None);
        assert_eq!(
            leaf_count_of_file(step + 33),
            None,
            "longer than one leaf and its tree, shorter than two"
        );
        assert!(leaf_count_of_file(u64::MAX).is_none_or(|count| count < u64::MAX / step));
    }

    #[test]
    fn streaming_gives_the_same_leaves() {
        let bytes: Vec<u8> = (0..3 * LEAF_LEN + 17).map(|i| (i % 251) as u8).collect();
        let expected: Vec<Node> = bytes.chunks(LEAF_LEN).map(leaf_hash).collect();
        for piece in [1000, LEAF_LEN - 1, LEAF_LEN, LEAF_LEN + 1, bytes.len()] {
            let mut hasher = LeafHasher::default();
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), expected, "pieces of {piece}");
        }
        assert!(LeafHasher::default().finish().is_empty());
        let mut whole = LeafHasher::default();
        whole.update(&bytes[..2 * LEAF_LEN]);
        assert_eq!(whole.finish(), expected[..2]);
    }
}
