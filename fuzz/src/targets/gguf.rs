//! GGUF: every key, list and tensor of an accepted file can be read, and lies in it.

use blyan_formats::gguf::{Gguf, GgufTensor, Value};
use blyan_formats::tensorblock::TensorData;

use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "gguf",
    run,
    seeds,
};

/// A key of the table takes 48 bytes and stands in at least 13 of the file.
const GROWTH: usize = 8;

fn run(input: &[u8]) {
    let Ok(gguf) = heap::bounded(input, GROWTH, Gguf::parse) else {
        return;
    };
    for (key, value) in gguf.metadata() {
        assert!(gguf.get(key).is_some());
        lists(value);
    }
    let mut taken = 0;
    for tensor in gguf.tensors() {
        let found = gguf.tensor(tensor.name()).expect("a name of the table");
        assert!(std::ptr::eq(found.bytes(), tensor.bytes()));
        taken += tensor.bytes().len();
        values(tensor);
    }
    assert!(taken <= input.len(), "tensors lie over each other");
}

fn lists(value: &Value<'_>) {
    let Some(list) = value.as_array() else { return };
    let texts = list.texts().map(Iterator::count);
    let values = list.values().map(Iterator::count);
    assert_eq!(texts.or(values), Some(list.len()));
    assert!(texts.is_none() || values.is_none());
}

/// Row by row the values are those of the whole, and a TensorBlock keeps them to the bit.
fn values(tensor: &GgufTensor<'_>) {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let mut whole = vec![0.0; rows * cols];
    tensor.dequantise_into(&mut whole).expect("room for all");
    let mut row = vec![0.0; cols];
    for (at, expected) in whole.chunks(cols).enumerate() {
        tensor.dequantise_rows(at..at + 1, &mut row).expect("a row");
        assert_eq!(bits(&row), bits(expected));
    }
    assert!(tensor.dequantise_rows(rows..rows + 1, &mut row).is_err());
    if let Ok(carried) = tensor.carry_over() {
        let carried = carried.as_tensor();
        let mut again = vec![0.0; rows * cols];
        carried.dequantise_into(&mut again).expect("room for all");
        let is_q4_0_beyond_f32 = matches!(carried.data(), TensorData::Uint4Blocks { .. })
            && carried.check_finite().is_err();
        assert!(is_q4_0_beyond_f32 || same(&again, &whole));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Equal as numbers: which of the many that are no number comes out is the processor's choice, and -0 is 0.
fn same(left: &[f32], right: &[f32]) -> bool {
    let pairs = left.iter().zip(right);
    left.len() == right.len()
        && pairs
            .into_iter()
            .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

fn seeds() -> Vec<Vec<u8>> {
    let scalar =
        |key: &str, code: u32, value: &[u8]| [&text(key)[..], &code.to_le_bytes(), value].concat();
    let list = |code: u32, len: u64, items: &[u8]| {
        [&code.to_le_bytes()[..], &len.to_le_bytes(), items].concat()
    };
    let keys = [
        scalar("a", 0, &[1]),
        scalar("b", 7, &[1]),
        scalar("c", 8, &text("text")),
        scalar("d", 9, &list(8, 2, &[text("x"), text("")].concat())),
        scalar("e", 9, &list(5, 2, &[255; 8])),
        scalar("f", 12, &[0; 8]),
        scalar("general.alignment", 4, &32_u32.to_le_bytes()),
    ];
    // Types F32, F16, Q4_0, Q4_1 and Q8_0, a row of 32 each, below each other at offsets of 64.
    let tensors: Vec<_> = [(0, 0), (1, 128), (2, 192), (3, 256), (8, 320)]
        .map(|(code, offset)| tensor(&format!("t{code}"), &[32, 1], code, offset))
        .into();
    vec![
        file(&keys, &tensors, &[60; 384]),
        file(&keys[..2], &[], &[]),
        file(&[], &tensors[..1], &[0; 128]),
    ]
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(code.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let counts = [tensors.len() as u64, entries.len() as u64].map(u64::to_le_bytes);
    let mut out = [&b"GGUF\x03\0\0\0"[..], counts.as_flattened()].concat();
    out.extend(entries.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
