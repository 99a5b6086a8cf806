//! Receipts become credits, and what is due is paid out every hour.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use blyan_chain::{ChainError, ChainHandle, Need, ReceiptCursor, RocksStore, Store as _};
use blyan_formats::PublicKey;
use blyan_protocol::{BoxFuture, ErrorCode, ModelId, PublicError, Receipt, RequestId};
use blyan_reward::{
    Account, Credited, Earner, ExpertUse, LedgerError, LedgerHandle, Limits, Payouts, RewardActor,
    Supply, Use, WalletAddress,
};
use blyan_supervisors::{CallError, ChildSpec};
use tokio::sync::Mutex;

use super::port::Port;
use crate::config::{Config, PricingConfig};
use crate::edge::EconomyPort;

/// The ledger's folder within the data directory.
const FOLDER: &str = "ledger";
/// Messages that may wait for the ledger: an entry is made of all of them.
const MAILBOX_LEN_MAX: usize = 1024;
/// How long an answer of the ledger may take: a sync of a slow disk.
const REPLY: Duration = Duration::from_secs(10);
/// Between two looks for new receipts.
const LOOK: Duration = Duration::from_secs(1);
/// Receipts are ordered by the end of their requests and may be recorded later than that: each look goes so far back. Those that
/// are later still are found by the next look at all of them.
const LATE_MS: u64 = 5_000;
/// Between two looks at all receipts, and between two distributions (REWARD-05).
const HOUR: Duration = Duration::from_secs(3_600);
/// Receipts that are credited at a time.
const PAGE: usize = 256;
/// When to come back while the ledger is down.
const RETRY_MS: u64 = 1_000;

/// The ledger's child, with the handle that outlives its restarts.
pub fn child(config: &Config) -> (ChildSpec<RewardActor>, LedgerHandle) {
    let dir = config.node.data_dir().join(FOLDER);
    let spec = RewardActor::spec("reward", dir, Limits::default(), MAILBOX_LEN_MAX)
        .window(config.supervision.child_window())
        .backoff(config.supervision.backoff());
    let handle = LedgerHandle::new(spec.child_ref(), REPLY);
    (spec, handle)
}

/// Ethereum's address of a key.
pub fn address_of(key: &PublicKey) -> WalletAddress {
    WalletAddress::of_point(&key.to_uncompressed())
}

/// Pays for receipts.
#[derive(Clone)]
pub struct Rewards {
    chain: ChainHandle,
    /// Says whether there is room.
    store: Arc<RocksStore>,
    ledger: LedgerHandle,
    prices: PricingConfig,
    node: WalletAddress,
    /// One at a time.
    crediting: Arc<Mutex<Known>>,
}

/// What need not be asked again.
#[derive(Default)]
struct Known {
    miners: Miners,
    /// Requests whose receipts were credited, or have to wait for the next look at all, since the last one.
    credited: HashSet<RequestId>,
}

/// Who signed the experts of a model, by the experts' names.
type Miners = HashMap<ModelId, Arc<HashMap<String, WalletAddress>>>;

impl Rewards {
    /// For the node with this key.
    pub fn new(config: &Config, port: &Port, ledger: LedgerHandle, node: &PublicKey) -> Self {
        Self {
            chain: port.chain.clone(),
            store: Arc::clone(&port.store),
            ledger,
            prices: config.pricing,
            node: address_of(node),
            crediting: Arc::default(),
        }
    }

    /// Credits receipts as they come, for ever: all of them at the start and every hour, new ones each second.
    pub async fn keep_crediting(self) {
        loop {
            let mut from = None;
            let until = tokio::time::Instant::now() + HOUR;
            while tokio::time::Instant::now() < until {
                match self.credit(from).await {
                    Ok((_, Some(last))) => from = Some(before(last)),
                    Ok((_, None)) => {}
                    Err(error) => tracing::warn!(%error, "receipts wait to be credited"),
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Pays out what is due, every hour.
    pub async fn keep_distributing(self) {
        loop {
            tokio::time::sleep(HOUR).await;
            match self.pay_out().await {
                Ok(payouts) => tracing::info!(
                    payouts = payouts.transfers.len(),
                    paid = payouts.paid,
                    "rewards were distributed"
                ),
                Err(error) => tracing::warn!(%error, "no reward was distributed"),
            }
        }
    }

    /// Credits the receipts after this one; each is credited once, however often it is read. Returns the last
    /// that it saw.
    async fn credit(
        &self,
        mut after: Option<ReceiptCursor>,
    ) -> Result<(Credited, Option<ReceiptCursor>), PublicError> {
        let mut known = self.crediting.lock().await;
        if after.is_none() {
            known.credited.clear();
        }
        let (mut sum, mut seen) = (Credited::default(), None);
        loop {
            let receipts = self.chain.receipts(after, PAGE).await?;
            let Some(last) = receipts.last() else {
                return Ok((sum, seen));
            };
            seen = Some(ReceiptCursor::of(last));
            after = seen;
            let is_new = |receipt: &&Receipt| {
                receipt.tokens_out > 0 && !known.credited.contains(&receipt.request_id)
            };
            let receipts: Vec<_> = receipts.iter().filter(is_new).collect();
            if !receipts.is_empty() {
                sum += self.credit_page(&mut known, &receipts).await?;
            }
        }
    }

    async fn credit_page(
        &self,
        known: &mut Known,
        receipts: &[&Receipt],
    ) -> Result<Credited, PublicError> {
        self.check_room()?;
        let mut uses = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            let miners = self.miners(&mut known.miners, receipt.model_id).await?;
            uses.push(self.use_of(receipt, &miners));
        }
        let credited = self.ledger.credit(uses).await.map_err(public)?;
        if credited.postponed > 0 {
            tracing::warn!(
                receipts = credited.postponed,
                "the year's issue limit holds receipts back"
            );
        }
        let requests = receipts.iter().map(|receipt| receipt.request_id);
        known.credited.extend(requests);
        Ok(credited)
    }

    /// A full disk is met before the ledger meets it, which would end its actor.
    fn check_room(&self) -> Result<(), ChainError> {
        self.store.payloads().room().check(Need::Receipts)
    }

    async fn pay_out(&self) -> Result<Payouts, PublicError> {
        self.check_room()?;
        self.ledger.distribute().await.map_err(public)
    }

    fn use_of(&self, receipt: &Receipt, miners: &HashMap<String, WalletAddress>) -> Use {
        let (read, generated) = (receipt.tokens_in.into(), receipt.tokens_out.into());
        let amount = self.prices.cost(read, generated).0;
        // An expert that the chain no longer knows has nobody to be paid: its part is the node's.
        let experts = receipt.experts.iter().filter_map(|(name, tokens)| {
            Some(ExpertUse {
                name: name.clone(),
                miner: *miners.get(name)?,
                tokens: *tokens,
            })
        });
        Use {
            request: *receipt.request_id.as_bytes(),
            amount: u64::try_from(amount).unwrap_or(u64::MAX),
            tokens: read + generated,
            ended_s: receipt.ended_ms / 1000,
            response_ms: receipt.ended_ms.saturating_sub(receipt.admitted_ms),
            node: self.node,
            experts: experts.collect(),
        }
    }

    /// Looked up once for each model. A model that a rollback took away has none.
    async fn miners(
        &self,
        known: &mut Miners,
        model: ModelId,
    ) -> Result<Arc<HashMap<String, WalletAddress>>, PublicError> {
        if let Some(found) = known.get(&model) {
            return Ok(Arc::clone(found));
        }
        let described = match self.chain.model(Some(model)).await {
            Err(ChainError::NoModel(_)) => return Ok(Arc::default()),
            described => described?,
        };
        let mut miners = HashMap::new();
        for (name, entry) in &described.entries {
            if name.expert().is_some() {
                let signer = self.chain.block(entry.block).await?.block.header.miner_pub;
                miners.insert(name.to_string(), address_of(&signer));
            }
        }
        let miners = Arc::new(miners);
        known.insert(model, Arc::clone(&miners));
        Ok(miners)
    }
}

/// So far back that a receipt which is recorded a little late is found.
fn before(last: ReceiptCursor) -> ReceiptCursor {
    ReceiptCursor {
        ended_ms: last.ended_ms.saturating_sub(LATE_MS),
        request_id: RequestId::from_random([0; 16]),
    }
}

impl EconomyPort for Rewards {
    fn supply(&self) -> BoxFuture<'_, Result<Supply, PublicError>> {
        Box::pin(async { self.ledger.supply().await.map_err(public) })
    }

    fn earners(&self) -> BoxFuture<'_, Result<Vec<Earner>, PublicError>> {
        Box::pin(async { self.ledger.earners().await.map_err(public) })
    }

    fn balance(&self, of: WalletAddress) -> BoxFuture<'_, Result<u128, PublicError>> {
        Box::pin(async move {
            let sums = self.ledger.balance(Account::Wallet(of)).await;
            Ok(sums.map_err(public)?.available())
        })
    }

    fn distribute(&self) -> BoxFuture<'_, Result<(Credited, Payouts), PublicError>> {
        Box::pin(async {
            let (credited, _) = self.credit(None).await?;
            Ok((credited, self.pay_out().await?))
        })
    }

    fn earned_by_expert(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, PublicError>> {
        Box::pin(async {
            let experts = self.ledger.experts().await.map_err(public)?;
            let earned = experts.into_iter();
            Ok(earned
                .map(|(name, standing)| (name, standing.earned))
                .collect())
        })
    }
}

fn public(error: LedgerError) -> PublicError {
    let code = match &error {
        LedgerError::Call(CallError::Quarantined { .. }) => ErrorCode::Quarantined,
        LedgerError::Call(CallError::Full { .. }) => ErrorCode::Overloaded,
        LedgerError::Call(CallError::Timeout) => ErrorCode::Timeout,
        _ => ErrorCode::Unavailable,
    };
    let hint = "Ask again; what was earned is not lost, and nothing is paid twice.";
    PublicError::new(code, format!("The ledger: {error}."), hint).retry_after_ms(RETRY_MS)
}
