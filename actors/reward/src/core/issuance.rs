use std::collections::BTreeMap;

use super::transfer::refuse_if;
use crate::Refusal;

/// A year of the issue limit: 365 days. Years are counted from 1970.
pub const SECONDS_PER_YEAR: u64 = 365 * 24 * 60 * 60;

/// How much may be issued (ECON-01), in 10^-6 BLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ever.
    pub supply_max: u64,
    /// In one year.
    pub issued_per_year_max: u64,
}

impl Default for Limits {
    /// A thousand million BLY, a tenth of them a year.
    fn default() -> Self {
        Self {
            supply_max: 1_000_000_000_000_000,
            issued_per_year_max: 100_000_000_000_000,
        }
    }
}

/// What was issued or is held to be, by the year in which it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issuance {
    limits: Limits,
    /// Never above the cap, so it fits.
    total: u64,
    by_year: BTreeMap<u64, u64>,
}

impl Issuance {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: 0,
            by_year: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self, now_s: u64, amount: u64) -> Result<(), Refusal> {
        refuse_if(amount > self.room_ever(), Refusal::SupplyCap)?;
        refuse_if(amount > self.room_this_year(now_s), Refusal::YearlyLimit)
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    /// The largest amount that `check` lets pass.
    pub(super) fn room(&self, now_s: u64) -> u64 {
        self.room_ever().min(self.room_this_year(now_s))
    }

    const fn room_ever(&self) -> u64 {
        self.limits.supply_max - self.total
    }

    fn room_this_year(&self, now_s: u64) -> u64 {
        let taken = self.by_year.get(&year_of(now_s)).copied().unwrap_or(0);
        self.limits.issued_per_year_max - taken
    }

    /// Counts an amount that `check` let pass.
    pub(super) fn take(&mut self, now_s: u64, amount: u64) {
        self.total += amount;
        *self.by_year.entry(year_of(now_s)).or_default() += amount;
    }

    /// Takes back what was held at that time and was not issued.
    pub(super) fn give_back(&mut self, taken_at_s: u64, amount: u64) {
        self.total -= amount;
        if let Some(year) = self.by_year.get_mut(&year_of(taken_at_s)) {
            *year -= amount;
        }
    }
}

fn year_of(at_s: u64) -> u64 {
    at_s / SECONDS_PER_YEAR
}
