//! A ledger that is slow and obvious: a list of all requests, summed anew for every question.

use blyan_reward::{
    Account, Balance, Limits, Operation, Receipt, Refusal, SECONDS_PER_YEAR, Transfer, TransferId,
};

struct Entry {
    transfer: Transfer,
    result: Result<Receipt, Refusal>,
    /// How a pending one ended and how much of it moved.
    end: Option<(Refusal, u64)>,
}

/// The model; `apply` takes one request at a time.
pub struct Plain {
    limits: Limits,
    now_s: u64,
    entries: Vec<Entry>,
}

impl Plain {
    pub fn new(limits: Limits) -> Self {
        let entries = Vec::new();
        Self {
            limits,
            now_s: 0,
            entries,
        }
    }

    pub fn apply(&mut self, now_s: u64, transfer: Transfer) -> Result<Receipt, Refusal> {
        self.now_s = self.now_s.max(now_s);
        for entry in &mut self.entries {
            if let (Operation::Pending { timeout_s, .. }, Ok(receipt), None) =
                (entry.transfer.operation, entry.result, entry.end)
                && receipt.at_s + u64::from(timeout_s) <= self.now_s
            {
                entry.end = Some((Refusal::Expired, 0));
            }
        }
        if let Some(refusal) = first_of(&self.broken_by_fields(&transfer)) {
            return Err(refusal);
        }
        if let Some(entry) = self.find(transfer.id) {
            return if entry.transfer == transfer {
                entry.result
            } else {
                Err(Refusal::IdReused)
            };
        }
        let result = match first_of(&self.broken_by_state(&transfer)) {
            Some(refusal) => Err(refusal),
            None => Ok(Receipt { at_s: self.now_s }),
        };
        if result.is_ok() {
            self.end_pending(&transfer);
        }
        self.entries.push(Entry {
            transfer,
            result,
            end: None,
        });
        result
    }

    pub fn balance(&self, of: Account) -> Balance {
        let mut sums = Balance::default();
        for (debit, credit, posted, pending, _) in self.moves() {
            if debit == of {
                sums.debits_posted += u128::from(posted);
                sums.debits_pending += u128::from(pending);
            }
            if credit == of {
                sums.credits_posted += u128::from(posted);
                sums.credits_pending += u128::from(pending);
            }
        }
        sums
    }

    /// Issued and held to be, ever and in the year of now.
    pub fn issued(&self) -> (u64, u64) {
        let year = self.now_s / SECONDS_PER_YEAR;
        let mut sums = (0, 0);
        for (debit, _, posted, pending, at_s) in self.moves() {
            if debit == Account::Issuance {
                sums.0 += posted + pending;
                sums.1 += if at_s / SECONDS_PER_YEAR == year {
                    posted + pending
                } else {
                    0
                };
            }
        }
        sums
    }

    fn moves(&self) -> impl Iterator<Item = (Account, Account, u64, u64, u64)> + '_ {
        self.entries.iter().filter_map(|entry| {
            let at_s = entry.result.ok()?.at_s;
            match (entry.transfer.operation, entry.end) {
                (
                    Operation::Direct {
                        debit,
                        credit,
                        amount,
                    },
                    _,
                ) => Some((debit, credit, amount, 0, at_s)),
                (
                    Operation::Pending {
                        debit,
                        credit,
                        amount,
                        ..
                    },
                    None,
                ) => Some((debit, credit, 0, amount, at_s)),
                (Operation::Pending { debit, credit, .. }, Some((_, posted))) => {
                    Some((debit, credit, posted, 0, at_s))
                }
                _ => None,
            }
        })
    }

    fn find(&self, id: TransferId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.transfer.id == id)
    }

    fn end_pending(&mut self, transfer: &Transfer) {
        let (id, end) = match transfer.operation {
            Operation::Post { pending, amount } => (pending, (Refusal::AlreadyPosted, amount)),
            Operation::Void { pending } => (pending, (Refusal::AlreadyVoided, 0)),
            _ => return,
        };
        for entry in &mut self.entries {
            if entry.transfer.id == id {
                entry.end = Some(end);
            }
        }
    }

    /// Every rule that the fields break, in any order.
    fn broken_by_fields(&self, transfer: &Transfer) -> Vec<Refusal> {
        let (sides, amount, timeout_s) = match transfer.operation {
            Operation::Direct {
                debit,
                credit,
                amount,
            } => (Some((debit, credit)), amount, 1),
            Operation::Pending {
                debit,
                credit,
                amount,
                timeout_s,
            } => (Some((debit, credit)), amount, timeout_s),
            Operation::Post { amount, .. } => (None, amount, 1),
            Operation::Void { .. } => (None, 1, 1),
        };
        let is = |rule: fn(Account, Account) -> bool| sides.is_some_and(|(d, c)| rule(d, c));
        all(&[
            (timeout_s == 0, Refusal::TimeoutZero),
            (
                is(|debit, _| debit == Account::Burned),
                Refusal::BurnedDebited,
            ),
            (
                is(|_, credit| credit == Account::Issuance),
                Refusal::IssuanceCredited,
            ),
            (is(|debit, credit| debit == credit), Refusal::SameAccount),
            (amount == 0, Refusal::AmountZero),
            (transfer.id.0 == 0, Refusal::IdZero),
        ])
    }

    fn broken_by_state(&self, transfer: &Transfer) -> Vec<Refusal> {
        match transfer.operation {
            Operation::Direct { debit, amount, .. } | Operation::Pending { debit, amount, .. } => {
                let (ever, year) = self.issued();
                let has = self.balance(debit);
                let issues = debit == Account::Issuance;
                let short = has.debits_posted + has.debits_pending + u128::from(amount)
                    > has.credits_posted;
                all(&[
                    (!issues && short, Refusal::InsufficientFunds),
                    (
                        issues && year + amount > self.limits.issued_per_year_max,
                        Refusal::YearlyLimit,
                    ),
                    (
                        issues && ever + amount > self.limits.supply_max,
                        Refusal::SupplyCap,
                    ),
                ])
            }
            Operation::Post { pending, amount } => self.broken_by_pending(pending, amount),
            Operation::Void { pending } => self.broken_by_pending(pending, 0),
        }
    }

    fn broken_by_pending(&self, id: TransferId, posted: u64) -> Vec<Refusal> {
        let Some(entry) = self.find(id) else {
            return vec![Refusal::PendingNotFound];
        };
        match (entry.transfer.operation, entry.result) {
            (Operation::Pending { amount, .. }, Ok(_)) => {
                let mut broken = all(&[(posted > amount, Refusal::ExceedsPending)]);
                broken.extend(entry.end.map(|(refusal, _)| refusal));
                broken
            }
            _ => vec![Refusal::NotPending],
        }
    }
}

fn all(rules: &[(bool, Refusal)]) -> Vec<Refusal> {
    rules
        .iter()
        .filter(|(broken, _)| *broken)
        .map(|(_, refusal)| *refusal)
        .collect()
}

/// The refusal that the documented order puts first.
fn first_of(broken: &[Refusal]) -> Option<Refusal> {
    broken.iter().min().copied()
}
