//! A changed model: blocks of chain B that a manifest names from now on, and the engine over them.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use blyan_chain::uploads::{UploadError, UploadTerms, expected_tensor};
use blyan_chain::{Admission, ChainError};
use blyan_formats::bodies::Payload as _;
use blyan_formats::tensorblock::{TensorSpec, verify_stream};
use blyan_formats::{BlockHash, BlockType, ManifestBody, NodeKey, PayloadHash, TensorName};
use blyan_protocol::{
    BoxFuture, ErrorCode, ExpertFault, ModelDescription, ModelId, PayloadLocation, PublicError,
};
use blyan_security::SecurityHandle;
use blyan_security::audit::{Action, RecordOutcome};

use super::Seams;
use super::chain_a;
use super::port::Port;
use super::security::note;
use super::serving;
use crate::config::Config;
use crate::edge::{AdoptReply, AdoptRequest, AdoptionPort, Replaced};

/// When to come back where another adoption is under way.
const BUSY_RETRY_MS: u64 = 1000;

/// Adopts experts for the edge.
#[derive(Clone)]
pub struct Adopter {
    port: Arc<Port>,
    config: Arc<Config>,
    key: Arc<NodeKey>,
    security: SecurityHandle,
    seams: Seams,
}

/// An adoption that no rule forbids.
struct Change {
    before: ModelId,
    body: ManifestBody,
    replaced: Vec<Replaced>,
}

/// A block that may be adopted, if its payload is whole.
struct Candidate {
    block: BlockHash,
    payload: PayloadHash,
    location: PayloadLocation,
    expected: TensorSpec,
}

impl Adopter {
    /// Adopts for the node behind `port`.
    pub fn new(
        port: &Arc<Port>,
        config: &Config,
        key: &Arc<NodeKey>,
        security: &SecurityHandle,
        seams: &Seams,
    ) -> Self {
        Self {
            port: Arc::clone(port),
            config: Arc::new(config.clone()),
            key: Arc::clone(key),
            security: security.clone(),
            seams: seams.clone(),
        }
    }

    async fn carry_out(self, wanted: AdoptRequest, who: String) -> Result<AdoptReply, PublicError> {
        let _one = self.port.changing.try_lock().map_err(|_| busy())?;
        let change = self.plan(&wanted.blocks).await?;
        if change.replaced.is_empty() {
            return Ok(reply(change.before, change));
        }
        let subject = subject(&change.replaced);
        let written = |outcome, reason: String| {
            note(
                &self.security,
                &who,
                Action::Adopt,
                &subject,
                reason,
                outcome,
            )
        };
        written(RecordOutcome::Begun, wanted.reason).await?;
        let done = self.commit(&change).await;
        let noted = match &done {
            Ok(model) => written(RecordOutcome::Done, model.to_string()).await,
            Err(error) => written(RecordOutcome::Failed, error.message.clone()).await,
        };
        if let Err(why) = noted {
            tracing::error!(%why, "how an adoption ended is not in the audit log");
        }
        Ok(reply(done?, change))
    }

    /// Checks everything that can be checked before anything changes.
    async fn plan(&self, blocks: &[BlockHash]) -> Result<Change, PublicError> {
        let chain = &self.port.chain;
        let newest = chain.model(None).await?;
        let manifest = ManifestBody::from_payload(&chain.body(newest.id.0).await?);
        let mut body = manifest.map_err(|why| refused(why.to_string()))?;
        let mut chosen = BTreeMap::new();
        for &block in blocks {
            let (name, candidate) = self.candidate(block, &newest, body.architecture).await?;
            if chosen.insert(name, candidate).is_some() {
                return Err(invalid(format!("Two of the blocks are for {name}.")));
            }
        }
        if chosen.is_empty() {
            return Err(invalid("There is no block to adopt.".to_owned()));
        }
        let mut replaced = Vec::new();
        for (name, candidate) in chosen {
            let block = candidate.block;
            let before = body.entries.insert(name, block);
            if before == Some(block) {
                continue;
            }
            check_payload(name, candidate).await?;
            replaced.push(Replaced {
                name: name.to_string(),
                from: before.map(|hash| hash.to_string()).unwrap_or_default(),
                to: block.to_string(),
            });
        }
        Ok(Change {
            before: newest.id,
            body,
            replaced,
        })
    }

    async fn candidate(
        &self,
        block: BlockHash,
        newest: &ModelDescription,
        architecture: BlockHash,
    ) -> Result<(TensorName, Candidate), PublicError> {
        let stored = match self.port.chain.block(block).await {
            Err(ChainError::NoBlock(_)) => return Err(unknown(block)),
            stored => stored?,
        };
        let header = stored.block.header;
        let name = header
            .expert_name
            .filter(|_| header.block_type == BlockType::Expert);
        let name =
            name.ok_or_else(|| PublicError::from(UploadError::NotAnExpert(header.block_type)))?;
        let terms = UploadTerms {
            admission: Admission::Known,
            architecture,
            shape: newest.architecture.tensor_shape(&name),
        };
        let expected = expected_tensor(&header, &terms)?;
        let payload = header.payload_hash;
        let location = self.port.chain.locate_payload(payload).await?;
        let candidate = Candidate {
            block,
            payload,
            location,
            expected,
        };
        Ok((name, candidate))
    }

    /// The manifest first: what was answered once is answered by it after every restart.
    async fn commit(&self, change: &Change) -> Result<ModelId, PublicError> {
        let body = change.body.to_payload();
        let body = body.map_err(|why| refused(why.to_string()))?;
        let chain = &self.port.chain;
        let manifest = chain_a::append(chain, &self.key, BlockType::Manifest, body).await?;
        let model = ModelId(manifest);
        tracing::info!(%model, replaced = change.replaced.len(), "a model is adopted");
        let taken_over = self.take_over(model).await;
        self.port.note_behind(
            taken_over
                .as_ref()
                .err()
                .map(|why| (model, why.to_string())),
        );
        taken_over.map_err(|why| not_served(model, &why))?;
        Ok(model)
    }

    async fn take_over(&self, model: ModelId) -> anyhow::Result<()> {
        let chain = &self.port.chain;
        let description = chain.model(Some(model)).await?;
        let created_ms = chain.block(model.0).await?.block.header.timestamp_ms;
        let (config, port) = (&self.config, &self.port);
        Ok(serving::change(config, port, &self.seams, description, created_ms).await?)
    }
}

/// Reads every byte of the payload, away from the threads that answer.
async fn check_payload(name: TensorName, candidate: Candidate) -> Result<(), PublicError> {
    let checked = tokio::task::spawn_blocking(move || {
        let Candidate {
            payload,
            location,
            expected,
            ..
        } = candidate;
        let found = File::open(&location.path)
            .map_err(|why| why.to_string())
            .and_then(|mut file| {
                verify_stream(&mut file, location.len, payload).map_err(|why| why.to_string())
            });
        match found {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(refused(format!("it holds {found:?}, not {expected:?}"))),
            Err(why) => Err(damaged(name, payload, &why)),
        }
    });
    checked
        .await
        .map_err(|why| refused(format!("its check broke off: {why}")))?
}

fn reply(model: ModelId, change: Change) -> AdoptReply {
    AdoptReply {
        model_id: model.to_string(),
        model_id_before: change.before.to_string(),
        replaced: change.replaced,
    }
}

/// What the audit log says was adopted: as many blocks as its line has room for.
fn subject(replaced: &[Replaced]) -> String {
    let blocks: Vec<_> = replaced
        .iter()
        .map(|expert| format!("{}={}", expert.name, expert.to))
        .collect();
    blocks.join(" ")
}

fn busy() -> PublicError {
    PublicError::new(
        ErrorCode::Conflict,
        "Another adoption is being carried out.",
        "Try again when it has ended; look at /v1/models for what answers then.",
    )
    .retry_after_ms(BUSY_RETRY_MS)
}

fn invalid(sentence: String) -> PublicError {
    let hint = "Name each block by its hash, at most one for an expert.";
    PublicError::new(ErrorCode::InvalidRequest, sentence, hint)
}

fn unknown(block: BlockHash) -> PublicError {
    PublicError::new(
        ErrorCode::NotFound,
        format!("There is no block {block}."),
        "GET /experts/{name}/versions lists the blocks of an expert.",
    )
}

fn refused(why: String) -> PublicError {
    PublicError::new(
        ErrorCode::UploadRefused,
        format!("It cannot be part of the model: {why}."),
        "Adopt a block that was made for the architecture that is served.",
    )
}

fn damaged(name: TensorName, payload: PayloadHash, why: &str) -> PublicError {
    PublicError::new(
        ErrorCode::UploadRefused,
        format!("The payload of {name} is not what its block says: {why}."),
        "The operator has to restore its file; `blyan verify` names it.",
    )
    .about_expert(ExpertFault {
        name: name.to_string(),
        hash: payload.to_string(),
    })
}

fn not_served(model: ModelId, why: &anyhow::Error) -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        format!("Model {model} is committed, but it cannot answer: {why:#}."),
        "The node goes on with the model before; it tries this one at its next start. Adopt other blocks to go back.",
    )
}

impl AdoptionPort for Adopter {
    fn adopt(
        &self,
        request: AdoptRequest,
        who: String,
    ) -> BoxFuture<'_, Result<AdoptReply, PublicError>> {
        let adopter = self.clone();
        Box::pin(async move {
            // An admin who goes away does not stop this half way.
            let done = tokio::spawn(adopter.carry_out(request, who)).await;
            done.map_err(|why| refused(format!("the adoption broke off: {why}")))?
        })
    }
}
