mod address;
mod balance;
mod issuance;
mod ledger;
mod transfer;

pub use address::{NotAnAddress, WalletAddress};
pub use balance::Balance;
pub use issuance::{Limits, SECONDS_PER_YEAR};
pub use ledger::Ledger;
pub use transfer::{Account, Operation, Receipt, Transfer, TransferId};
