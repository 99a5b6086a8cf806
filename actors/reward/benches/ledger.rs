//! Durable transfers a second through RewardActor: `batched LEN SECONDS` is one client that sends batches, `clients COUNT SECONDS`
//! so many at one time with one transfer each. Prints transfers and seconds. Under `cargo test`, which does not say
//! `--bench`, a moment of both. `loadtests/ledger/bench.py` runs it beside Postgres.

use std::error::Error;
use std::time::{Duration, Instant};

use blyan_reward::{
    Account, LedgerHandle, Limits, Operation, RewardActor, Transfer, TransferId, WalletAddress,
};
use blyan_supervisors::{SupervisorSpec, Tree, TreeHandle, TreeOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// As many as `bench.py` gives Postgres, so that few transfers meet on one account.
const ACCOUNTS: u32 = 100_000;
/// Each account's at the start, in 10^-6 BLY; a transfer moves 1.
const FUNDS: u64 = 1_000_000_000;
/// Accounts that are funded at a time.
const FUNDED: usize = 10_000;
const REPLY: Duration = Duration::from_secs(60);

/// What is measured.
enum Load {
    Batched(usize),
    Clients(usize),
}

#[actix_rt::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["batched", len, seconds, "--bench"] => {
            measure(Load::Batched(len.parse()?), seconds.parse()?).await
        }
        ["clients", count, seconds, "--bench"] => {
            measure(Load::Clients(count.parse()?), seconds.parse()?).await
        }
        [.., "--bench"] => Err("say `batched LEN SECONDS` or `clients COUNT SECONDS`".into()),
        _ => {
            measure(Load::Batched(100), 0.05).await?;
            measure(Load::Clients(8), 0.05).await
        }
    }
}

async fn measure(load: Load, seconds: f64) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let child = RewardActor::spec("reward", dir.path().to_owned(), Limits::default(), 2048);
    let handle = LedgerHandle::new(child.child_ref(), REPLY);
    let tree: TreeHandle = Tree::start(
        SupervisorSpec::new("node").child(child),
        TreeOptions::default(),
    )?;
    tree.wait_running("node", REPLY).await?;
    fund(&handle).await?;
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let transfers = match load {
        Load::Batched(len) => client(handle.clone(), 0, len, until).await,
        Load::Clients(count) => clients(&handle, count, until).await?,
    };
    let took = began.elapsed().as_secs_f64();
    // Every transfer left its mark, or the figure means nothing.
    let (mut paid, mut received) = (0, 0);
    for number in 0..ACCOUNTS {
        let sums = handle.balance(wallet(number)).await?;
        paid += sums.debits_posted;
        received += sums.credits_posted - u128::from(FUNDS);
    }
    assert_eq!((paid, received), (transfers.into(), transfers.into()));
    println!("{transfers} {took:.6}");
    tree.stop(REPLY).await;
    Ok(())
}

async fn clients(
    handle: &LedgerHandle,
    count: usize,
    until: Instant,
) -> Result<u64, Box<dyn Error>> {
    let clients =
        (1..=count as u64).map(|number| actix_rt::spawn(client(handle.clone(), number, 1, until)));
    let mut transfers = 0;
    for client in clients.collect::<Vec<_>>() {
        transfers += client.await?;
    }
    Ok(transfers)
}

/// One batch after the other; returns how many transfers took effect.
async fn client(handle: LedgerHandle, number: u64, len: usize, until: Instant) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut done = 0;
    while Instant::now() < until {
        let batch = (0..len).map(|_| transfer(&mut rng)).collect();
        let results = handle.apply(batch).await.expect("the ledger is up");
        assert!(results.iter().all(Result::is_ok), "a transfer was refused");
        done += results.len() as u64;
    }
    done
}

fn transfer(rng: &mut ChaCha8Rng) -> Transfer {
    let debit = rng.random_range(0..ACCOUNTS);
    let credit = (debit + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    Transfer {
        id: TransferId(rng.random()),
        operation: Operation::Direct {
            debit: wallet(debit),
            credit: wallet(credit),
            amount: 1,
        },
    }
}

async fn fund(handle: &LedgerHandle) -> Result<(), Box<dyn Error>> {
    let wallets: Vec<u32> = (0..ACCOUNTS).collect();
    for some in wallets.chunks(FUNDED) {
        let issue = |number: &u32| Transfer {
            id: TransferId(u128::from(*number) + 1),
            operation: Operation::Direct {
                debit: Account::Issuance,
                credit: wallet(*number),
                amount: FUNDS,
            },
        };
        let funded = handle.apply(some.iter().map(issue).collect()).await?;
        assert!(funded.iter().all(Result::is_ok), "an account is not funded");
    }
    Ok(())
}

fn wallet(number: u32) -> Account {
    let mut address = [0; 20];
    address[..4].copy_from_slice(&number.to_be_bytes());
    Account::Wallet(WalletAddress(address))
}
