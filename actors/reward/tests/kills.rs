//! A ledger whose process is killed again and again: what was acknowledged is there, once. `BLYAN_KILLS` sets how often,
//! `BLYAN_SEED` when. A program of its own: a child that is being started holds the locks of all ledgers that are open.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blyan_reward::{
    Account, Ledger, LedgerStore, Limits, Operation, Transfer, TransferId, WalletAddress,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Names the child's ledger.
const DIR_VAR: &str = "BLYAN_TEST_LEDGER";
/// What its transfers are made from.
const TRANSFERS_VAR: &str = "BLYAN_TEST_TRANSFERS";
const LIFE_MAX: Duration = Duration::from_millis(150);
const GROUP_LEN: u64 = 7;
const WALLETS: u8 = 5;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The transfers of a group: the same ones for the same seed and number.
fn group(seed: u64, number: u64) -> Vec<Transfer> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (number << 20));
    let first = number * GROUP_LEN;
    let mut transfer = |id: u64| {
        let mut account = || Account::Wallet(WalletAddress([rng.random_range(0..WALLETS); 20]));
        let (from, credit) = (account(), account());
        let amount = rng.random_range(1..100);
        let debit = if rng.random_range(0..3) == 0 {
            Account::Issuance
        } else {
            from
        };
        let pending = TransferId(u128::from(rng.random_range(0..=id) + 1));
        let operation = match rng.random_range(0..4) {
            0 | 1 => Operation::Direct {
                debit,
                credit,
                amount,
            },
            2 => Operation::Pending {
                debit,
                credit,
                amount,
                timeout_s: rng.random_range(1..30),
            },
            _ => Operation::Post { pending, amount },
        };
        let id = TransferId(u128::from(id) + 1);
        Transfer { id, operation }
    };
    (first..first + GROUP_LEN).map(&mut transfer).collect()
}

/// Groups from the first that is not there on, for ever. It says what is acknowledged, a line each.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR_VAR) else {
        return;
    };
    let seed = setting(TRANSFERS_VAR, 0);
    let mut store = LedgerStore::open(Path::new(&dir), Limits::default()).unwrap();
    let mut out = std::io::stdout().lock();
    for number in store.entries().. {
        let results = store.commit(number, &group(seed, number)).unwrap();
        let results: String = results
            .iter()
            .map(|result| if result.is_ok() { '1' } else { '0' })
            .collect();
        writeln!(out, "\nsaid {number} {results}").unwrap();
        out.flush().unwrap();
    }
}

/// Runs a child for a while and kills it; returns the acknowledged groups with what became of their transfers.
fn killed(dir: &Path, seed: u64, life: Duration) -> BTreeMap<u64, String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR_VAR, dir)
        .env(TRANSFERS_VAR, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let said = lines.map_while(Result::ok).filter_map(|line| {
            let (number, results) = line.strip_prefix("said ")?.split_once(' ')?;
            Some((number.parse().ok()?, results.to_owned()))
        });
        said.collect()
    });
    std::thread::park_timeout(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "it ended by itself: {status}");
    reader.join().unwrap()
}

#[test]
fn what_a_killed_ledger_acknowledged_is_there_once() {
    let kills = setting("BLYAN_KILLS", 20);
    let seed = setting("BLYAN_SEED", rand::rng().random());
    println!("seed {seed}: BLYAN_SEED={seed} repeats it");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for _ in 0..kills {
        let life = rng.random_range(Duration::ZERO..LIFE_MAX);
        acknowledged.extend(killed(dir.path(), seed, life));
    }
    let mut store = LedgerStore::open(dir.path(), Limits::default()).unwrap();
    let entries = store.entries();
    let mut undisturbed = Ledger::new(Limits::default());
    let mut transfers = 0;
    for number in 0..entries {
        let results = undisturbed.apply(number, &group(seed, number));
        if let Some(said) = acknowledged.remove(&number) {
            let results = results.iter().map(|result| result.is_ok());
            assert!(results.eq(said.chars().map(|c| c == '1')), "group {number}");
            transfers += said.len();
        }
        let retried = store.commit(number, &group(seed, number)).unwrap();
        let first = undisturbed.apply(number, &group(seed, number));
        assert_eq!(retried, first, "group {number}");
    }
    assert_eq!(acknowledged, BTreeMap::new(), "acknowledged and lost");
    assert_eq!(store.entries(), entries, "a repeat wrote something");
    assert_eq!(*store.ledger(), undisturbed);
    assert!(transfers > 0);
    println!("{kills} kills: {transfers} transfers acknowledged, {entries} entries");
}
