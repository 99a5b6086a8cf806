//! Model files of other houses: their names, their element types, and what is wrong with a wrong one.

use blyan_formats::tensorblock::TensorBuf;
use blyan_formats::{TensorName, gguf::GgufError};
use blyan_model::experts::{ExpertError, ExpertSource, Wanted};
use half::{bf16, f16};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::support::GgufWriter;

const HIDDEN: usize = 64;
const NEURONS: usize = 32;
const HELD: usize = 3;
const F32: u32 = 0;

fn wanted(expert: u16) -> Wanted {
    Wanted {
        name: TensorName::expert_of(2, expert),
        layer: 2,
        expert,
        hidden: HIDDEN,
        neurons: NEURONS,
    }
}

/// Gate, up and down of one expert as a file has them; down is `[H, F]`.
struct Matrices([Vec<f32>; 3]);

impl Matrices {
    /// Values that every element type holds exactly.
    fn random(random: &mut ChaCha8Rng) -> Self {
        Self(std::array::from_fn(|_| {
            let values =
                (0..NEURONS * HIDDEN).map(|_| f32::from(random.random_range(-127..=127i8)));
            values.map(|value| value / 128.0).collect()
        }))
    }

    fn expert(&self) -> TensorBuf {
        let [gate, up, down] = &self.0;
        let mut rows = [&gate[..], up].concat();
        for neuron in 0..NEURONS {
            rows.extend(down.iter().skip(neuron).step_by(NEURONS));
        }
        TensorBuf::quantise_int8_blocks(3 * NEURONS, HIDDEN, &rows).unwrap()
    }
}

fn random_experts() -> Vec<Matrices> {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    (0..HELD).map(|_| Matrices::random(&mut random)).collect()
}

fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let widths = values.iter().map(|value| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes()[..1].to_vec(),
    });
    widths.flatten().collect()
}

/// Named matrices with their shapes.
type Named = Vec<(String, Vec<usize>, Vec<f32>)>;

fn safetensors_file(tensors: Named, dtype: Dtype) -> Vec<u8> {
    let data: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape, values)| (name, shape, bytes(&values, dtype)))
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// One expert under three names.
fn named(expert: &Matrices, names: [String; 3]) -> Named {
    let shapes = [
        vec![NEURONS, HIDDEN],
        vec![NEURONS, HIDDEN],
        vec![HIDDEN, NEURONS],
    ];
    let parts = names.into_iter().zip(shapes).zip(&expert.0);
    parts
        .map(|((name, shape), values)| (name, shape, values.clone()))
        .collect()
}

fn plain(expert: &Matrices) -> Named {
    named(expert, ["gate", "up", "down"].map(str::to_owned))
}

fn stacked_gguf(experts: &[Matrices]) -> Vec<u8> {
    let mut gguf = GgufWriter::default();
    let dims = [[HIDDEN, NEURONS], [HIDDEN, NEURONS], [NEURONS, HIDDEN]];
    for (index, (part, [cols, rows])) in ["gate", "up", "down"].into_iter().zip(dims).enumerate() {
        let values = experts.iter().flat_map(|expert| expert.0[index].clone());
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let name = format!("blk.2.ffn_{part}_exps.weight");
        gguf.tensor_of(&name, &[cols, rows, experts.len()], F32, &bytes);
    }
    gguf.finish()
}

fn extract(file: &[u8], expert: u16) -> Result<TensorBuf, ExpertError> {
    ExpertSource::parse(file)?.extract(&wanted(expert), None)
}

fn refusal(file: &[u8], expert: u16) -> String {
    extract(file, expert).unwrap_err().to_string()
}

#[test]
fn each_expert_of_a_stack_is_found() {
    let experts = random_experts();
    let file = stacked_gguf(&experts);
    for (number, expert) in (0..).zip(&experts) {
        assert_eq!(extract(&file, number).unwrap(), expert.expert(), "{number}");
    }
    let beyond = refusal(&file, HELD as u16);
    assert!(beyond.contains("holds 3 experts"), "{beyond}");
}

#[test]
fn experts_are_found_under_the_names_of_every_house() {
    let experts = random_experts();
    let houses: [fn(usize) -> [String; 3]; 5] = [
        |e| ["gate", "up", "down"].map(|part| format!("layer2.expert{e}.{part}")),
        |e| {
            ["w1", "w3", "w2"]
                .map(|w| format!("model.layers.2.block_sparse_moe.experts.{e}.{w}.weight"))
        },
        |e| {
            ["gate", "up", "down"]
                .map(|part| format!("model.layers.2.mlp.experts.{e}.{part}_proj.weight"))
        },
        |e| ["w1", "w3", "w2"].map(|w| format!("layers.2.feed_forward.experts.{e}.{w}.weight")),
        |e| {
            ["wi_0", "wi_1", "wo"]
                .map(|w| format!("decoder.block.2.layer.2.mlp.experts.expert_{e}.{w}.weight"))
        },
    ];
    for house in houses {
        let all = experts.iter().enumerate();
        let tensors = all.flat_map(|(number, expert)| named(expert, house(number)));
        let file = safetensors_file(tensors.collect(), Dtype::F32);
        for (number, expert) in (0..).zip(&experts) {
            assert_eq!(
                extract(&file, number).unwrap(),
                expert.expert(),
                "{}",
                house(0)[0]
            );
        }
    }
}

#[test]
fn every_float_type_gives_the_same_expert() {
    let expert = &random_experts()[0];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let file = safetensors_file(plain(expert), dtype);
        assert_eq!(extract(&file, 0).unwrap(), expert.expert(), "{dtype:?}");
    }
    let integers = refusal(&safetensors_file(plain(expert), Dtype::I8), 0);
    assert!(integers.contains("elements of type I8"), "{integers}");
}

#[test]
fn each_wrong_shape_is_named() {
    let expert = &random_experts()[0];
    for (place, name) in ["gate", "up", "down"].into_iter().enumerate() {
        let mut tensors = plain(expert);
        tensors[place].1.reverse();
        let said = refusal(&safetensors_file(tensors, Dtype::F32), 0);
        assert!(said.contains(&format!("tensor {name:?} is ")), "{said}");
        assert!(said.contains("another architecture"), "{said}");
    }
    let mut tensors = plain(expert);
    tensors[0].1 = vec![2, NEURONS / 2, HIDDEN];
    let said = refusal(&safetensors_file(tensors, Dtype::F32), 0);
    assert!(said.contains("must be a matrix"), "{said}");
}

#[test]
fn a_stack_of_other_widths_is_refused() {
    let file = stacked_gguf(&random_experts());
    let narrow = Wanted {
        neurons: NEURONS / 2,
        ..wanted(0)
    };
    let said = ExpertSource::parse(&file)
        .unwrap()
        .extract(&narrow, None)
        .unwrap_err();
    assert!(
        matches!(&said, ExpertError::Shape { tensor, .. } if tensor.contains("down")),
        "{said}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let expert = &random_experts()[0];
    for (place, name) in [(1, "up"), (2, "down")] {
        let mut tensors = plain(expert);
        tensors.remove(place);
        let said = refusal(&safetensors_file(tensors, Dtype::F32), 0);
        assert!(said.contains(&format!("no tensor {name:?}")), "{said}");
    }
    let other = named(expert, ["a", "b", "c"].map(str::to_owned));
    let said = refusal(&safetensors_file(other, Dtype::F32), 1);
    assert!(said.contains("the file has no layer2.expert1"), "{said}");
    assert!(
        said.contains("block_sparse_moe.experts.1.w1.weight"),
        "{said}"
    );
    let said = refusal(&GgufWriter::default().finish(), 0);
    assert!(said.contains("blk.2.ffn_gate_exps.weight"), "{said}");
}

#[test]
fn a_value_that_is_no_number_is_refused() {
    let mut expert = random_experts().remove(0);
    expert.0[1][77] = f32::NAN;
    let said = refusal(&safetensors_file(plain(&expert), Dtype::F32), 0);
    assert!(
        said.contains(&format!("value {} is not finite", NEURONS * HIDDEN + 77)),
        "{said}"
    );
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let experts = random_experts();
    for file in [
        safetensors_file(plain(&experts[0]), Dtype::F32),
        stacked_gguf(&experts),
    ] {
        for len in (0..200).chain([file.len() / 3, file.len() - 1]) {
            assert!(extract(&file[..len], 0).is_err(), "{len} bytes");
        }
    }
    let short = ExpertSource::parse(b"GGUF\x03\0\0\0").err();
    assert!(matches!(
        short,
        Some(ExpertError::Gguf(GgufError::Truncated { .. }))
    ));
}

#[test]
fn a_damaged_head_gives_an_error_or_an_expert_and_never_a_panic() {
    let seed = std::env::var("BLYAN_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed}: BLYAN_SEED={seed} repeats it");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let experts = random_experts();
    let (mut refused, mut taken) = (0, 0);
    for file in [
        safetensors_file(plain(&experts[0]), Dtype::F32),
        stacked_gguf(&experts),
    ] {
        for _ in 0..2000 {
            let mut damaged = file.clone();
            for _ in 0..random.random_range(1..4) {
                damaged[random.random_range(0..256)] ^= 1 << random.random_range(0..8);
            }
            match extract(&damaged, 1) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > taken, "{refused} refused, {taken} taken");
}
