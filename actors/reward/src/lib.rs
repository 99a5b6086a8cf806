#![doc = include_str!("../README.md")]

mod core;
mod error;

pub use crate::core::{
    Account, Balance, Ledger, Limits, Operation, Receipt, SECONDS_PER_YEAR, Transfer, TransferId,
    WalletAddress,
};
pub use error::Refusal;
