//! The ledger on disk: opened as it was left, refused when it was changed.

use blyan_reward::{
    Account, LedgerError, LedgerStore, Limits, Operation, Refusal, Transfer, TransferId,
    WalletAddress,
};
use rocksdb::{DB, Options};
use tempfile::TempDir;

const ALICE: Account = Account::Wallet(WalletAddress([1; 20]));
const BOB: Account = Account::Wallet(WalletAddress([2; 20]));

const fn direct(id: u128, debit: Account, credit: Account, amount: u64) -> Transfer {
    Transfer {
        id: TransferId(id),
        operation: Operation::Direct {
            debit,
            credit,
            amount,
        },
    }
}

const fn pending(id: u128, debit: Account, credit: Account, amount: u64) -> Transfer {
    Transfer {
        id: TransferId(id),
        operation: Operation::Pending {
            debit,
            credit,
            amount,
            timeout_s: 10,
        },
    }
}

fn open(dir: &TempDir) -> LedgerStore {
    LedgerStore::open(dir.path(), Limits::default()).unwrap()
}

#[test]
fn a_ledger_is_opened_as_it_was_left() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let issued = direct(1, Account::Issuance, ALICE, 100);
    let first = store
        .commit(5, &[issued, direct(2, ALICE, BOB, 30)])
        .unwrap();
    assert_eq!(first[0].unwrap().at_s, 5);
    let poor = direct(3, BOB, ALICE, 31);
    let held = pending(4, ALICE, BOB, 50);
    let second = store.commit(6, &[poor, held]).unwrap();
    assert_eq!(second[0], Err(Refusal::InsufficientFunds));
    let before = store.ledger().clone();
    drop(store);

    let mut store = open(&dir);
    assert_eq!(*store.ledger(), before);
    assert_eq!(store.entries(), 2);
    // Repeats have the first results, at the first time, and write nothing.
    let third = store.commit(9, &[issued, poor, held]).unwrap();
    assert_eq!(third[0].unwrap().at_s, 5);
    assert_eq!(third[1], Err(Refusal::InsufficientFunds));
    assert_eq!(third[2].unwrap().at_s, 6);
    assert_eq!(store.entries(), 2);
    assert_eq!(store.ledger().balance(ALICE).available(), 20);
}

#[test]
fn a_clock_that_goes_back_and_expiry_without_an_entry_are_replayed_as_they_were() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let issued = direct(1, Account::Issuance, ALICE, 100);
    store
        .commit(0, &[issued, pending(2, ALICE, BOB, 100)])
        .unwrap();
    // Time passes over the limit with nothing to write, then the clock is set back.
    assert_eq!(store.commit(50, &[issued]).unwrap()[0].unwrap().at_s, 0);
    assert_eq!(store.entries(), 1);
    let after = store.commit(3, &[direct(3, ALICE, BOB, 100)]).unwrap();
    assert_eq!(after[0].unwrap().at_s, 50);
    let before = store.ledger().clone();
    drop(store);
    assert_eq!(*open(&dir).ledger(), before);
}

#[test]
fn duplicates_within_a_group_and_what_the_fields_refuse_are_not_written_twice() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let issued = direct(1, Account::Issuance, ALICE, 100);
    let other = direct(1, Account::Issuance, BOB, 100);
    let zero = direct(0, Account::Issuance, BOB, 1);
    let group = store.commit(1, &[issued, issued, other, zero]).unwrap();
    assert_eq!(group[0], group[1]);
    assert_eq!(group[2], Err(Refusal::IdReused));
    assert_eq!(group[3], Err(Refusal::IdZero));
    assert_eq!(store.commit(2, &[zero]).unwrap(), [Err(Refusal::IdZero)]);
    assert_eq!(store.entries(), 1);
    let before = store.ledger().clone();
    drop(store);
    // The time of what was not written is not kept: nothing hung on it.
    assert_eq!(open(&dir).ledger().balance(ALICE), before.balance(ALICE));
    assert_eq!(open(&dir).ledger().decided_count(), 1);
}

#[test]
fn a_ledger_has_one_owner() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let second = LedgerStore::open(dir.path(), Limits::default());
    assert!(matches!(second, Err(LedgerError::Held(_))));
    drop(store);
    open(&dir);
}

/// A ledger of three entries whose database was changed behind its back.
fn after(change: impl FnOnce(&DB)) -> Result<LedgerStore, LedgerError> {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    for id in 1..4 {
        let issued = direct(id, Account::Issuance, ALICE, 100);
        store.commit(id as u64, &[issued]).unwrap()[0].unwrap();
    }
    drop(store);
    let db = DB::open_cf(&Options::default(), dir.path(), ["default", "notes"]).unwrap();
    change(&db);
    drop(db);
    LedgerStore::open(dir.path(), Limits::default())
}

fn damaged_at(opened: Result<LedgerStore, LedgerError>) -> u64 {
    match opened {
        Err(LedgerError::Damaged { entry, .. }) => entry,
        Err(error) => panic!("{error}"),
        Ok(store) => panic!("opened with {} entries", store.entries()),
    }
}

#[test]
fn an_entry_that_is_missing_changed_or_moved_is_damage() {
    let key = |number: u64| number.to_be_bytes();
    assert_eq!(after(|_| {}).unwrap().entries(), 3);
    assert_eq!(damaged_at(after(|db| db.delete(key(0)).unwrap())), 0);
    assert_eq!(damaged_at(after(|db| db.delete(key(1)).unwrap())), 1);
    let swap = |db: &DB| {
        let [one, two] = [1, 2].map(|number| db.get(key(number)).unwrap().unwrap());
        db.put(key(1), two).unwrap();
        db.put(key(2), one).unwrap();
    };
    assert_eq!(damaged_at(after(swap)), 1);
    let again = |db: &DB| {
        let last = db.get(key(2)).unwrap().unwrap();
        db.put(key(3), last).unwrap();
    };
    assert_eq!(damaged_at(after(again)), 3);
    let flip = |db: &DB| {
        let mut bytes = db.get(key(2)).unwrap().unwrap();
        bytes[20] ^= 1;
        db.put(key(2), bytes).unwrap();
    };
    assert_eq!(damaged_at(after(flip)), 2);
}
