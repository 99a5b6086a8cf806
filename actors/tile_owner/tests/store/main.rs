//! A tile on disk: what is acknowledged is counted once, whatever ends its owner.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use blyan_tile_owner::{StoreError, TileError, TileStore};
use support::{CONFIG, TILE_LEN, bits, delta, delta_of, weights};
use tempfile::TempDir;

/// As in the store: 10 steps are a long chain.
const STEPS_OF_A_CHAIN: u64 = 10;

fn new_tile() -> (TempDir, TileStore) {
    let dir = TempDir::new().unwrap();
    let tile = TileStore::create(dir.path(), &weights()).unwrap();
    (dir, tile)
}

/// A step of two learners' deltas.
fn round(tile: &mut TileStore) {
    let base = tile.version();
    tile.accept(&delta(1, base, 7)).unwrap();
    tile.accept(&delta(2, base, 7)).unwrap();
    assert_eq!(tile.step(&CONFIG).unwrap(), base + 1);
}

fn file(dir: &Path, kind: &str) -> PathBuf {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut of_kind: Vec<_> = names
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(kind)
        })
        .collect();
    assert_eq!(of_kind.len(), 1, "{of_kind:?}");
    of_kind.remove(0)
}

#[test]
fn a_tile_is_opened_as_it_was_left() {
    let (dir, mut tile) = new_tile();
    assert_eq!(bits(tile.weights()), bits(&weights()));
    for _ in 0..3 {
        round(&mut tile);
    }
    let third = delta(1, 3, 7);
    let id = tile.accept(&third).unwrap();
    let before = bits(tile.weights());
    drop(tile);

    let mut tile = TileStore::open(dir.path()).unwrap();
    assert_eq!(tile.version(), 3);
    assert_eq!(bits(tile.weights()), before);
    assert!(tile.round().accepted().contains(&id));
    assert_eq!(tile.round().accepted().len(), 1);
    let again = tile.accept(&third).unwrap_err();
    assert!(matches!(again, StoreError::Refused(TileError::Replayed)));
    let late = tile.accept(&delta(2, 2, 7)).unwrap_err();
    assert!(matches!(
        late,
        StoreError::Refused(TileError::WrongBase {
            expected: 3,
            found: 2
        })
    ));
}

#[test]
fn steps_across_openings_and_compactions_give_the_same_bits() {
    let (_whole_dir, mut whole) = new_tile();
    let (dir, mut tile) = new_tile();
    for _ in 0..2 * STEPS_OF_A_CHAIN + 3 {
        round(&mut whole);
        tile.accept(&delta(2, tile.version(), 7)).unwrap();
        drop(tile);
        tile = TileStore::open(dir.path()).unwrap();
        tile.accept(&delta(1, tile.version(), 7)).unwrap();
        drop(tile);
        tile = TileStore::open(dir.path()).unwrap();
        tile.step(&CONFIG).unwrap();
    }
    assert_eq!(bits(tile.weights()), bits(whole.weights()));
    assert_ne!(bits(tile.weights()), bits(&weights()));
}

#[test]
fn a_long_chain_becomes_a_base_and_the_old_files_go() {
    // So large that a step's delta is no half of it.
    let (dir, weights) = (TempDir::new().unwrap(), vec![0.5; 200_000]);
    let mut tile = TileStore::create(dir.path(), &weights).unwrap();
    let base_of = |dir: &TempDir| file(dir.path(), "base-").file_name().unwrap().to_owned();
    let mut bases = vec![base_of(&dir)];
    for _ in 0..STEPS_OF_A_CHAIN {
        assert_eq!(bases.len(), 1);
        tile.accept(&delta_of(weights.len(), 1, tile.version(), 7))
            .unwrap();
        tile.step(&CONFIG).unwrap();
        bases.push(base_of(&dir));
        bases.dedup();
    }
    assert_eq!(bases, ["base-0000000000000000", "base-000000000000000a"]);
    assert_eq!(fs::metadata(file(dir.path(), "chain-")).unwrap().len(), 0);
    let before = bits(tile.weights());
    drop(tile);
    let tile = TileStore::open(dir.path()).unwrap();
    assert_eq!((tile.version(), bits(tile.weights())), (10, before));
}

#[test]
fn a_chain_larger_than_half_the_tile_becomes_a_base_after_the_step() {
    let (dir, mut tile) = new_tile();
    let half = (TILE_LEN * 4 / 2) as u64;
    let mut learner = 0;
    while fs::metadata(file(dir.path(), "chain-")).unwrap().len() <= half {
        learner += 1;
        tile.accept(&delta(learner, 0, 7)).unwrap();
        assert!(file(dir.path(), "base-").ends_with("base-0000000000000000"));
    }
    tile.step(&CONFIG).unwrap();
    assert!(file(dir.path(), "base-").ends_with("base-0000000000000001"));
}

#[test]
fn a_record_that_was_cut_off_anywhere_was_never_taken() {
    let (dir, mut tile) = new_tile();
    tile.accept(&delta(1, 0, 7)).unwrap();
    let chain = file(dir.path(), "chain-");
    let first = fs::read(&chain).unwrap();
    tile.accept(&delta(2, 0, 7)).unwrap();
    drop(tile);
    let both = fs::read(&chain).unwrap();
    for end in first.len()..both.len() {
        let room = [&both[..end], &vec![0; both.len() - end]].concat();
        // A shorter file, and one that the file system made longer before it wrote.
        for bytes in [&both[..end], &room] {
            fs::write(&chain, bytes).unwrap();
            let hash_is_cut = end > both.len() - 32 && bytes.len() == both.len();
            match TileStore::open(dir.path()) {
                Ok(tile) => assert_eq!(tile.round().accepted().len(), 1, "cut at {end}"),
                Err(StoreError::Damaged { .. }) => assert!(hash_is_cut, "cut at {end}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    fs::write(&chain, &both).unwrap();
    let mut tile = TileStore::open(dir.path()).unwrap();
    assert_eq!(tile.round().accepted().len(), 2);
    tile.step(&CONFIG).unwrap();
}

#[test]
fn what_was_cut_off_is_gone_before_the_next_record() {
    let (dir, mut tile) = new_tile();
    tile.accept(&delta(1, 0, 7)).unwrap();
    let chain = file(dir.path(), "chain-");
    let whole = fs::read(&chain).unwrap();
    drop(tile);
    fs::write(&chain, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
    let mut tile = TileStore::open(dir.path()).unwrap();
    tile.accept(&delta(2, 0, 7)).unwrap();
    drop(tile);
    assert_eq!(
        TileStore::open(dir.path())
            .unwrap()
            .round()
            .accepted()
            .len(),
        2
    );
}

#[test]
fn a_flipped_bit_is_damage_and_changes_nothing() {
    let (dir, mut tile) = new_tile();
    round(&mut tile);
    tile.accept(&delta(1, 1, 7)).unwrap();
    drop(tile);
    for kind in ["base-", "chain-"] {
        let path = file(dir.path(), kind);
        let bytes = fs::read(&path).unwrap();
        // The length of the last record may come to lie behind the end: then it looks cut off.
        for at in (0..bytes.len() - bytes.len().min(2_000) / 2).step_by(97) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            match TileStore::open(dir.path()) {
                Err(StoreError::Damaged { file, .. }) => assert_eq!(file, path),
                Ok(tile) => panic!(
                    "{kind} opened with byte {at} changed, at {}",
                    tile.version()
                ),
                Err(error) => panic!("{error}"),
            }
            assert_eq!(fs::read(&path).unwrap(), flipped);
        }
        fs::write(&path, bytes).unwrap();
    }
    TileStore::open(dir.path()).unwrap();
}

#[test]
fn what_is_refused_is_neither_counted_nor_written() {
    let (dir, mut tile) = new_tile();
    let chain = file(dir.path(), "chain-");
    let empty = tile.step(&CONFIG).unwrap_err();
    assert!(matches!(empty, StoreError::Refused(TileError::Empty(_))));
    let other = tile.accept(&delta_of(TILE_LEN + 1, 1, 0, 7)).unwrap_err();
    assert!(matches!(
        other,
        StoreError::Refused(TileError::WrongLength { .. })
    ));
    let torn = tile.accept(b"BLYD").unwrap_err();
    assert!(matches!(torn, StoreError::Refused(TileError::Malformed(_))));
    assert_eq!(fs::metadata(&chain).unwrap().len(), 0);

    tile.accept(&delta(1, 0, 7)).unwrap();
    let wild = blyan_tile_owner::AdamWConfig {
        learning_rate: f32::MAX,
        weight_decay: f32::MAX,
        ..CONFIG
    };
    let infinite = tile.step(&wild).unwrap_err();
    assert!(matches!(infinite, StoreError::Refused(_)), "{infinite}");
    assert_eq!(
        (tile.version(), bits(tile.weights())),
        (0, bits(&weights()))
    );
    tile.step(&CONFIG).unwrap();
}

#[test]
fn a_folder_has_one_owner_and_one_tile() {
    let (dir, tile) = new_tile();
    assert!(matches!(
        TileStore::open(dir.path()),
        Err(StoreError::Held(_))
    ));
    drop(tile);
    assert!(matches!(
        TileStore::create(dir.path(), &weights()),
        Err(StoreError::Exists(_))
    ));
    let empty = TempDir::new().unwrap();
    for missing in [empty.path().to_owned(), empty.path().join("none")] {
        assert!(matches!(
            TileStore::open(&missing),
            Err(StoreError::Missing(_))
        ));
    }
    let nan = TileStore::create(&empty.path().join("nan"), &[0.0, f32::NAN]);
    assert!(matches!(
        nan,
        Err(StoreError::Refused(TileError::NotANumber { index: 1 }))
    ));
    let nothing = TileStore::create(&empty.path().join("nothing"), &[]);
    assert!(matches!(
        nothing,
        Err(StoreError::Refused(TileError::Empty(_)))
    ));
}
