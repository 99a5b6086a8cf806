//! Who is paid for a use: all of it, once, to the unit.

use std::collections::BTreeMap;

use blyan_reward::{
    Account, Books, Credited, ExpertUse, Limits, PAYOUT_MIN, PAYOUTS_PER_DAY_MAX, Standing, Use,
    WalletAddress, split,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

const NODE: WalletAddress = WalletAddress([9; 20]);
const DAY_S: u64 = 24 * 60 * 60;

const fn miner(number: u8) -> WalletAddress {
    WalletAddress([number; 20])
}

fn expert(name: &str, miner: WalletAddress, tokens: u64) -> ExpertUse {
    ExpertUse {
        name: name.to_owned(),
        miner,
        tokens,
    }
}

fn a_use(request: u64, amount: u64, experts: Vec<ExpertUse>) -> Use {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&request.to_le_bytes());
    Use {
        request: id,
        amount,
        tokens: amount / 10,
        ended_s: 1_000_000,
        response_ms: 700,
        node: NODE,
        experts,
    }
}

fn open(dir: &TempDir, limits: Limits) -> Books {
    Books::open(dir.path(), limits).unwrap()
}

fn available(books: &Books, account: Account) -> u128 {
    books.store().ledger().balance(account).available()
}

fn issued(books: &Books) -> u128 {
    let ledger = books.store().ledger();
    ledger.balance(Account::Issuance).debits_posted
}

#[test]
fn a_hundredth_burns_and_69_go_to_the_experts_by_tokens_and_standing() {
    let experts = vec![
        expert("often", miner(1), 30),
        expert("seldom", miner(2), 30),
        expert("little", miner(1), 10),
    ];
    // The factors are 2 and 1 by their calls; the third has that of the first.
    let standing = |name: &str| Standing {
        calls: if name == "seldom" { 99 } else { 500 },
        last_used_s: 1_000_000,
        earned: 0,
    };
    let shares = split(&a_use(1, 100_000, experts), standing);
    assert_eq!(shares.burned, 1_000);
    assert_eq!(shares.experts, [37_636, 18_818, 12_546]);
    assert_eq!(
        shares.miners,
        BTreeMap::from([(miner(1), 50_182), (miner(2), 18_818)])
    );
    assert_eq!(shares.node, 30_000);
}

/// As a short answer of the real model is: many experts, few units.
#[test]
fn hundreds_of_experts_have_their_part_of_a_few_units() {
    let of = |name: u32| miner(u8::from(name.is_multiple_of(4)) + 1);
    let experts = (0..400).map(|name| expert(&format!("e{name}"), of(name), 3));
    let shares = split(&a_use(1, 200, experts.collect()), |_| Standing::default());
    assert_eq!((shares.burned, shares.node), (2, 60));
    assert!(shares.experts.iter().all(|amount| *amount <= 1));
    // A quarter and three quarters of 138, each within the unit of its last cut.
    assert!(shares.miners[&miner(2)].abs_diff(34) <= 1, "{shares:?}");
    assert_eq!(shares.miners.values().sum::<u64>(), 138);
}

#[test]
fn without_an_expert_the_node_has_the_experts_part() {
    let nobody = split(&a_use(1, 1_000, vec![]), |_| Standing::default());
    assert_eq!((nobody.burned, nobody.node), (10, 990));
    let idle = vec![expert("idle", miner(1), 0)];
    let idle = split(&a_use(1, 1_000, idle), |_| Standing::default());
    assert_eq!((idle.burned, idle.node, idle.experts), (10, 990, vec![0]));
}

/// Largest numbers, smallest amounts, every number of experts: nothing is lost and nothing comes from nowhere.
#[test]
fn the_parts_are_the_whole() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for request in 0..20_000 {
        let wide = |rng: &mut ChaCha8Rng| rng.random::<u64>() >> rng.random_range(0..64);
        let experts = (0..rng.random_range(0..6)).map(|name| {
            let of = miner(rng.random_range(0..3));
            expert(&format!("e{name}"), of, wide(&mut rng))
        });
        let experts = experts.collect();
        let used = a_use(request, wide(&mut rng), experts);
        let standing = Standing {
            calls: wide(&mut rng),
            last_used_s: wide(&mut rng),
            earned: 0,
        };
        let shares = split(&used, |_| standing);
        let miners: u64 = shares.miners.values().sum();
        assert_eq!(
            shares.burned + shares.node + miners,
            used.amount,
            "{used:?}"
        );
        assert_eq!(miners, shares.experts.iter().sum::<u64>());
        assert_eq!(shares.burned, used.amount / 100);
        assert!(used.amount == 0 || shares.node > 0, "{used:?}");
        assert!(u128::from(miners) <= u128::from(used.amount) * 69 / 100);
    }
}

#[test]
fn a_use_is_credited_once_whoever_asks_how_often() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let mut books = open(&dir, Limits::default());
    let all: Vec<_> = (0..200)
        .map(|request| {
            let experts = vec![
                expert("a", miner(1), rng.random_range(0..90)),
                expert("b", miner(rng.random_range(1..3)), 5),
            ];
            a_use(request, rng.random_range(0..5_000), experts)
        })
        .collect();
    let mut new = 0;
    for round in 0..60 {
        if rng.random_range(0..10) == 0 {
            drop(books);
            books = open(&dir, Limits::default());
        }
        let some: Vec<_> = (0..rng.random_range(1..20))
            .map(|_| all[rng.random_range(0..all.len())].clone())
            .collect();
        let credited = books.credit(2_000_000 + round, &some).unwrap();
        assert_eq!((credited.new + credited.before) as usize, some.len());
        new += credited.new;
    }
    new += books.credit(3_000_000, &all).unwrap().new;
    let worth: Vec<_> = all.iter().filter(|used| used.amount > 0).collect();
    assert_eq!(new, worth.len() as u64);
    let sum: u64 = worth.iter().map(|used| used.amount).sum();
    assert_eq!(issued(&books), sum.into());
    let owners = [NODE, miner(1), miner(2)];
    let accrued = owners.map(|owner| available(&books, Account::Accrued(owner)));
    let burned = available(&books, Account::Burned);
    assert_eq!(accrued.iter().sum::<u128>() + burned, sum.into());
    assert_eq!(books.totals().receipts, new);
    assert_eq!(
        books.totals().tokens,
        worth.iter().map(|used| used.tokens).sum::<u64>()
    );
    assert_eq!(books.standings()["a"].calls, new);
    let earned: u64 = books.standings().values().map(|one| one.earned).sum();
    assert_eq!(u128::from(earned), accrued[1] + accrued[2]);

    let (standings, totals) = (books.standings().clone(), books.totals());
    drop(books);
    let books = open(&dir, Limits::default());
    assert_eq!((books.standings(), books.totals()), (&standings, totals));
}

#[test]
fn what_the_limits_leave_no_room_for_waits_whole_and_is_credited_later() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        supply_max: 10_000,
        issued_per_year_max: 1_500,
    };
    let mut books = open(&dir, limits);
    let uses = [1_000, 600, 500].map(|amount| a_use(amount, amount, vec![]));
    let first = books.credit(5, &uses).unwrap();
    let expected = Credited {
        new: 2,
        before: 0,
        postponed: 1,
    };
    assert_eq!((first, issued(&books)), (expected, 1_500));
    assert_eq!(books.credit(6, &uses[1..2]).unwrap().postponed, 1);
    let next_year = 366 * DAY_S;
    let later = books.credit(next_year, &uses).unwrap();
    assert_eq!((later.new, later.before, later.postponed), (1, 2, 0));
    assert_eq!(issued(&books), 2_100);
}

/// The least amount of which so much is left when a hundredth, rounded down, is burned.
fn before_burning(left: u64) -> u64 {
    let mut amount = left + left / 99;
    while amount - amount / 100 < left {
        amount += 1;
    }
    amount
}

/// Accrues these amounts to owners 1, 2, ... (as the nodes of one use each; a hundredth burns).
fn accrue(books: &mut Books, amounts: &[u64]) {
    let uses: Vec<_> = (1..)
        .zip(amounts)
        .map(|(owner, amount)| Use {
            node: miner(owner),
            ..a_use(owner.into(), before_burning(*amount), vec![])
        })
        .collect();
    books.credit(7, &uses).unwrap();
    for (owner, amount) in (1..).zip(amounts) {
        let accrued = available(books, Account::Accrued(miner(owner)));
        assert_eq!(accrued, u128::from(*amount), "of {owner}");
    }
}

#[test]
fn less_than_ten_bly_and_what_is_over_the_days_budget_are_carried_over_in_full() {
    let dir = TempDir::new().unwrap();
    let mut books = open(&dir, Limits::default());
    let large = PAYOUTS_PER_DAY_MAX - 3 * PAYOUT_MIN;
    // By size: 4 too little; then 2, 3, and of 1 what is left of the day.
    accrue(
        &mut books,
        &[large, PAYOUT_MIN, 4 * PAYOUT_MIN, PAYOUT_MIN - 1],
    );
    let now_s = 40 * DAY_S + 100;
    let first = books.distribute(now_s).unwrap();
    assert_eq!(first.paid, PAYOUTS_PER_DAY_MAX);
    let left = 2 * PAYOUT_MIN + PAYOUT_MIN - 1;
    assert_eq!(first.carried_over, left.into());
    let wallets = [1, 2, 3, 4].map(|owner| available(&books, Account::Wallet(miner(owner))));
    let paid = [large - 2 * PAYOUT_MIN, PAYOUT_MIN, 4 * PAYOUT_MIN, 0].map(u128::from);
    assert_eq!(wallets, paid);

    // The budget outlives the process; a clock that goes back makes no new one.
    drop(books);
    let mut books = open(&dir, Limits::default());
    for now_s in [now_s + 3_600, now_s - DAY_S] {
        let nothing = books.distribute(now_s).unwrap();
        assert_eq!((nothing.paid, nothing.carried_over), (0, left.into()));
    }
    let next = books.distribute(now_s + DAY_S).unwrap();
    assert_eq!(next.paid, 2 * PAYOUT_MIN);
    assert_eq!(next.carried_over, u128::from(PAYOUT_MIN - 1));
    assert_eq!(available(&books, Account::Wallet(miner(1))), large.into());
}

#[test]
fn a_distribution_with_nothing_due_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut books = open(&dir, Limits::default());
    let nothing = books.distribute(5).unwrap();
    assert_eq!((nothing.paid, nothing.carried_over), (0, 0));
    assert_eq!(books.store().entries(), 0);
}
