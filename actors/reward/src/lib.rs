#![doc = include_str!("../README.md")]

mod actor;
mod core;
mod error;
mod handle;
mod metrics;
mod store;

pub use crate::actor::RewardActor;
pub use crate::core::{
    Account, Balance, Ledger, Limits, Operation, Receipt, SECONDS_PER_YEAR, Transfer, TransferId,
    WalletAddress,
};
pub use error::{LedgerError, Refusal};
pub use handle::{LedgerHandle, Supply};
pub use metrics::describe_metrics;
pub use store::LedgerStore;
