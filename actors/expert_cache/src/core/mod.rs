//! The pure part: who stays resident under a bound of bytes, and which payloads are known to be corrupt.

mod ledger;
mod register;

pub use ledger::{Ledger, Refusal, Usage};
pub use register::{CorruptPayload, CorruptRegister};
