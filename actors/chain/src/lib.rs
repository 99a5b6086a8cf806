#![doc = include_str!("../README.md")]

mod actor;
mod checked;
pub mod compose;
mod config;
mod core;
mod error;
mod export;
mod genesis;
mod handle;
mod metrics;
mod reader;
pub mod scrub;
pub mod snapshot;
mod store;
pub mod uploads;
mod verify;
mod writer;

pub use actor::ChainActor;
pub use checked::{CheckedBlock, check_signatures};
pub use config::ChainConfig;
pub use core::{
    Added, Admission, BLOCKS_MAX, BlockMeta, BlockQuery, ChainIndex, Draft, Evidence, Head,
    Lineage, ParamIndex, Payload, Refusal, Signers, Version,
};
pub use error::{ChainError, Genesis};
pub use export::{ExportReport, export};
pub use genesis::{check_network, open_or_create};
pub use handle::ChainHandle;
pub use metrics::describe_metrics;
pub use reader::{ChainReader, RECEIPTS_MAX, StoredBlock};
pub use store::{
    Batch, DataDir, Disk, Family, Need, PayloadDir, PayloadWriter, Put, RealDisk, ReceiptCursor,
    Records, RocksStore, Room, Store, TempPayloads, Visit, WRITE_WAIT_MAX, WriteToken, read_blocks,
};
pub use verify::{Fault, Progress, VerifyOptions, VerifyReport, verify};
pub use writer::{Acceptance, Appended, ChainWriter, NewBlock};
