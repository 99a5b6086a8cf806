#![doc = include_str!("../README.md")]

mod actor;
mod books;
mod core;
mod earnings;
mod error;
mod handle;
mod metrics;
mod store;

pub use crate::actor::RewardActor;
pub use crate::core::{
    Account, Balance, Ledger, Limits, NotAnAddress, Operation, Receipt, SECONDS_PER_YEAR, Transfer,
    TransferId, WalletAddress,
};
pub use books::{Books, Credited, Totals};
pub use earnings::{
    Budget, ExpertUse, PAYOUT_MIN, PAYOUTS_PER_DAY_MAX, Payouts, Shares, Standing, Use,
    plan_payouts, split,
};
pub use error::{LedgerError, Refusal};
pub use handle::{Earner, LedgerHandle, Supply};
pub use metrics::describe_metrics;
pub use store::LedgerStore;
