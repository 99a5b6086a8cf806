//! Random transfers, retries, reused ids, expiry and replays, beside a plain model.
//! `BLYAN_LEDGER_OPERATIONS` sets how many, `BLYAN_LEDGER_SEED` the seed.

mod plain;

use std::collections::BTreeSet;

use blyan_reward::{
    Account, Ledger, Limits, Operation, Refusal, SECONDS_PER_YEAR, Transfer, TransferId,
    WalletAddress,
};
use plain::Plain;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A ledger's life; short, for the model reads all of it at every step.
const OPERATIONS_PER_WORLD: u64 = 200;
const LIMITS: Limits = Limits {
    supply_max: 500,
    issued_per_year_max: 400,
};
const ACCOUNTS: [Account; 6] = [
    Account::Issuance,
    Account::Burned,
    Account::Treasury,
    Account::Escrow,
    Account::Wallet(WalletAddress([1; 20])),
    Account::Wallet(WalletAddress([2; 20])),
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn random_account(rng: &mut ChaCha8Rng) -> Account {
    ACCOUNTS[rng.random_range(0..ACCOUNTS.len())]
}

fn random_transfer(rng: &mut ChaCha8Rng) -> Transfer {
    let id = TransferId(rng.random_range(0..80));
    let pending = TransferId(rng.random_range(1..80));
    let issues = rng.random_range(0..4) == 0;
    let debit = if issues {
        Account::Issuance
    } else {
        random_account(rng)
    };
    let credit = random_account(rng);
    let amount = rng.random_range(0..90);
    let operation = match rng.random_range(0..6) {
        0 | 1 => Operation::Direct {
            debit,
            credit,
            amount,
        },
        2 | 3 => Operation::Pending {
            debit,
            credit,
            amount,
            timeout_s: rng.random_range(0..40),
        },
        4 => Operation::Post { pending, amount },
        _ => Operation::Void { pending },
    };
    Transfer { id, operation }
}

/// Mostly a few seconds on; at times a clock set back, at times most of a year.
fn later(now_s: u64, rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..50) {
        0 => now_s.saturating_sub(20),
        1 => now_s + SECONDS_PER_YEAR / 2,
        _ => now_s + rng.random_range(0..4),
    }
}

fn compare(ledger: &Ledger, model: &Plain) {
    let mut sums = [0_u128; 4];
    for account in ACCOUNTS {
        let balance = ledger.balance(account);
        assert_eq!(balance, model.balance(account), "{account:?}");
        sums[0] += balance.debits_posted;
        sums[1] += balance.credits_posted;
        sums[2] += balance.debits_pending;
        sums[3] += balance.credits_pending;
        let spent = balance.debits_posted + balance.debits_pending;
        assert!(
            account == Account::Issuance || spent <= balance.credits_posted,
            "{account:?}"
        );
    }
    assert_eq!((sums[0], sums[2]), (sums[1], sums[3]), "debits and credits");
    let (ever, year) = model.issued();
    assert!(ever <= LIMITS.supply_max && year <= LIMITS.issued_per_year_max);
}

fn world(seed: u64, seen: &mut BTreeSet<Refusal>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut ledger, mut model) = (Ledger::new(LIMITS), Plain::new(LIMITS));
    let mut log: Vec<(u64, Vec<Transfer>)> = Vec::new();
    let mut now_s = SECONDS_PER_YEAR - 100;
    let mut done = 0;
    while done < OPERATIONS_PER_WORLD {
        now_s = later(now_s, &mut rng);
        let mut batch: Vec<_> = (0..rng.random_range(1..6))
            .map(|_| random_transfer(&mut rng))
            .collect();
        if let Some((_, before)) = log.get(rng.random_range(0..=log.len())) {
            batch.push(before[0]);
        }
        let expected: Vec<_> = batch.iter().map(|one| model.apply(now_s, *one)).collect();
        assert_eq!(ledger.apply(now_s, &batch), expected, "{batch:?}");
        compare(&ledger, &model);
        seen.extend(expected.iter().filter_map(|result| result.err()));
        done += batch.len() as u64;
        log.push((now_s, batch));
        if rng.random_range(0..40) == 0 {
            let mut replayed = Ledger::new(LIMITS);
            for (at_s, batch) in &log {
                replayed.apply(*at_s, batch);
            }
            assert_eq!(replayed, ledger);
            ledger = replayed;
        }
    }
}

#[test]
fn the_ledger_agrees_with_the_plain_model() {
    let operations = setting("BLYAN_LEDGER_OPERATIONS", 60_000);
    let first = setting("BLYAN_LEDGER_SEED", rand::rng().random_range(0..1 << 32));
    println!("BLYAN_LEDGER_SEED={first}, {operations} operations");
    let mut seen = BTreeSet::new();
    for seed in first..first + operations.div_ceil(OPERATIONS_PER_WORLD) {
        println!("world {seed}");
        world(seed, &mut seen);
    }
    println!("refusals reached: {}", seen.len());
    if operations >= 20_000 {
        assert_eq!(seen.len(), 16, "a refusal was never reached: {seen:?}");
    }
}
