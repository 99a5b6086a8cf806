//! The short form of the runs: every input that was kept, and some changed ones.

use std::fs;
use std::path::Path;

use blyan_fuzz::{INPUT_LEN_MAX, TARGETS, Target, target};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Changed inputs of each target; a run under libFuzzer tries millions.
const CHANGED: usize = 1000;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort_unstable();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A few edits: a bit, a byte, a number at its edges, a piece cut out, doubled, or taken from another input.
fn changed(inputs: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = inputs.choose(random).expect("a corpus").clone();
    for _ in 0..random.random_range(1..5) {
        edit(&mut bytes, inputs, random);
    }
    bytes.truncate(INPUT_LEN_MAX);
    bytes
}

fn edit(bytes: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        return bytes.push(random.random());
    }
    let at = random.random_range(0..bytes.len());
    let end = random.random_range(at..bytes.len().min(at + 32)) + 1;
    match random.random_range(0..6) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at..end].fill(*[0, 1, 127, 255].choose(random).expect("four")),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.extend_from_within(at..end),
        _ => {
            let other = inputs.choose(random).expect("a corpus");
            let from = random.random_range(0..=other.len());
            bytes.splice(at..end, other[from..].iter().take(32).copied());
        }
    }
}

/// `BLYAN_FUZZ_SEED` chooses other changes.
fn seed() -> u64 {
    std::env::var("BLYAN_FUZZ_SEED").map_or(1, |seed| seed.parse().expect("a number"))
}

fn no_input_breaks_a_law_of(name: &str) {
    let target = target(name).expect("a target");
    let inputs = [corpus(target), (target.seeds)()].concat();
    inputs.iter().for_each(|input| (target.run)(input));
    let seed = seed();
    println!("{name}: {} inputs, BLYAN_FUZZ_SEED={seed}", inputs.len());
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..CHANGED {
        let input = changed(&inputs, &mut random);
        let shown = Shown(&input);
        (target.run)(&input);
        drop(shown);
    }
}

/// Prints the input if the target panics over it.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input: {}", self.0.escape_ascii());
        }
    }
}

macro_rules! short_runs {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            no_input_breaks_a_law_of(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_short_run() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

short_runs!(canonical, block, tensorblock, gguf, safetensors, uploads);
