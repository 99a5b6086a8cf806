//! TensorBlocks and Merkle proofs: what was written is read, one flipped bit is found, both readers say the same.

use blyan_formats::merkle::{self, Node, Proof};
use blyan_formats::tensorblock::{BLOCK_LEN, verify_proof, verify_stream_bytes};
use blyan_formats::{PayloadHash, TensorBuf, TensorView, write_tensorblock};

use super::input::Input;
use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "tensorblock",
    run,
    seeds,
};

/// The first byte says what the rest is.
fn run(input: &[u8]) {
    let mut input = Input::new(input);
    match input.below(4) {
        0 => file(input.rest()),
        1 => headed(input),
        2 => written(input),
        _ => proven(input),
    }
}

/// Any bytes, read as a file.
fn file(bytes: &[u8]) {
    let aligned = Aligned::new(bytes);
    let bytes = aligned.bytes();
    let Ok(view) = heap::bounded(bytes, 1, TensorView::parse) else {
        let root = PayloadHash::from_bytes([0; 32]);
        assert!(verify_stream_bytes(&mut &bytes[..], bytes.len() as u64, root).is_err());
        return;
    };
    let root = view.stored_root();
    let verdict = heap::bounded(bytes, 1, |_| view.verify_full(root));
    let streamed = verify_stream_bytes(&mut &bytes[..], bytes.len() as u64, root);
    assert_eq!(
        verdict.is_ok(),
        streamed.is_ok(),
        "{verdict:?} {streamed:?}"
    );
    if verdict.is_ok() {
        sound(&view, bytes);
    }
}

/// A header, and a body of the length that it asks for where that is short: few random inputs have that length.
fn headed(mut input: Input<'_>) {
    let mut bytes = input.filled(128);
    let tree_at = u64::from_le_bytes(std::array::from_fn(|at| bytes[56 + at]));
    let len = tree_at.saturating_add(32);
    if (128..=merkle::LEAF_LEN as u64).contains(&len) {
        bytes.extend(input.filled(len as usize - 128));
    }
    file(&bytes);
}

fn sound(view: &TensorView<'_>, bytes: &[u8]) {
    let root = view.stored_root();
    if view.tensor().check_finite().is_ok() {
        let mut again = Vec::new();
        let written = write_tensorblock(&view.tensor(), &mut again).expect("a tensor in memory");
        assert_eq!((written.payload_hash, again.as_slice()), (root, bytes));
    }
    for index in 0..view.tile_count() {
        let (proof, tile) = view
            .tile_proof(index)
            .zip(view.tile(index))
            .expect("a tile");
        assert!(view.verify_tile(index, root).is_ok());
        assert!(verify_proof(root, view.tile_count(), &proof, tile));
    }
}

/// A tensor made of the input, written, read, and read again with one bit flipped.
fn written(mut input: Input<'_>) {
    let flip = input.u16();
    let Some(tensor) = tensor(&mut input) else {
        return;
    };
    let mut bytes = Vec::new();
    let Ok(written) = write_tensorblock(&tensor.as_tensor(), &mut bytes) else {
        assert!(tensor.as_tensor().check_finite().is_err());
        return;
    };
    let mut file = Aligned::new(&bytes);
    let view = TensorView::parse(file.bytes()).expect("it was written");
    assert_eq!(view.verify_full(written.payload_hash), Ok(()));
    assert_eq!(view.stored_root(), written.payload_hash);
    sound(&view, file.bytes());
    file.flip(usize::from(flip) % (8 * bytes.len()));
    let bytes = file.bytes();
    let verdict = TensorView::parse(bytes).and_then(|view| view.verify_full(written.payload_hash));
    assert!(verdict.is_err(), "bit {flip}");
    let len = bytes.len() as u64;
    assert!(verify_stream_bytes(&mut &bytes[..], len, written.payload_hash).is_err());
}

fn tensor(input: &mut Input<'_>) -> Option<TensorBuf> {
    let (kind, rows, blocks) = (input.below(4), 1 + input.below(4), 1 + input.below(3));
    let cols = blocks * BLOCK_LEN;
    let scales = input.floats(rows * blocks);
    let values = |input: &mut Input<'_>| -> Vec<i8> {
        input
            .filled(rows * cols)
            .into_iter()
            .map(u8::cast_signed)
            .collect()
    };
    match kind {
        0 => TensorBuf::fp32(rows, cols, input.floats(rows * cols)),
        1 => TensorBuf::int8_rows(rows, cols, values(input), scales[..rows].to_vec()),
        2 => TensorBuf::int8_blocks(rows, cols, values(input), scales),
        _ => {
            let minimums = input.floats(rows * blocks);
            TensorBuf::uint4_blocks(rows, cols, input.filled(rows * cols / 2), scales, minimums)
        }
    }
    .ok()
}

/// A tree over some leaves: each proof holds, and with anything else in it does not.
fn proven(mut input: Input<'_>) {
    let count = 1 + input.below(64) as u64;
    let (index, flip, at) = (input.byte(), input.u16(), input.byte());
    let leaves: Vec<Node> = (0..count)
        .map(|_| merkle::leaf_hash(input.take(2)))
        .collect();
    let tree = merkle::build(leaves.clone());
    assert!(merkle::is_consistent(&tree, count));
    let root = PayloadHash::from_bytes(merkle::root(leaves.clone()).expect("a leaf"));
    let index = u64::from(index) % count;
    let (leaf, proof) = (
        leaves[index as usize],
        Proof::of(&tree, count, index).expect("a leaf"),
    );
    assert!(proof.verify(root, count, &leaf));
    assert!(!proof.verify(root, count, &flipped(leaf, flip)));
    tampered(&proof, root, count, &leaf, usize::from(at), flip);
    let mut changed = tree;
    let at = usize::from(at) % changed.len();
    changed[at] = flipped(changed[at], flip);
    assert!(!merkle::is_consistent(&changed, count) || count == 1);
}

fn tampered(proof: &Proof, root: PayloadHash, count: u64, leaf: &Node, at: usize, flip: u16) {
    let mut longer = proof.clone();
    longer.siblings.push(*leaf);
    assert!(!longer.verify(root, count, leaf));
    if proof.siblings.is_empty() {
        return;
    }
    let at = at % proof.siblings.len();
    let mut changed = proof.clone();
    changed.siblings[at] = flipped(changed.siblings[at], flip);
    assert!(!changed.verify(root, count, leaf));
    let mut shorter = proof.clone();
    shorter.siblings.remove(at);
    assert!(!shorter.verify(root, count, leaf));
}

fn flipped(mut node: Node, bit: u16) -> Node {
    node[usize::from(bit / 8) % node.len()] ^= 1 << (bit % 8);
    node
}

/// Bytes that begin where memory is aligned for fp32, as in a map.
struct Aligned {
    words: Vec<u32>,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let words = bytes.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        });
        Self {
            words: words.collect(),
            len: bytes.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the words are initialised, live as long as the slice, and hold at least `len` bytes; every bit pattern
        // is a byte.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    fn flip(&mut self, bit: usize) {
        let mut word = self.words[bit / 32].to_ne_bytes();
        word[bit % 32 / 8] ^= 1 << (bit % 8);
        self.words[bit / 32] = u32::from_ne_bytes(word);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let tensor = TensorBuf::int8_blocks(2, 32, vec![1; 64], vec![0.5; 2]).expect("a shape");
    let mut sound = Vec::new();
    write_tensorblock(&tensor.as_tensor(), &mut sound).expect("a tensor in memory");
    let made = |mode: u8, kind: u8| [&[mode, 9, 0, kind, 1, 1][..], &[60; 400]].concat();
    let mut seeds = vec![
        [&[0][..], &sound].concat(),
        [&[1][..], &sound[..128]].concat(),
        [&[0][..], &sound[..200]].concat(),
        [&[3, 40, 7, 3, 1, 2][..], &[5; 80]].concat(),
        vec![3],
    ];
    seeds.extend((0..4).map(|kind| made(2, kind)));
    seeds
}
