//! An owner that is killed again and again has the same tile as one that is not. `BLYAN_KILLS` sets how often,
//! `BLYAN_SEED` when. A program of its own: a child that is being started holds the locks of all tiles that are open.

#[path = "store/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the store")]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blyan_tile_owner::{DeltaId, StoreError, TileError, TileStore};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use support::{CONFIG, bits, delta, weights};

const LEARNERS: u8 = 3;
/// Names the child's folder.
const DIR_VAR: &str = "BLYAN_TEST_TILE";
/// What its deltas are made from.
const DELTAS_VAR: &str = "BLYAN_TEST_DELTAS";
/// A child lives at most so long: most of it opens and makes the first few steps.
const LIFE_MAX: Duration = Duration::from_millis(60);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The owner: deltas of each learner, then a step, for ever. It says what is acknowledged, a line each.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR_VAR) else {
        return;
    };
    let seed = setting(DELTAS_VAR, 0);
    let mut tile = TileStore::open(Path::new(&dir)).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let version = tile.version();
        for learner in 1..=LEARNERS {
            match tile.accept(&delta(learner, version, seed)) {
                // As a learner takes it that had no answer and sends again.
                Ok(_) | Err(StoreError::Refused(TileError::Replayed)) => {}
                Err(error) => panic!("{error}"),
            }
            writeln!(out, "\nsaid {version} {learner}").unwrap();
            out.flush().unwrap();
        }
        tile.step(&CONFIG).unwrap();
    }
}

/// Runs a child for a while and kills it; returns the version and learner of each delta that it acknowledged.
fn killed(dir: &Path, seed: u64, life: Duration) -> Vec<(u64, u8)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR_VAR, dir)
        .env(DELTAS_VAR, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let said = lines.map_while(Result::ok).filter_map(|line| {
            let (version, learner) = line.strip_prefix("said ")?.split_once(' ')?;
            Some((version.parse().ok()?, learner.parse().ok()?))
        });
        said.collect::<Vec<_>>()
    });
    std::thread::park_timeout(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "it ended by itself: {status}");
    reader.join().unwrap()
}

#[test]
fn an_owner_that_is_killed_has_the_tile_of_one_that_is_not() {
    let kills = setting("BLYAN_KILLS", 20);
    let seed = setting("BLYAN_SEED", rand::rng().random());
    println!("seed {seed}: BLYAN_SEED={seed} repeats it");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    drop(TileStore::create(dir.path(), &weights()).unwrap());
    let (mut acknowledged, mut open_rounds) = (0, 0);
    for _ in 0..kills {
        let life = rng.random_range(Duration::ZERO..LIFE_MAX);
        let said = killed(dir.path(), seed, life);
        acknowledged += said.len();
        let tile = TileStore::open(dir.path()).unwrap();
        let counted: BTreeSet<_> = tile.round().accepted().iter().copied().collect();
        open_rounds += u64::from(!counted.is_empty());
        for (version, learner) in said {
            let id = DeltaId {
                learner: [learner; 32],
                sequence: version,
            };
            assert!(
                version < tile.version() || counted.contains(&id),
                "the delta of {learner} to {version} is lost at {}",
                tile.version()
            );
        }
    }
    let tile = TileStore::open(dir.path()).unwrap();
    println!(
        "{kills} kills, {open_rounds} within a round: {acknowledged} deltas acknowledged, version {}",
        tile.version()
    );
    assert!(tile.version() > 0 && acknowledged > 0);
    assert_eq!(bits(tile.weights()), undisturbed(tile.version(), seed));
}

/// The weights after so many rounds of an owner that nobody ends.
fn undisturbed(version: u64, seed: u64) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    let mut tile = TileStore::create(dir.path(), &weights()).unwrap();
    while tile.version() < version {
        // In another order: it changes no bit.
        for learner in (1..=LEARNERS).rev() {
            tile.accept(&delta(learner, tile.version(), seed)).unwrap();
        }
        tile.step(&CONFIG).unwrap();
    }
    bits(tile.weights())
}
