//! What was accrued goes to the wallets every hour, within a day's budget (REWARD-05 to 07).

use super::payout_id;
use crate::core::{Account, Ledger, Operation, Transfer, WalletAddress};

/// The smallest payout: 10 BLY. Less stays accrued (REWARD-06).
pub const PAYOUT_MIN: u64 = 10_000_000;
/// Paid out at most in one day, UTC: 100,000 BLY (REWARD-07).
pub const PAYOUTS_PER_DAY_MAX: u64 = 100_000_000_000;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// What a day's payouts have taken of its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    day: u64,
    spent: u64,
}

/// What a distribution does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payouts {
    /// From what an owner accrued to the owner's wallet.
    pub transfers: Vec<Transfer>,
    /// Their sum, in 10^-6 BLY.
    pub paid: u64,
    /// What stays accrued: too little each, or the day's budget is used up.
    pub carried_over: u128,
    /// The budget afterwards.
    pub budget: Budget,
}

/// Who is paid at `now_s` by the entry with this number. The smallest accruals of 10 BLY or more come first, equal ones by
/// address: so a day's budget reaches as many as it can. The one that it does not reach whole gets what is left of it, if that is
/// 10 BLY. What is held back stays accrued in full.
pub fn plan_payouts(ledger: &Ledger, budget: Budget, now_s: u64, entry: u64) -> Payouts {
    let mut budget = budget.on(now_s);
    let mut accrued: Vec<(u128, WalletAddress)> = ledger
        .accounts()
        .filter_map(|(account, sums)| match account {
            Account::Accrued(owner) => Some((sums.available(), owner)),
            _ => None,
        })
        .collect();
    accrued.sort_unstable();
    let mut payouts = Payouts {
        transfers: Vec::new(),
        paid: 0,
        carried_over: 0,
        budget,
    };
    for (due, owner) in accrued {
        let left = PAYOUTS_PER_DAY_MAX - budget.spent;
        let amount = u64::try_from(due).unwrap_or(u64::MAX).min(left);
        payouts.carried_over += due;
        if amount < PAYOUT_MIN {
            continue;
        }
        budget.spent += amount;
        payouts.paid += amount;
        payouts.carried_over -= u128::from(amount);
        payouts.transfers.push(payout(owner, amount, entry));
    }
    payouts.budget = budget;
    payouts
}

fn payout(owner: WalletAddress, amount: u64, entry: u64) -> Transfer {
    Transfer {
        id: payout_id(owner, entry),
        operation: Operation::Direct {
            debit: Account::Accrued(owner),
            credit: Account::Wallet(owner),
            amount,
        },
    }
}

impl Budget {
    /// A new day has a budget of its own; a clock that was set back has not.
    fn on(self, now_s: u64) -> Self {
        let day = now_s / SECONDS_PER_DAY;
        if day > self.day {
            return Self { day, spent: 0 };
        }
        self
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.day.to_le_bytes());
        bytes[8..].copy_from_slice(&self.spent.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.as_chunks::<8>();
        let [day, spent] = fields else {
            return None;
        };
        let (day, spent) = (u64::from_le_bytes(*day), u64::from_le_bytes(*spent));
        (rest.is_empty() && spent <= PAYOUTS_PER_DAY_MAX).then_some(Self { day, spent })
    }
}
