//! Where the chain lies: a key-value store with atomic synced batches, and the payload files beside it.

mod disk;
mod layout;
pub(crate) mod leftovers;
mod payloads;
mod records;
mod rocks;
mod room;

pub use disk::{Disk, RealDisk};
pub use layout::DataDir;
pub use payloads::{PayloadDir, PayloadWriter, TempPayloads};
pub use records::{ReceiptCursor, Records, read_blocks};
pub(crate) use records::{block_hash, index_key};
pub(crate) use rocks::take_lock;
pub use rocks::{RocksStore, WRITE_WAIT_MAX};
pub use room::{Need, Room};

use std::ops::ControlFlow;

use crate::ChainError;

/// The column families. Keys are binary; integers in them are big-endian, so that their order is the numeric one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Block hash (32 bytes) to the canonical JSON of the signed block.
    Headers,
    /// Block hash to the canonical JSON of its commit record.
    Commits,
    /// Chain letter (1 byte), index (8), block hash (32) to nothing.
    ByIndex,
    /// Payload hash (32) to the bytes of a JSON payload.
    Bodies,
    /// Request id (16) to the receipt's JSON.
    Receipts,
    /// End of the request in ms (8), request id (16) to nothing.
    ReceiptsByTime,
    /// Payload hash (32) to the SHA-256 (32) of its fp32 derivation.
    Fp32,
    /// Text to text: the layout's version.
    Meta,
}

impl Family {
    /// Every family, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Headers,
        Self::Commits,
        Self::ByIndex,
        Self::Bodies,
        Self::Receipts,
        Self::ReceiptsByTime,
        Self::Fp32,
        Self::Meta,
    ];

    /// The name of the column family on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Commits => "commits",
            Self::ByIndex => "by_index",
            Self::Bodies => "bodies",
            Self::Receipts => "receipts",
            Self::ReceiptsByTime => "receipts_by_time",
            Self::Fp32 => "fp32",
            Self::Meta => "meta",
        }
    }

    /// Whether a record of this family makes a block visible.
    pub(crate) const fn publishes(self) -> bool {
        matches!(self, Self::Headers | Self::Commits | Self::ByIndex)
    }
}

/// One record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub family: Family,
    /// The key.
    pub key: Vec<u8>,
    /// What replaces whatever is there.
    pub value: Vec<u8>,
}

/// Records that become durable and visible together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    puts: Vec<Put>,
}

impl Batch {
    /// Adds one record.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.puts.push(Put {
            family,
            key: key.into(),
            value: value.into(),
        });
    }

    /// The records, in the order in which they were added.
    pub fn puts(&self) -> &[Put] {
        &self.puts
    }

    /// Whether it makes a block visible.
    pub fn publishes(&self) -> bool {
        self.puts.iter().any(|put| put.family.publishes())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }
}

/// The right of one generation of the writer to write. A newer generation takes it away (CHAIN-I5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteToken(u64);

impl WriteToken {
    /// The token of the generation `number`; stores give them out, see [`Store::begin_generation`].
    pub const fn of_generation(number: u64) -> Self {
        Self(number)
    }

    /// The generation's number, from 1.
    pub const fn generation(self) -> u64 {
        self.0
    }
}

/// Told of each record of a scan, key and value; may break it off.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// What the chain needs of a store. [`RocksStore`] is the real one; tests pass doubles that tear and fail.
pub trait Store: Send + Sync + 'static {
    /// One value.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] if the store itself fails its checksums, [`ChainError::Io`] if it cannot be read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ChainError>;

    /// Visits the records of a family in key order, from the first key that is not below `from`.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn scan(&self, family: Family, from: &[u8], visit: Visit<'_>) -> Result<(), ChainError>;

    /// Writes a batch and returns once it is durable. Names of payload files are made durable before a batch that
    /// publishes a block.
    ///
    /// # Errors
    /// [`ChainError::Fenced`] for a token of an older generation; [`ChainError::Busy`] if an older write does not
    /// end; [`ChainError::DiskFull`] before anything is written; [`ChainError::NotDurable`] if the write or its sync failed: the store then refuses every further write.
    fn write(&self, token: WriteToken, batch: &Batch) -> Result<(), ChainError>;

    /// Starts the next generation of the writer. From here on every older token is refused.
    ///
    /// # Errors
    /// [`ChainError::Busy`] while a write of the generation before has not ended, [`ChainError::NotDurable`] once
    /// a write has failed, [`ChainError::ReadOnly`] on a store that was opened for reading.
    fn begin_generation(&self) -> Result<WriteToken, ChainError>;

    /// The payload files.
    fn payloads(&self) -> &PayloadDir;
}
