use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::issuance::Issuance;
use super::transfer::refuse_if;
use super::{Account, Balance, Limits, Operation, Receipt, Transfer, TransferId};
use crate::Refusal;

/// The accounts and every transfer ever decided. Pure: the same calls give the same ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The latest time given: it never goes back.
    now_s: u64,
    accounts: BTreeMap<Account, Balance>,
    decided: HashMap<TransferId, Decided>,
    held: HashMap<TransferId, Held>,
    /// The open ones of `held`, the first to expire first.
    expiries: BTreeSet<(u64, TransferId)>,
    issuance: Issuance,
}

/// A transfer and what became of it. Kept for ever, refusals too: a retry must not pass because
/// the payer was funded in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decided {
    transfer: Transfer,
    result: Result<Receipt, Refusal>,
}

/// What a pending transfer holds or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    debit: Account,
    credit: Account,
    amount: u64,
    since_s: u64,
    expires_at_s: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Posted,
    Voided,
    Expired,
}

/// What a transfer that passed every check does: nothing in it can fail.
enum Effect {
    Move(Account, Account, u64),
    Hold(Held),
    Settle(TransferId, Held, u64, Fate),
}

impl Ledger {
    /// A ledger without accounts; each appears with its first transfer.
    pub fn new(limits: Limits) -> Self {
        Self {
            now_s: 0,
            accounts: BTreeMap::new(),
            decided: HashMap::new(),
            held: HashMap::new(),
            expiries: BTreeSet::new(),
            issuance: Issuance::new(limits),
        }
    }

    /// Decides each transfer in turn; one that is refused leaves the others alone.
    ///
    /// `now_s`: seconds since 1970. A time before the latest one counts as the latest, so that a
    /// clock set back neither revives what expired nor lends from another year. What expires by
    /// then is given back first.
    ///
    /// # Errors
    /// Per transfer, the first [`Refusal`] of the ladder. Those that depend on the fields alone
    /// are not remembered; the others are the id's result for ever.
    pub fn apply(&mut self, now_s: u64, batch: &[Transfer]) -> Vec<Result<Receipt, Refusal>> {
        self.now_s = self.now_s.max(now_s);
        self.expire();
        batch.iter().map(|transfer| self.decide(transfer)).collect()
    }

    /// An account's sums; zeros when nothing ever went through it.
    pub fn balance(&self, account: Account) -> Balance {
        self.accounts.get(&account).copied().unwrap_or_default()
    }

    /// The latest time given, in seconds since 1970.
    pub const fn now_s(&self) -> u64 {
        self.now_s
    }

    /// Every account that something ever went through.
    pub fn accounts(&self) -> impl Iterator<Item = (Account, Balance)> {
        self.accounts
            .iter()
            .map(|(account, sums)| (*account, *sums))
    }

    /// How much may be issued.
    pub const fn limits(&self) -> Limits {
        self.issuance.limits()
    }

    /// What may be issued at this time, in 10^-6 BLY.
    pub fn issuable(&self, now_s: u64) -> u64 {
        self.issuance.room(self.now_s.max(now_s))
    }

    /// Whether this id has its result for ever.
    pub fn has_decided(&self, id: TransferId) -> bool {
        self.decided.contains_key(&id)
    }

    /// Transfers whose result is remembered.
    pub fn decided_count(&self) -> usize {
        self.decided.len()
    }

    fn decide(&mut self, transfer: &Transfer) -> Result<Receipt, Refusal> {
        transfer.check()?;
        if let Some(before) = self.decided.get(&transfer.id) {
            refuse_if(before.transfer != *transfer, Refusal::IdReused)?;
            return before.result;
        }
        let result = self.plan(transfer).map(|effect| {
            self.carry_out(transfer.id, effect);
            Receipt { at_s: self.now_s }
        });
        let transfer = *transfer;
        self.decided
            .insert(transfer.id, Decided { transfer, result });
        result
    }

    fn plan(&self, transfer: &Transfer) -> Result<Effect, Refusal> {
        match transfer.operation {
            Operation::Direct {
                debit,
                credit,
                amount,
            } => {
                self.check_funds(debit, amount)?;
                Ok(Effect::Move(debit, credit, amount))
            }
            Operation::Pending {
                debit,
                credit,
                amount,
                timeout_s,
            } => {
                self.check_funds(debit, amount)?;
                Ok(Effect::Hold(Held {
                    debit,
                    credit,
                    amount,
                    since_s: self.now_s,
                    expires_at_s: self.now_s.saturating_add(u64::from(timeout_s)),
                    fate: Fate::Open,
                }))
            }
            Operation::Post { pending, amount } => {
                let held = self.open(pending)?;
                refuse_if(amount > held.amount, Refusal::ExceedsPending)?;
                Ok(Effect::Settle(pending, held, amount, Fate::Posted))
            }
            Operation::Void { pending } => {
                let held = self.open(pending)?;
                Ok(Effect::Settle(pending, held, 0, Fate::Voided))
            }
        }
    }

    fn check_funds(&self, debit: Account, amount: u64) -> Result<(), Refusal> {
        if debit == Account::Issuance {
            return self.issuance.check(self.now_s, amount);
        }
        let available = self.balance(debit).available();
        refuse_if(u128::from(amount) > available, Refusal::InsufficientFunds)
    }

    fn open(&self, pending: TransferId) -> Result<Held, Refusal> {
        refuse_if(
            !self.decided.contains_key(&pending),
            Refusal::PendingNotFound,
        )?;
        let held = *self.held.get(&pending).ok_or(Refusal::NotPending)?;
        match held.fate {
            Fate::Open => Ok(held),
            Fate::Posted => Err(Refusal::AlreadyPosted),
            Fate::Voided => Err(Refusal::AlreadyVoided),
            Fate::Expired => Err(Refusal::Expired),
        }
    }

    fn carry_out(&mut self, id: TransferId, effect: Effect) {
        match effect {
            Effect::Move(debit, credit, amount) => {
                self.issue(debit, amount);
                self.move_posted(debit, credit, amount);
            }
            Effect::Hold(held) => {
                self.issue(held.debit, held.amount);
                let amount = u128::from(held.amount);
                self.account(held.debit).debits_pending += amount;
                self.account(held.credit).credits_pending += amount;
                self.held.insert(id, held);
                self.expiries.insert((held.expires_at_s, id));
            }
            Effect::Settle(pending, held, posted, fate) => {
                self.settle(pending, held, posted, fate);
            }
        }
    }

    /// Ends what is held: `posted` of it moves, the rest is its payer's again.
    fn settle(&mut self, pending: TransferId, held: Held, posted: u64, fate: Fate) {
        self.expiries.remove(&(held.expires_at_s, pending));
        let amount = u128::from(held.amount);
        self.account(held.debit).debits_pending -= amount;
        self.account(held.credit).credits_pending -= amount;
        self.move_posted(held.debit, held.credit, posted);
        if held.debit == Account::Issuance {
            self.issuance.give_back(held.since_s, held.amount - posted);
        }
        self.held.insert(pending, Held { fate, ..held });
    }

    fn expire(&mut self) {
        while let Some(&(expires_at_s, id)) = self.expiries.first()
            && expires_at_s <= self.now_s
        {
            self.settle(id, self.held[&id], 0, Fate::Expired);
        }
    }

    fn issue(&mut self, debit: Account, amount: u64) {
        if debit == Account::Issuance {
            self.issuance.take(self.now_s, amount);
        }
    }

    fn move_posted(&mut self, debit: Account, credit: Account, amount: u64) {
        self.account(debit).debits_posted += u128::from(amount);
        self.account(credit).credits_posted += u128::from(amount);
    }

    fn account(&mut self, account: Account) -> &mut Balance {
        self.accounts.entry(account).or_default()
    }
}
