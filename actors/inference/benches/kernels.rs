//! The kernels on the matrices of SmolLM2-135M, by instruction set, beside what it takes to read as many bytes.
//! `cargo bench --profile dev -p blyan-inference --bench kernels`
//!
//! Decode goes through more weights than any cache of a core holds; its unit is the stored byte. Prefill's unit is the
//! product of a weight with an activation.

use std::hint::black_box;
use std::time::Duration;

use blyan_inference::kernels::{Expert, Isa, Matrix, QuantisedRows, Weights};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HIDDEN: usize = 576;
const NEURONS: usize = 96;
const VOCABULARY: usize = 49_152;
const QKV_ROWS: usize = 960;
const BLOCK: usize = 32;
const LINE: usize = 64;

/// Half of the model's: 45 MB.
const EXPERTS: usize = 240;
const LAYERS: usize = 30;
const PREFILL_TOKENS: usize = 128;
const PREFILL_EXPERTS: usize = 4;

struct Stored {
    experts: Vec<i8>,
    head: Vec<i8>,
    qkv: Vec<u8>,
    /// Enough for any of them.
    scales: Vec<f32>,
}

impl Stored {
    fn new() -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut bytes = vec![0; EXPERTS * expert_len() + VOCABULARY * HIDDEN];
        random.fill(&mut bytes[..]);
        let head = bytes.split_off(EXPERTS * expert_len());
        let mut qkv = vec![0; LAYERS * QKV_ROWS * HIDDEN / 2];
        random.fill(&mut qkv[..]);
        let scales = bytes.len().max(head.len()) / BLOCK;
        Self {
            experts: bytes,
            head,
            qkv,
            scales: (0..scales)
                .map(|_| random.random_range(0.001..0.01))
                .collect(),
        }
    }

    fn expert(&self, number: usize) -> Expert<'_> {
        let start = number * expert_len();
        let values = &self.experts[start..][..expert_len()];
        let scales = &self.scales[start / BLOCK..][..expert_len() / BLOCK];
        Expert::new(HIDDEN, NEURONS, values, scales).expect("lengths fit")
    }

    fn head(&self) -> Matrix<'_> {
        let weights = Weights::Int8Blocks {
            values: &self.head,
            scales: &self.scales[..VOCABULARY * HIDDEN / BLOCK],
        };
        Matrix::new(VOCABULARY, HIDDEN, weights).expect("lengths fit")
    }

    fn qkv(&self, layer: usize) -> Matrix<'_> {
        let (len, blocks) = (QKV_ROWS * HIDDEN / 2, QKV_ROWS * HIDDEN / BLOCK);
        let weights = Weights::Uint4Blocks {
            packed: &self.qkv[layer * len..][..len],
            scales: &self.scales[2 * layer * blocks..][..blocks],
            minimums: &self.scales[(2 * layer + 1) * blocks..][..blocks],
        };
        Matrix::new(QKV_ROWS, HIDDEN, weights).expect("lengths fit")
    }
}

/// Elements of an expert.
const fn expert_len() -> usize {
    3 * NEURONS * HIDDEN
}

/// Bytes of `elements` int8 and their scales.
const fn int8_bytes(elements: usize) -> u64 {
    (elements + elements / BLOCK * size_of::<f32>()) as u64
}

fn activations(isa: Isa, tokens: usize) -> QuantisedRows {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let input: Vec<f32> = (0..tokens * HIDDEN)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    QuantisedRows::with(isa, &input, HIDDEN).expect("the width is a multiple of 32")
}

fn product(matrix: &Matrix<'_>, x: &QuantisedRows, out: &mut [f32]) {
    let fits = matrix.product(0..matrix.rows(), x, out);
    fits.expect("the output is as large as the product");
}

/// Touches each cache line and adds up what is there.
fn read(bytes: &[i8]) -> [i8; LINE] {
    let mut sums = [0; LINE];
    for line in bytes.as_chunks::<LINE>().0 {
        for (sum, byte) in sums.iter_mut().zip(line) {
            *sum ^= byte;
        }
    }
    sums
}

fn short<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group
}

fn decode(criterion: &mut Criterion) {
    let stored = Stored::new();
    let mut group = short(criterion, "decode");
    group.throughput(Throughput::Bytes(stored.experts.len() as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| black_box(read(&stored.experts)));
    });
    for isa in Isa::all_supported() {
        let x = activations(isa, 1);
        let mut out = vec![0.0; VOCABULARY];
        group.throughput(Throughput::Bytes(int8_bytes(EXPERTS * expert_len())));
        group.bench_function(format!("experts/{}", isa.name()), |bencher| {
            bencher.iter(|| {
                for number in 0..EXPERTS {
                    let expert = stored.expert(number);
                    let fits = expert.compute(&x, &mut out[..HIDDEN]);
                    fits.expect("the output is one row");
                }
            });
        });
        group.throughput(Throughput::Bytes(int8_bytes(VOCABULARY * HIDDEN)));
        group.bench_function(format!("head/{}", isa.name()), |bencher| {
            bencher.iter(|| product(&stored.head(), &x, &mut out));
        });
        // Half a byte an element, and twice as many factors as int8.
        let bytes = LAYERS * QKV_ROWS * HIDDEN * 3 / 4;
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("qkv/{}", isa.name()), |bencher| {
            bencher.iter(|| {
                for layer in 0..LAYERS {
                    product(&stored.qkv(layer), &x, &mut out[..QKV_ROWS]);
                }
            });
        });
    }
}

fn prefill(criterion: &mut Criterion) {
    let stored = Stored::new();
    let mut group = short(criterion, "prefill");
    for isa in Isa::all_supported() {
        let x = activations(isa, PREFILL_TOKENS);
        let mut out = vec![0.0; PREFILL_TOKENS * QKV_ROWS];
        let products = PREFILL_EXPERTS * PREFILL_TOKENS * expert_len();
        group.throughput(Throughput::Elements(products as u64));
        group.bench_function(format!("experts/{}", isa.name()), |bencher| {
            bencher.iter(|| {
                for number in 0..PREFILL_EXPERTS {
                    let expert = stored.expert(number);
                    let fits = expert.compute(&x, &mut out[..PREFILL_TOKENS * HIDDEN]);
                    fits.expect("the output has a row for each token");
                }
            });
        });
        let products = PREFILL_TOKENS * QKV_ROWS * HIDDEN;
        group.throughput(Throughput::Elements(products as u64));
        group.bench_function(format!("qkv/{}", isa.name()), |bencher| {
            bencher.iter(|| product(&stored.qkv(0), &x, &mut out));
        });
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
