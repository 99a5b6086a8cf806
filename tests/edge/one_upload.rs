//! Uploads for tests of the edge: one, in memory.

use std::sync::Mutex;

use actix_web::web::Bytes;
use blyan::edge::{GrantReply, SignersReply, UploadPort, UploadReply, UploadState};
use blyan_chain::uploads::{UploadError, UploadId};
use blyan_formats::{BlockHash, NodeKey, PublicKey, SignedBlock};
use blyan_protocol::{BoxFuture, PublicError};

pub const CHUNK: usize = 4096;
pub const LENGTH: u64 = 10_000;

/// One upload in memory.
#[derive(Default)]
pub struct OneUpload {
    received: Mutex<Option<u64>>,
}

pub fn id() -> UploadId {
    UploadId::from_random([7; 16])
}

pub fn key() -> PublicKey {
    NodeKey::from_secret_bytes([1; 32]).unwrap().public_key()
}

fn reply(received: u64) -> UploadReply {
    UploadReply {
        upload: id().to_string(),
        block: BlockHash::from_bytes([5; 32]).to_string(),
        received,
        length: LENGTH,
        chunk_bytes_max: CHUNK,
        state: match received {
            LENGTH => UploadState::Stored,
            _ => UploadState::Open,
        },
    }
}

impl UploadPort for OneUpload {
    fn begin(&self, _: SignedBlock) -> BoxFuture<'_, Result<(UploadReply, bool), PublicError>> {
        let mut received = self.received.lock().unwrap();
        let new = received.is_none();
        let so_far = *received.get_or_insert(0);
        Box::pin(async move { Ok((reply(so_far), new)) })
    }

    fn status(&self, asked: UploadId) -> Result<UploadReply, PublicError> {
        let received = self.received.lock().unwrap().filter(|_| asked == id());
        Ok(reply(received.ok_or(UploadError::NotFound(asked))?))
    }

    fn write(
        &self,
        asked: UploadId,
        offset: u64,
        piece: Bytes,
    ) -> BoxFuture<'_, Result<UploadReply, PublicError>> {
        Box::pin(async move {
            let received = self.status(asked)?.received;
            if offset != received {
                return Err(UploadError::Offset { received, offset }.into());
            }
            let now = offset + piece.len() as u64;
            *self.received.lock().unwrap() = Some(now);
            Ok(reply(now))
        })
    }

    fn remove(&self, asked: UploadId) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(async move {
            self.status(asked)?;
            *self.received.lock().unwrap() = None;
            Ok(())
        })
    }

    fn signers(&self) -> BoxFuture<'_, Result<SignersReply, PublicError>> {
        let authorised = vec![key().to_string()];
        let granted = Vec::new();
        Box::pin(async move {
            Ok(SignersReply {
                authorised,
                granted,
            })
        })
    }

    fn grant(&self, key: PublicKey, _: String) -> BoxFuture<'_, Result<GrantReply, PublicError>> {
        let block = Some(BlockHash::from_bytes([9; 32]).to_string());
        let key = key.to_string();
        Box::pin(async move { Ok(GrantReply { key, block }) })
    }
}
