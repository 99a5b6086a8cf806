//! Experts that come in over the network, piece by piece, until they are blocks on chain B.
//!
//! An upload starts with the signed block: all that can be said of it is said before a byte of payload is taken. Its
//! pieces are appended to one file, synced before they are acknowledged; when the last is there the file is verified,
//! becomes a payload file, and the block is appended like any other. Until then nothing of it is visible on the chain.
//!
//! | on disk, below `uploads/` | what |
//! |---|---|
//! | `<id>.json` | the record: signed block, tensor, time; also of a stored upload, while it counts for its key's day |
//! | `<id>.part` | the bytes so far; its length is what was received |
//!
//! Nothing here waits for the chain or holds its store: the calls block on the disk and belong on a thread for that.

mod book;
mod config;
mod desk;
mod error;
mod files;
mod id;
mod terms;

pub use book::{Book, Entry};
pub use config::UploadsConfig;
pub use desk::{UploadStatus, Uploads};
pub use error::UploadError;
pub use id::UploadId;
pub use terms::{UploadTerms, check_form, expected_tensor};
