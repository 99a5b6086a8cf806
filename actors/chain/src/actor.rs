use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, WrapFuture};
use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use blyan_formats::{BlockHash, ChainId, ContentHash, PayloadHash, SignedBlock};
use blyan_protocol::{ModelDescription, ModelId, PayloadLocation, Receipt, RequestId};
use blyan_supervisors::{CallError, ChildSpec, ExitHandle, ExitReason, Probe, StartContext};
use tokio::sync::oneshot;

use crate::checked::CheckedBlock;
use crate::core::{BlockQuery, Head, Lineage, Signers, Version};
use crate::reader::StoredBlock;
use crate::store::{ReceiptCursor, Store};
use crate::uploads::UploadTerms;
use crate::writer::{Acceptance, Appended, ChainWriter};
use crate::{ChainConfig, ChainError, check_network};

/// Where tests put faults in.
const PROBE_POINT: &str = "chain";

/// How long a restart may take: the index is rebuilt from the store.
const START_LIMIT: Duration = Duration::from_secs(60);

type Reply<T> = Result<T, ChainError>;

/// Appends blocks in order, all or none; see [`ChainWriter::append`].
#[derive(Message)]
#[rtype(result = "Reply<Vec<Appended>>")]
pub(crate) struct AppendBlocks(pub Vec<CheckedBlock>, pub Acceptance);

#[derive(Message)]
#[rtype(result = "Reply<Option<Head>>")]
pub(crate) struct GetHead(pub ChainId);

#[derive(Message)]
#[rtype(result = "Reply<Option<BlockHash>>")]
pub(crate) struct GetGenesis;

#[derive(Message)]
#[rtype(result = "Reply<StoredBlock>")]
pub(crate) struct GetBlock(pub BlockHash);

#[derive(Message)]
#[rtype(result = "Reply<Vec<u8>>")]
pub(crate) struct GetBody(pub BlockHash);

#[derive(Message)]
#[rtype(result = "Reply<Vec<Version>>")]
pub(crate) struct FindBlocks(pub BlockQuery, pub usize);

#[derive(Message)]
#[rtype(result = "Reply<Lineage>")]
pub(crate) struct GetLineage(pub BlockHash, pub usize);

#[derive(Message)]
#[rtype(result = "Reply<ModelDescription>")]
pub(crate) struct GetModel(pub Option<ModelId>);

#[derive(Message)]
#[rtype(result = "Reply<Vec<ModelId>>")]
pub(crate) struct ListModels;

#[derive(Message)]
#[rtype(result = "Reply<PayloadLocation>")]
pub(crate) struct LocatePayload(pub PayloadHash);

#[derive(Message)]
#[rtype(result = "Reply<()>")]
pub(crate) struct RememberFp32(pub PayloadHash, pub ContentHash);

#[derive(Message)]
#[rtype(result = "Reply<()>")]
pub(crate) struct RecordReceipts(pub Vec<Receipt>);

#[derive(Message)]
#[rtype(result = "Reply<Option<Receipt>>")]
pub(crate) struct GetReceipt(pub RequestId);

#[derive(Message)]
#[rtype(result = "Reply<Vec<Receipt>>")]
pub(crate) struct ListReceipts(pub Option<ReceiptCursor>, pub usize);

#[derive(Message)]
#[rtype(result = "Reply<UploadTerms>")]
pub(crate) struct GetUploadTerms(pub SignedBlock);

#[derive(Message)]
#[rtype(result = "Reply<Signers>")]
pub(crate) struct GetSigners;

#[derive(Message)]
#[rtype(result = "Reply<()>")]
pub(crate) struct Ping;

/// Receipts of one message that wait for the next synced batch, and who waits for them.
struct Waiting {
    receipts: Vec<Receipt>,
    done: oneshot::Sender<Reply<()>>,
}

/// Owns the chain. Each generation rebuilds its index from the store and fences the one before out.
pub struct ChainActor<S: Store> {
    chain: ChainWriter<S>,
    probe: Arc<dyn Probe>,
    exit: ExitHandle,
    waiting: Vec<Waiting>,
}

impl<S: Store> ChainActor<S> {
    /// A permanent child on a thread of its own, over a store that the wiring keeps open.
    pub fn spec(id: impl Into<String>, store: Arc<S>, config: &ChainConfig) -> ChildSpec<Self> {
        let mailbox_len_max = config.mailbox_len_max;
        let config = config.clone();
        ChildSpec::new(id, move |start| {
            Self::recover(&start, &store, &config).map_err(ExitReason::from)
        })
        .mailbox_len_max(mailbox_len_max)
        .start_limit(START_LIMIT)
    }

    fn recover(
        start: &StartContext,
        store: &Arc<S>,
        config: &ChainConfig,
    ) -> Result<Self, ChainError> {
        let chain = ChainWriter::open(Arc::clone(store))?;
        check_network(chain.index().genesis(), config)?;
        tracing::info!(blocks = chain.index().len(), generation = ?start.generation(), "the chain is open");
        Ok(Self {
            chain,
            probe: Arc::clone(start.probe()),
            exit: start.exit_handle(),
            waiting: Vec::new(),
        })
    }

    /// Answers, and ends this generation if the error says that its own state or store is doubtful.
    fn heed<T>(&self, reply: Reply<T>) -> Reply<T> {
        if let Some(reason) = reply.as_ref().err().and_then(ChainError::exit_reason) {
            self.exit.exit(reason);
        }
        reply
    }

    /// Writes all receipts that came in since the last batch as one.
    fn flush_receipts(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let receipts: Vec<_> = waiting
            .iter()
            .flat_map(|waiting| waiting.receipts.iter().cloned())
            .collect();
        let written = self.heed(self.chain.record_receipts(&receipts).map(|_| ()));
        for waiting in waiting {
            // Whoever waited may have gone; the receipt is durable all the same.
            let _ = waiting.done.send(written.clone());
        }
    }
}

impl<S: Store> Actor for ChainActor<S> {
    type Context = Context<Self>;
}

/// Answers `$message` by `$answer` of the chain.
macro_rules! answer {
    ($message:pat => $type:ty, $reply:ty, |$chain:ident| $answer:expr) => {
        impl<S: Store> Handler<$type> for ChainActor<S> {
            type Result = Reply<$reply>;

            fn handle(&mut self, $message: $type, _: &mut Context<Self>) -> Self::Result {
                self.probe.hit(PROBE_POINT);
                let $chain = &mut self.chain;
                let reply = $answer;
                self.heed(reply)
            }
        }
    };
}

answer!(AppendBlocks(blocks, acceptance) => AppendBlocks, Vec<Appended>, |chain| chain.append(&blocks, acceptance));
answer!(GetHead(of) => GetHead, Option<Head>, |chain| Ok(chain.head(of)));
answer!(GetGenesis => GetGenesis, Option<BlockHash>, |chain| Ok(chain.index().genesis()));
answer!(GetBlock(hash) => GetBlock, StoredBlock, |chain| chain.block(hash));
answer!(GetBody(hash) => GetBody, Vec<u8>, |chain| chain.body(hash));
answer!(FindBlocks(query, count_max) => FindBlocks, Vec<Version>, |chain| Ok(chain.find(&query, count_max)));
answer!(GetLineage(hash, count_max) => GetLineage, Lineage, |chain| chain.lineage(hash, count_max));
answer!(GetModel(id) => GetModel, ModelDescription, |chain| chain.model(id));
answer!(ListModels => ListModels, Vec<ModelId>, |chain| Ok(chain.models()));
answer!(LocatePayload(payload) => LocatePayload, PayloadLocation, |chain| chain.locate(payload));
answer!(RememberFp32(payload, sha256) => RememberFp32, (), |chain| chain.remember_fp32(payload, sha256));
answer!(GetReceipt(request) => GetReceipt, Option<Receipt>, |chain| chain.receipt(&request));
answer!(ListReceipts(after, count_max) => ListReceipts, Vec<Receipt>, |chain| chain.receipts(after, count_max));
answer!(GetUploadTerms(block) => GetUploadTerms, UploadTerms, |chain| chain.upload_terms(&block));
answer!(GetSigners => GetSigners, Signers, |chain| Ok(chain.index().signers()));
answer!(Ping => Ping, (), |_chain| Ok(()));

impl<S: Store> Handler<RecordReceipts> for ChainActor<S> {
    type Result = ResponseFuture<Reply<()>>;

    /// The batch is written once all messages that wait now have been taken: one sync serves them all.
    fn handle(
        &mut self,
        RecordReceipts(receipts): RecordReceipts,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        self.probe.hit(PROBE_POINT);
        let (done, written) = oneshot::channel();
        if self.waiting.is_empty() {
            let taken = std::future::ready(()).into_actor(self);
            ctx.spawn(taken.map(|(), actor, _| actor.flush_receipts()));
        }
        self.waiting.push(Waiting { receipts, done });
        Box::pin(async move {
            written
                .await
                .unwrap_or(Err(ChainError::Call(CallError::Lost)))
        })
    }
}
