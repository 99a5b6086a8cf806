//! Uploads of experts, and the keys that may sign them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actix_web::web::Bytes;
use anyhow::{Context, Result};
use blyan_chain::uploads::{
    UploadError, UploadId, UploadStatus, Uploads, UploadsConfig, check_form, expected_tensor,
};
use blyan_chain::{
    Acceptance, Admission, ChainError, ChainHandle, Need, NewBlock, RealDisk, RocksStore, Signers,
    Store as _,
};
use blyan_formats::bodies::Payload as _;
use blyan_formats::{BlockHash, BlockType, KeyGrantBody, NodeKey, PublicKey, SignedBlock};
use blyan_protocol::{BoxFuture, ErrorCode, PublicError};
use blyan_security::audit::{Action, RecordOutcome};
use blyan_security::{Report, SecurityHandle};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio_util::sync::CancellationToken;

use super::chain_a;
use super::home::now_ms;
use super::security::note;
use crate::edge::{GrantReply, SignersReply, UploadPort, UploadReply, UploadState};

/// Between two looks for abandoned uploads.
const TIDY: Duration = Duration::from_secs(60);

/// Takes uploads for the edge.
#[derive(Clone)]
pub struct UploadDesk {
    chain: ChainHandle,
    /// For how full its disk is; it is the node's to close.
    store: Weak<RocksStore>,
    uploads: Arc<Uploads>,
    config: UploadsConfig,
    key: Arc<NodeKey>,
    security: SecurityHandle,
    /// One upload at a time becomes a block: of two with one payload the second finds it there.
    finishing: Arc<tokio::sync::Mutex<()>>,
}

impl UploadDesk {
    /// Finds the uploads that were open when the last process ended.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(
        store: &Arc<RocksStore>,
        config: &UploadsConfig,
        chain: ChainHandle,
        key: Arc<NodeKey>,
        security: SecurityHandle,
    ) -> Result<Self> {
        let layout = store.layout().clone();
        let uploads = Uploads::open(layout, Arc::new(RealDisk), config.clone(), now_ms())
            .context("the uploads cannot be read")?;
        Ok(Self {
            chain,
            store: Arc::downgrade(store),
            uploads: Arc::new(uploads),
            config: config.clone(),
            key,
            security,
            finishing: Arc::default(),
        })
    }

    /// Finishes what was whole when the last process ended, then removes what is abandoned, until the node stops.
    pub async fn keep_tidy(self, closing: CancellationToken) {
        for id in self.uploads.whole() {
            if let Err(error) = self.finish(id).await {
                tracing::warn!(%error, upload = ?id, "an upload that was whole is not stored");
            }
        }
        while closing
            .run_until_cancelled(tokio::time::sleep(TIDY))
            .await
            .is_some()
        {
            let removed = self.blocking(|uploads| Ok(uploads.expire(now_ms()))).await;
            if let Ok(removed @ 1..) = removed {
                tracing::info!(removed, "uploads that were abandoned or count no more");
            }
        }
    }

    /// Whether the disk takes more than it has to keep free.
    fn check_room(&self) -> Result<(), PublicError> {
        if let Some(store) = self.store.upgrade() {
            store.payloads().room().check(Need::Growth)?;
        }
        Ok(())
    }

    /// Work on the disk, away from threads that answer.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Uploads) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, PublicError> {
        let uploads = Arc::clone(&self.uploads);
        let done = tokio::task::spawn_blocking(move || work(&uploads)).await;
        let done = done.map_err(|error| lost(&error))?;
        done.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: UploadError) -> PublicError {
        error.count();
        error.into()
    }

    fn reply(&self, status: UploadStatus) -> UploadReply {
        UploadReply {
            upload: status.id.to_string(),
            block: status.block.to_string(),
            received: status.received,
            length: status.len,
            chunk_bytes_max: self.config.chunk_bytes_max,
            state: match status.stored {
                true => UploadState::Stored,
                false => UploadState::Open,
            },
        }
    }

    async fn begin_upload(&self, block: SignedBlock) -> Result<(UploadReply, bool), PublicError> {
        let (block, hash) = self
            .blocking(move |_| {
                check_form(&block)?;
                let hash = block.hash();
                Ok((block, hash))
            })
            .await?;
        let terms = self.chain.upload_terms(block.clone()).await;
        let terms = terms.map_err(|error| self.of_chain(error))?;
        let there = self.uploads.of_block(hash);
        if terms.admission == Admission::Known {
            return Ok((
                self.known(hash, block.header.payload_len, there).await,
                false,
            ));
        }
        if let Some(there) = there.filter(|upload| upload.stored) {
            // The chain was set back to a state before this block.
            self.blocking(move |uploads| uploads.remove(there.id))
                .await?;
        }
        self.check_room()?;
        let tensor = expected_tensor(&block.header, &terms).map_err(|error| self.refused(error))?;
        let id = new_id()?;
        let begun = self.blocking(move |uploads| uploads.begin(id, &block, &tensor, now_ms()));
        let (status, new) = begun.await?;
        Ok((self.reply(status), new))
    }

    /// What is told of a block that is on the chain.
    async fn known(&self, block: BlockHash, len: u64, there: Option<UploadStatus>) -> UploadReply {
        let noted = match there {
            Some(upload) if !upload.stored => self
                .blocking(move |uploads| uploads.stored(upload.id))
                .await
                .ok(),
            there => there,
        };
        let forgotten = || UploadReply::of_stored(block, len, self.config.chunk_bytes_max);
        noted.map_or_else(forgotten, |status| self.reply(status))
    }

    async fn write_piece(
        &self,
        id: UploadId,
        offset: u64,
        piece: Bytes,
    ) -> Result<UploadReply, PublicError> {
        self.check_room()?;
        let write = move |uploads: &Uploads| uploads.write(id, offset, &piece, now_ms());
        let status = self.blocking(write).await?;
        if status.stored || status.received < status.len {
            return Ok(self.reply(status));
        }
        // A client that goes away does not stop this half way.
        let desk = self.clone();
        let finished = tokio::spawn(async move { desk.finish(id).await }).await;
        finished.map_err(|error| lost(&error))?
    }

    /// Makes a whole upload a block.
    async fn finish(&self, id: UploadId) -> Result<UploadReply, PublicError> {
        let _one = self.finishing.lock().await;
        let status = self
            .uploads
            .status(id)
            .map_err(|error| self.refused(error))?;
        if status.stored {
            return Ok(self.reply(status));
        }
        let uploads = Arc::clone(&self.uploads);
        let published = tokio::task::spawn_blocking(move || uploads.publish(id)).await;
        let block = published
            .map_err(|error| lost(&error))?
            .map_err(|error| self.unlike(error, id))?;
        let signer = block.header.miner_pub;
        if let Err(error) = self.append(NewBlock { block, body: None }).await {
            if let ChainError::Refused { .. } = error {
                self.blocking(move |uploads| uploads.remove(id)).await?;
            }
            return Err(self.of_chain(error));
        }
        tracing::info!(block = %status.block, %signer, "an uploaded expert is stored");
        match self.blocking(move |uploads| uploads.stored(id)).await {
            Ok(status) => Ok(self.reply(status)),
            Err(error) => {
                tracing::warn!(%error, "the block is on the chain; its upload is noted at the next start");
                let status = UploadStatus {
                    stored: true,
                    ..status
                };
                Ok(self.reply(status))
            }
        }
    }

    /// Bytes that are not what was signed are reported, like any upload that is no contribution (SEC-21).
    fn unlike(&self, error: UploadError, id: UploadId) -> PublicError {
        if matches!(error, UploadError::Payload(_) | UploadError::Tensor { .. }) {
            let report = Report::UnusualUpload {
                who: format!("upload {id:?}"),
                what: error.to_string(),
            };
            if let Err(why) = self.security.report(report) {
                tracing::warn!(%why, "a refused upload is not in the audit log");
            }
        }
        self.refused(error)
    }

    async fn append(&self, block: NewBlock) -> Result<(), ChainError> {
        let acceptance = Acceptance {
            by: self.key.public_key(),
            at_ms: now_ms(),
        };
        self.chain.append(vec![block], acceptance).await.map(drop)
    }

    fn of_chain(&self, error: ChainError) -> PublicError {
        match error {
            ChainError::Refused { refusal, .. } => self.refused(UploadError::Refused(refusal)),
            error => error.into(),
        }
    }

    async fn grant_key(&self, key: PublicKey, who: &str) -> Result<GrantReply, PublicError> {
        let is_granted = async || Ok::<_, ChainError>(granted(&self.chain.signers().await?, &key));
        if let Some(granted) = is_granted().await? {
            return Ok(granted);
        }
        let subject = key.to_string();
        let written = |outcome, reason| {
            note(
                &self.security,
                who,
                Action::Grant,
                &subject,
                reason,
                outcome,
            )
        };
        written(RecordOutcome::Begun, String::new()).await?;
        let body = KeyGrantBody::new([key]).to_payload();
        let body = body.map_err(|error| ChainError::Malformed(error.to_string()))?;
        let appended = chain_a::append(&self.chain, &self.key, BlockType::KeyGrant, body).await;
        // Another admin may have granted the same key meanwhile.
        match (is_granted().await?, appended) {
            (Some(granted), _) => {
                tracing::info!(%key, who, "a key may sign experts");
                written(RecordOutcome::Done, String::new()).await?;
                Ok(granted)
            }
            (None, Err(error)) => {
                written(RecordOutcome::Failed, error.to_string()).await?;
                Err(self.of_chain(error))
            }
            (None, Ok(block)) => Err(lost(&format!("block {block} grants nothing"))),
        }
    }
}

fn granted(signers: &Signers, key: &PublicKey) -> Option<GrantReply> {
    let by_genesis = signers.authorised.contains(key).then_some(None);
    let by_grant = || signers.granted.get(key).map(Some);
    let block = by_genesis.or_else(by_grant)?;
    Some(GrantReply {
        key: key.to_string(),
        block: block.map(|block| block.to_string()),
    })
}

fn new_id() -> Result<UploadId, PublicError> {
    let mut bytes = [0; 16];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| lost(&error))?;
    Ok(UploadId::from_random(bytes))
}

fn lost(error: &dyn std::fmt::Display) -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        format!("The node failed on this upload: {error}."),
        "Ask with GET how far the upload is, and go on from there.",
    )
}

impl UploadPort for UploadDesk {
    fn begin(&self, block: SignedBlock) -> BoxFuture<'_, Result<(UploadReply, bool), PublicError>> {
        Box::pin(self.begin_upload(block))
    }

    fn status(&self, id: UploadId) -> Result<UploadReply, PublicError> {
        let status = self
            .uploads
            .status(id)
            .map_err(|error| self.refused(error))?;
        Ok(self.reply(status))
    }

    fn write(
        &self,
        id: UploadId,
        offset: u64,
        piece: Bytes,
    ) -> BoxFuture<'_, Result<UploadReply, PublicError>> {
        Box::pin(self.write_piece(id, offset, piece))
    }

    fn remove(&self, id: UploadId) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(self.blocking(move |uploads| uploads.remove(id)))
    }

    fn signers(&self) -> BoxFuture<'_, Result<SignersReply, PublicError>> {
        Box::pin(async move {
            let signers = self.chain.signers().await?;
            let granted = signers.granted.iter().map(|(key, block)| GrantReply {
                key: key.to_string(),
                block: Some(block.to_string()),
            });
            Ok(SignersReply {
                authorised: signers
                    .authorised
                    .iter()
                    .map(PublicKey::to_string)
                    .collect(),
                granted: granted.collect(),
            })
        })
    }

    fn grant(&self, key: PublicKey, who: String) -> BoxFuture<'_, Result<GrantReply, PublicError>> {
        Box::pin(async move { self.grant_key(key, &who).await })
    }
}
