use super::WalletAddress;
use crate::Refusal;

/// Chosen by the client, at random or from what it pays for (a receipt's id). Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u128);

/// One of the ledger's accounts (LEDGER-03).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Where every BLY comes from: the one account below zero, by what was ever issued.
    Issuance,
    /// Where burned BLY end (ECON-05).
    Burned,
    /// Pays for validation; funded by card payments.
    ValidationPool,
    /// Pays validators.
    RewardPool,
    /// The network's own funds.
    Treasury,
    /// Holds what is in dispute or under validation.
    Escrow,
    /// Clears card payments.
    StripeGateway,
    /// A user's or miner's.
    Wallet(WalletAddress),
    /// What the same owner has earned and was not paid out yet.
    Accrued(WalletAddress),
}

/// What a transfer does. Amounts in 10^-6 BLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Moves the amount at once.
    Direct {
        /// Who pays.
        debit: Account,
        /// Who is paid.
        credit: Account,
        /// How much.
        amount: u64,
    },
    /// Holds the amount until it is posted, voided or expired. The payer cannot spend it, the
    /// payee does not have it.
    Pending {
        /// Who pays.
        debit: Account,
        /// Who is paid.
        credit: Account,
        /// How much at most.
        amount: u64,
        /// Seconds until it is held no longer.
        timeout_s: u32,
    },
    /// Moves all or a part of what is held and gives the rest back.
    Post {
        /// The transfer that holds it.
        pending: TransferId,
        /// How much of it.
        amount: u64,
    },
    /// Gives all that is held back.
    Void {
        /// The transfer that holds it.
        pending: TransferId,
    },
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// The client's name of it: the same id and fields give the same result, for ever.
    pub id: TransferId,
    /// What it does.
    pub operation: Operation,
}

/// That a transfer took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// When, in seconds since 1970. A retry gets the first time.
    pub at_s: u64,
}

impl Transfer {
    /// What the fields alone show to be wrong, whatever the ledger holds.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.id.0 == 0 {
            return Err(Refusal::IdZero);
        }
        match self.operation {
            Operation::Direct {
                debit,
                credit,
                amount,
            } => check_sides(debit, credit, amount),
            Operation::Pending {
                debit,
                credit,
                amount,
                timeout_s,
            } => {
                check_sides(debit, credit, amount)?;
                refuse_if(timeout_s == 0, Refusal::TimeoutZero)
            }
            Operation::Post { amount, .. } => refuse_if(amount == 0, Refusal::AmountZero),
            Operation::Void { .. } => Ok(()),
        }
    }
}

fn check_sides(debit: Account, credit: Account, amount: u64) -> Result<(), Refusal> {
    refuse_if(amount == 0, Refusal::AmountZero)?;
    refuse_if(debit == credit, Refusal::SameAccount)?;
    refuse_if(credit == Account::Issuance, Refusal::IssuanceCredited)?;
    refuse_if(debit == Account::Burned, Refusal::BurnedDebited)
}

/// One rung of the ladder.
pub(super) fn refuse_if(broken: bool, refusal: Refusal) -> Result<(), Refusal> {
    if broken { Err(refusal) } else { Ok(()) }
}
