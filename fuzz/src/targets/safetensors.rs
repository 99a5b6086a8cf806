//! Safetensors, as experts are taken from them: the header's table is what serde_json reads in it, and an expert that
//! comes out is a sound TensorBlock, the same each time.

use blyan_formats::{TensorBuf, TensorName, TensorView, write_tensorblock};
use blyan_model::experts::{ExpertSource, Wanted};
use safetensors::tensor::{Dtype, SafeTensors, TensorView as Weights, serialize};
use serde_json::Value;

use super::input::Input;
use crate::{Target, heap};

pub(crate) const TARGET: Target = Target {
    name: "safetensors",
    run,
    seeds,
};

/// A dimension of a shape takes two bytes of the header; its eight in memory are copied while lists grow.
const GROWTH: usize = 64;

/// The first byte says whether a sound length stands before the rest.
fn run(input: &[u8]) {
    let mut input = Input::new(input);
    match input.below(2) {
        0 => file(&framed(input.rest())),
        _ => file(input.rest()),
    }
}

/// A header that ends with the last brace, and data.
fn framed(rest: &[u8]) -> Vec<u8> {
    let end = rest.iter().rposition(|byte| *byte == b'}');
    let len = end.map_or(rest.len(), |end| end + 1) as u64;
    [&len.to_le_bytes()[..], rest].concat()
}

fn file(bytes: &[u8]) {
    let Ok(source) = heap::bounded(bytes, GROWTH, ExpertSource::parse) else {
        return;
    };
    if let ExpertSource::Safetensors(shards) = &source {
        shards.iter().for_each(|shard| table(bytes, shard));
    }
    for name in [TensorName::expert_of(0, 0), TensorName::expert_of(2, 1)] {
        let wanted = wanted(name);
        if let Ok(expert) = source.extract(&wanted, None) {
            sound(&wanted, &expert);
            let again = source.extract(&wanted, None).expect("it was there");
            assert_eq!(payload(&again), payload(&expert));
        }
    }
}

/// What stands in the header, read a second time: each tensor is the bytes that it names.
fn table(bytes: &[u8], shard: &SafeTensors<'_>) {
    let len = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).expect("it was read");
    let data = &bytes[8 + len..];
    for (name, view) in shard.tensors() {
        let range = header[&name]["data_offsets"]
            .as_array()
            .expect("two numbers");
        let at = |end: usize| range[end].as_u64().expect("a number") as usize;
        assert_eq!(view.data(), &data[at(0)..at(1)], "{name}");
        assert!(std::ptr::eq(
            shard.tensor(&name).expect("a name").data(),
            view.data()
        ));
    }
}

/// Of the smallest shape that blocks of 32 allow.
fn wanted(name: TensorName) -> Wanted {
    Wanted {
        name,
        layer: name.layer().unwrap_or_default(),
        expert: name.expert().unwrap_or_default(),
        hidden: 32,
        neurons: 1,
    }
}

fn sound(wanted: &Wanted, expert: &TensorBuf) {
    let tensor = expert.as_tensor();
    assert_eq!(
        (tensor.rows(), tensor.cols()),
        (3 * wanted.neurons, wanted.hidden)
    );
    let (root, bytes) = payload(expert);
    let view = TensorView::parse(&bytes).expect("it was written");
    assert_eq!(view.verify_full(root), Ok(()));
}

fn payload(expert: &TensorBuf) -> (blyan_formats::PayloadHash, Vec<u8>) {
    let mut bytes = Vec::new();
    let written = write_tensorblock(&expert.as_tensor(), &mut bytes);
    (
        written.expect("finite numbers, in memory").payload_hash,
        bytes,
    )
}

fn seeds() -> Vec<Vec<u8>> {
    let shapes = [vec![1, 32], vec![1, 32], vec![32, 1]];
    let model = |names: [&str; 3], dtype: Dtype, value: &[u8]| {
        let data = value.repeat(32);
        let view = |shape: &Vec<usize>| Weights::new(dtype, shape.clone(), &data).expect("a shape");
        let views = names.into_iter().zip(shapes.iter().map(view));
        let bytes = serialize(views, None).expect("three tensors");
        // Without its length, which is put there again.
        [&[0], &bytes[8..]].concat()
    };
    let alone = ["gate", "up", "down"];
    let mixtral = [
        "model.layers.2.block_sparse_moe.experts.1.w1.weight",
        "model.layers.2.block_sparse_moe.experts.1.w3.weight",
        "model.layers.2.block_sparse_moe.experts.1.w2.weight",
    ];
    let sound = model(alone, Dtype::F32, &1.5_f32.to_le_bytes());
    vec![
        [&[1][..], &framed(&sound[1..])].concat(),
        sound,
        model(alone, Dtype::F16, &[0, 60]),
        model(mixtral, Dtype::BF16, &[192, 63]),
        model(alone, Dtype::I16, &[1, 2]),
        b"\0{\"__metadata__\":{\"a\":\"b\"}}".to_vec(),
    ]
}
