//! RewardActor under its supervisor: many clients, few entries; overload.

use std::path::Path;
use std::time::Duration;

use blyan_reward::{
    Account, LedgerError, LedgerHandle, LedgerStore, Limits, Operation, Refusal, RewardActor,
    Transfer, TransferId, WalletAddress,
};
use blyan_supervisors::{CallError, SupervisorSpec, Tree, TreeHandle, TreeOptions};
use tempfile::TempDir;

const ALICE: Account = Account::Wallet(WalletAddress([1; 20]));
const REPLY: Duration = Duration::from_secs(20);

fn issue(id: u128, amount: u64) -> Transfer {
    Transfer {
        id: TransferId(id),
        operation: Operation::Direct {
            debit: Account::Issuance,
            credit: ALICE,
            amount,
        },
    }
}

async fn start(dir: &Path, mailbox_len_max: usize) -> (TreeHandle, LedgerHandle) {
    let child = RewardActor::spec("reward", dir.to_owned(), Limits::default(), mailbox_len_max);
    let handle = LedgerHandle::new(child.child_ref(), REPLY);
    let root = SupervisorSpec::new("node").child(child);
    let tree = Tree::start(root, TreeOptions::default()).unwrap();
    tree.wait_running("node", REPLY).await.unwrap();
    (tree, handle)
}

#[actix::test]
async fn clients_at_one_time_share_entries_and_each_has_its_own_results() {
    let dir = TempDir::new().unwrap();
    let (tree, handle) = start(dir.path(), 1024).await;
    let clients = (1..=200_u128).map(|id| {
        let handle = handle.clone();
        tokio::spawn(async move {
            // The second is refused, whoever comes first.
            let pair = vec![issue(id, id as u64), issue(0, 1)];
            handle.apply(pair).await.unwrap()
        })
    });
    for client in clients.collect::<Vec<_>>() {
        let results = client.await.unwrap();
        assert!(results[0].is_ok());
        assert_eq!(results[1..], [Err(Refusal::IdZero)]);
    }
    let sum = (1..=200).sum();
    assert_eq!(handle.balance(ALICE).await.unwrap().credits_posted, sum);
    let supply = handle.supply().await.unwrap();
    assert_eq!((supply.issued, supply.burned, supply.accrued), (sum, 0, 0));
    tree.stop(REPLY).await;
    let store = LedgerStore::open(dir.path(), Limits::default()).unwrap();
    assert!(store.entries() < 100, "{} syncs for 200", store.entries());
    drop(store);

    let (tree, handle) = start(dir.path(), 1024).await;
    assert_eq!(handle.supply().await.unwrap(), supply);
    tree.stop(REPLY).await;
    let refused = handle.apply(vec![issue(1, 1)]).await;
    assert!(matches!(
        refused,
        Err(LedgerError::Call(CallError::Down { .. }))
    ));
}

#[actix::test]
async fn more_clients_than_the_mailbox_takes_are_refused_at_once_and_pay_nothing() {
    let dir = TempDir::new().unwrap();
    let (tree, handle) = start(dir.path(), 4).await;
    let clients = (1..=100).map(|id| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.apply(vec![issue(id, 1)]).await })
    });
    let mut taken = 0;
    for client in clients.collect::<Vec<_>>() {
        match client.await.unwrap() {
            Ok(results) => taken += results.iter().filter(|result| result.is_ok()).count(),
            Err(error) => assert!(matches!(error, LedgerError::Call(CallError::Full { .. }))),
        }
    }
    assert!((4..100).contains(&taken), "{taken}");
    assert_eq!(handle.supply().await.unwrap().issued, taken as u128);
    tree.stop(REPLY).await;
}
