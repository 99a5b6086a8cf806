//! Each refusal at its rung, and the amounts that each operation moves, to the unit.

use blyan_reward::{
    Account, Balance, Ledger, Limits, Operation, Receipt, Refusal, SECONDS_PER_YEAR, Transfer,
    TransferId, WalletAddress,
};

const ALICE: Account = Account::Wallet(WalletAddress([1; 20]));
const BOB: Account = Account::Wallet(WalletAddress([2; 20]));
const LIMITS: Limits = Limits {
    supply_max: 1_000,
    issued_per_year_max: 600,
};

fn direct(id: u128, debit: Account, credit: Account, amount: u64) -> Transfer {
    Transfer {
        id: TransferId(id),
        operation: Operation::Direct {
            debit,
            credit,
            amount,
        },
    }
}

fn pending(id: u128, debit: Account, credit: Account, amount: u64, timeout_s: u32) -> Transfer {
    let operation = Operation::Pending {
        debit,
        credit,
        amount,
        timeout_s,
    };
    Transfer {
        id: TransferId(id),
        operation,
    }
}

fn post(id: u128, pending: u128, amount: u64) -> Transfer {
    let operation = Operation::Post {
        pending: TransferId(pending),
        amount,
    };
    Transfer {
        id: TransferId(id),
        operation,
    }
}

fn void(id: u128, pending: u128) -> Transfer {
    Transfer {
        id: TransferId(id),
        operation: Operation::Void {
            pending: TransferId(pending),
        },
    }
}

fn one(ledger: &mut Ledger, now_s: u64, transfer: Transfer) -> Result<(), Refusal> {
    ledger.apply(now_s, &[transfer])[0].map(|_| ())
}

/// Alice has 100.
fn funded() -> Ledger {
    let mut ledger = Ledger::new(LIMITS);
    assert_eq!(
        one(&mut ledger, 1, direct(1, Account::Issuance, ALICE, 100)),
        Ok(())
    );
    ledger
}

#[test]
fn what_the_fields_show_is_refused_in_order() {
    let burned = Account::Burned;
    let issuance = Account::Issuance;
    let mut ledger = funded();
    let before = ledger.clone();
    for (transfer, refusal) in [
        (pending(0, burned, burned, 0, 0), Refusal::IdZero),
        (pending(1, issuance, issuance, 0, 0), Refusal::AmountZero),
        (pending(1, issuance, issuance, 1, 0), Refusal::SameAccount),
        (
            pending(1, burned, issuance, 1, 0),
            Refusal::IssuanceCredited,
        ),
        (pending(1, burned, ALICE, 1, 0), Refusal::BurnedDebited),
        (pending(1, BOB, ALICE, 1, 0), Refusal::TimeoutZero),
        (pending(1, BOB, ALICE, 1, 1), Refusal::IdReused),
        (post(2, 99, 0), Refusal::AmountZero),
    ] {
        assert_eq!(one(&mut ledger, 1, transfer), Err(refusal), "{transfer:?}");
    }
    assert_eq!(ledger, before);
}

#[test]
fn what_the_ledger_holds_is_refused_in_order() {
    let mut ledger = funded();
    let wait = 10;
    for (id, amount) in [(10, 20), (11, 20), (12, 20)] {
        let held = pending(id, ALICE, BOB, amount, wait);
        assert_eq!(one(&mut ledger, 1, held), Ok(()));
    }
    for (transfer, refusal) in [
        (post(20, 99, 5_000), Refusal::PendingNotFound),
        (post(21, 1, 5_000), Refusal::NotPending),
        (post(22, 10, 21), Refusal::ExceedsPending),
        (direct(23, ALICE, BOB, 41), Refusal::InsufficientFunds),
        (direct(24, Account::Issuance, BOB, 901), Refusal::SupplyCap),
        (
            direct(25, Account::Issuance, BOB, 501),
            Refusal::YearlyLimit,
        ),
    ] {
        assert_eq!(one(&mut ledger, 1, transfer), Err(refusal), "{transfer:?}");
    }
    assert_eq!(one(&mut ledger, 1, post(30, 10, 20)), Ok(()));
    assert_eq!(one(&mut ledger, 1, void(31, 11)), Ok(()));
    assert_eq!(
        one(&mut ledger, 11, post(40, 10, 21)),
        Err(Refusal::AlreadyPosted)
    );
    assert_eq!(
        one(&mut ledger, 11, post(41, 11, 21)),
        Err(Refusal::AlreadyVoided)
    );
    assert_eq!(
        one(&mut ledger, 11, post(42, 12, 21)),
        Err(Refusal::Expired)
    );
}

#[test]
fn a_pending_transfer_lives_to_the_second_before_its_end() {
    let mut ledger = funded();
    assert_eq!(one(&mut ledger, 1, pending(2, ALICE, BOB, 60, 10)), Ok(()));
    assert_eq!(ledger.balance(ALICE).available(), 40);
    assert_eq!(ledger.balance(BOB).available(), 0);
    let mut late = ledger.clone();
    assert_eq!(one(&mut ledger, 10, post(3, 2, 25)), Ok(()));
    assert_eq!(ledger.balance(ALICE).available(), 75);
    let bob = Balance {
        credits_posted: 25,
        ..Balance::default()
    };
    assert_eq!(ledger.balance(BOB), bob);
    assert_eq!(one(&mut late, 11, post(3, 2, 25)), Err(Refusal::Expired));
    assert_eq!(late.balance(ALICE).available(), 100);
}

#[test]
fn a_retry_gets_the_first_result_even_when_it_would_pass_now() {
    let mut ledger = Ledger::new(LIMITS);
    let early = direct(1, ALICE, BOB, 50);
    assert_eq!(one(&mut ledger, 1, early), Err(Refusal::InsufficientFunds));
    let issue = direct(2, Account::Issuance, ALICE, 50);
    assert_eq!(
        ledger.apply(7, &[issue, issue]),
        [Ok(Receipt { at_s: 7 }); 2]
    );
    assert_eq!(ledger.apply(9, &[issue]), [Ok(Receipt { at_s: 7 })]);
    assert_eq!(one(&mut ledger, 9, early), Err(Refusal::InsufficientFunds));
    assert_eq!(
        one(&mut ledger, 9, direct(1, ALICE, BOB, 49)),
        Err(Refusal::IdReused)
    );
    assert_eq!(ledger.balance(ALICE).available(), 50);
}

#[test]
fn a_year_lends_nothing_to_the_next_and_the_cap_is_reached_to_the_unit() {
    let issue = |id, amount| direct(id, Account::Issuance, ALICE, amount);
    let mut ledger = Ledger::new(LIMITS);
    let last = SECONDS_PER_YEAR - 1;
    let held = pending(1, Account::Issuance, ALICE, 600, 100);
    assert_eq!(one(&mut ledger, last, held), Ok(()));
    assert_eq!(
        one(&mut ledger, last, issue(2, 1)),
        Err(Refusal::YearlyLimit)
    );
    assert_eq!(one(&mut ledger, last + 1, post(3, 1, 450)), Ok(()));
    assert_eq!(
        one(&mut ledger, last + 1, issue(4, 551)),
        Err(Refusal::SupplyCap)
    );
    assert_eq!(one(&mut ledger, last + 1, issue(5, 550)), Ok(()));
    assert_eq!(ledger.balance(ALICE).available(), 1_000);
    // A clock set back does not open the year before.
    assert_eq!(one(&mut ledger, 0, issue(6, 1)), Err(Refusal::SupplyCap));
    assert_eq!(ledger.balance(Account::Issuance).available(), 0);
}

#[test]
fn the_default_limits_are_those_of_the_economy() {
    let million = 1_000_000;
    assert_eq!(Limits::default().supply_max, 1_000 * million * million);
    assert_eq!(
        Limits::default().issued_per_year_max,
        100 * million * million
    );
}
