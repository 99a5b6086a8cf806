//! The GGUF reader on files written here, and on the shipped model where it is at hand.

mod support;

use blyan_formats::gguf::{Gguf, GgufError, TensorKind, Value};
use half::f16;
use proptest::prelude::*;
use support::{entry, file, tensor, text, texts};

fn sample() -> Vec<u8> {
    let entries = [
        entry("general.name", 8, &text("straße")),
        entry("a.u8", 0, &[200]),
        entry("a.i32", 5, &(-5_i32).to_le_bytes()),
        entry("a.f32", 6, &1.5_f32.to_le_bytes()),
        entry("a.bool", 7, &[1]),
        entry("a.u64", 10, &u64::MAX.to_le_bytes()),
        entry("list.texts", 9, &texts(&["x", "", "yz"])),
        entry(
            "list.i32",
            9,
            &[
                &5_u32.to_le_bytes()[..],
                &2_u64.to_le_bytes(),
                &[1, 0, 0, 0],
                &[255; 4],
            ]
            .concat(),
        ),
    ];
    let tensors = [
        tensor("norm", &[3], 0, 0),
        tensor("w.q4_1", &[32, 2], 3, 32),
        tensor("w.q8_0", &[64], 8, 96),
        tensor("w.q4_0", &[32, 1, 1, 1], 2, 192),
        tensor("w.f16", &[2, 2], 1, 224),
    ];
    let mut data = vec![0; 232];
    data[..12].copy_from_slice(&[1.0_f32, -2.0, 0.5].map(f32::to_le_bytes).concat());
    for (i, byte) in data[32..232].iter_mut().enumerate() {
        *byte = (i * 37 % 120) as u8;
    }
    file(&entries, &tensors, &data)
}

#[test]
fn metadata_is_typed() {
    let bytes = sample();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.text("general.name"), Ok("straße"));
    assert_eq!(gguf.unsigned("a.u8"), Ok(200));
    assert_eq!(gguf.get("a.i32"), Some(&Value::Signed(-5)));
    assert_eq!(gguf.unsigned("a.i32"), Err(GgufError::KeyType("a.i32")));
    assert_eq!(gguf.f32("a.f32"), Ok(1.5));
    assert_eq!(gguf.bool("a.bool"), Ok(true));
    assert_eq!(gguf.unsigned("a.u64"), Ok(u64::MAX));
    assert_eq!(gguf.u32("a.u64"), Err(GgufError::KeyType("a.u64")));
    assert_eq!(gguf.u32("nothing"), Err(GgufError::MissingKey("nothing")));
    let list = gguf.array("list.texts").unwrap();
    assert_eq!(list.texts().unwrap().collect::<Vec<_>>(), ["x", "", "yz"]);
    assert!(list.values().is_none());
    let list = gguf.array("list.i32").unwrap();
    assert_eq!(
        list.values().unwrap().collect::<Vec<_>>(),
        [Value::Signed(1), Value::Signed(-1)]
    );
    assert!(list.texts().is_none());
    assert_eq!(gguf.metadata().len(), 8);
}

#[test]
fn tensors_have_their_shape() {
    let bytes = sample();
    let gguf = Gguf::parse(&bytes).unwrap();
    let shape = |name| {
        gguf.tensor(name)
            .map(|t| (t.rows(), t.cols(), t.kind(), t.bytes().len()))
    };
    assert_eq!(shape("norm"), Ok((1, 3, TensorKind::F32, 12)));
    assert_eq!(shape("w.q4_1"), Ok((2, 32, TensorKind::Q4_1, 40)));
    assert_eq!(shape("w.q8_0"), Ok((1, 64, TensorKind::Q8_0, 68)));
    assert_eq!(shape("w.q4_0"), Ok((1, 32, TensorKind::Q4_0, 18)));
    assert_eq!(shape("w.f16"), Ok((2, 2, TensorKind::F16, 8)));
    assert_eq!(shape("none"), Err(GgufError::MissingTensor("none".into())));
    let mut values = [0.0; 3];
    gguf.tensor("norm")
        .unwrap()
        .dequantise_into(&mut values)
        .unwrap();
    assert_eq!(values, [1.0, -2.0, 0.5]);
}

/// The formulas of ggml, element by element.
fn by_definition(kind: TensorKind, block: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let nibble = |at: usize, i: usize| {
        f32::from(if i < 16 {
            block[at + i] & 15
        } else {
            block[at + i - 16] >> 4
        })
    };
    match kind {
        TensorKind::Q4_1 => (0..32).map(|i| half(0) * nibble(4, i) + half(2)).collect(),
        TensorKind::Q4_0 => (0..32).map(|i| half(0) * (nibble(2, i) - 8.0)).collect(),
        TensorKind::Q8_0 => (0..32)
            .map(|i| half(0) * f32::from(block[2 + i] as i8))
            .collect(),
        TensorKind::F16 => vec![half(0)],
        TensorKind::F32 => vec![f32::from_le_bytes(block.try_into().unwrap())],
    }
}

#[test]
fn values_are_ggmls_and_carry_over_exactly() {
    let bytes = sample();
    for tensor in Gguf::parse(&bytes).unwrap().tensors() {
        let blocks = tensor.bytes().chunks_exact(tensor.kind().block_len());
        let expected: Vec<f32> = blocks
            .flat_map(|block| by_definition(tensor.kind(), block))
            .collect();
        let mut values = vec![0.0; tensor.rows() * tensor.cols()];
        tensor.dequantise_into(&mut values).unwrap();
        assert_eq!(values, expected, "{}", tensor.name());
        let carried = tensor.carry_over().unwrap();
        values.fill(f32::NAN);
        carried.as_tensor().dequantise_into(&mut values).unwrap();
        assert_eq!(values, expected, "{}", tensor.name());
        let last = tensor.rows() - 1;
        tensor
            .dequantise_rows(last..tensor.rows(), &mut values[..tensor.cols()])
            .unwrap();
        assert_eq!(values[..tensor.cols()], expected[last * tensor.cols()..]);
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let len = cut.index(bytes.len() + 1);
        for bytes in [&bytes[..len], &bytes[..]] {
            let Ok(gguf) = Gguf::parse(bytes) else { continue };
            for tensor in gguf.tensors() {
                let mut values = vec![0.0; tensor.rows() * tensor.cols()];
                tensor.dequantise_into(&mut values).unwrap();
                tensor.carry_over().unwrap();
            }
        }
    }

    #[test]
    fn truncation_is_found(cut in any::<prop::sample::Index>()) {
        let bytes = sample();
        prop_assert!(Gguf::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

#[test]
#[ignore = "needs the shipped model: BLYAN_TEST_GGUF=<SmolLM2-135M-Instruct.Q4_1.gguf>"]
fn the_shipped_model_is_read() {
    let path = std::env::var("BLYAN_TEST_GGUF").expect("BLYAN_TEST_GGUF names the GGUF file");
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors().len(), 272);
    let elements = |kind| -> usize {
        gguf.tensors()
            .iter()
            .filter(|t| t.kind() == kind)
            .map(|t| t.rows() * t.cols())
            .sum()
    };
    assert_eq!(elements(TensorKind::Q4_1), 106_168_320);
    assert_eq!(elements(TensorKind::Q8_0), 49152 * 576);
    assert_eq!(elements(TensorKind::F32), 61 * 576);
    assert_eq!(gguf.text("general.architecture"), Ok("llama"));
    assert_eq!(gguf.u32("llama.block_count"), Ok(30));
    assert_eq!(gguf.f32("llama.rope.freq_base"), Ok(100_000.0));
    assert_eq!(
        gguf.array("tokenizer.ggml.tokens")
            .unwrap()
            .texts()
            .unwrap()
            .count(),
        49152
    );
    assert_eq!(
        gguf.array("tokenizer.ggml.merges")
            .unwrap()
            .texts()
            .unwrap()
            .count(),
        48900
    );
    for tensor in gguf.tensors() {
        let mut values = vec![0.0; tensor.rows() * tensor.cols()];
        let mut carried = values.clone();
        tensor.dequantise_into(&mut values).unwrap();
        tensor
            .carry_over()
            .unwrap()
            .as_tensor()
            .dequantise_into(&mut carried)
            .unwrap();
        assert!(values == carried, "{} changes its values", tensor.name());
        assert!(values.iter().all(|v| v.is_finite()));
    }
}
