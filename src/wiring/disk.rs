//! What a running node does about its disk: says when it is full, and reads its payloads again in search of rot.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_chain::scrub::{self, Finding, Repair, ScrubOptions, ScrubReport};
use blyan_chain::{ChainConfig, ChainError, Need, RocksStore, Store as _};
use blyan_expert_cache::CacheError;
use blyan_formats::PayloadHash;
use blyan_security::{Decision, Order, Report, SecurityHandle};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::engine::PAYLOAD;
use super::home::now_ms;
use super::port::Port;
use super::security::{CORRUPT_LOOK, tell};

/// Between two looks at how full the disk is. Each write looks for itself; this one is for the log.
const ROOM_LOOK: Duration = Duration::from_secs(2);
/// Before a pass that failed is gone on with.
const RETRY: Duration = Duration::from_secs(60);
/// The longest that a pass takes to hear that the node stops.
const STOP_LOOK: Duration = Duration::from_millis(100);
/// How often a map of a repaired file is asked to go, which a step may hold.
const EVICTIONS: u32 = 5;
/// Who the audit log says brought a repaired payload back.
const SCRUBBER: &str = "scrubber";

/// Says when the disk becomes full and when there is room again, until the node stops.
pub async fn watch_room(store: Arc<RocksStore>, closing: CancellationToken) {
    let mut full = false;
    loop {
        let room = store.payloads().room().check(Need::Growth);
        match (&room, full) {
            (Err(why), false) => tracing::error!(%why, "the node reads only"),
            (Ok(()), true) => tracing::info!("there is room on the disk: the node writes again"),
            _ => {}
        }
        full = room.is_err();
        let pause = tokio::time::sleep(ROOM_LOOK);
        if closing.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// The scrubber of a running node.
pub struct Scrubbing {
    /// Whose payloads.
    pub store: Arc<RocksStore>,
    /// Whose cache maps them.
    pub port: Arc<Port>,
    /// Told of damage.
    pub security: SecurityHandle,
    /// How fast, how often, from where.
    pub config: ChainConfig,
    /// The node stops.
    pub closing: CancellationToken,
}

impl Scrubbing {
    /// Makes a pass whenever one is due, until the node stops.
    pub async fn keep(self) {
        let this = Arc::new(self);
        loop {
            let due = scrub::next_pass(this.store.layout(), this.config.scrub_every(), now_ms());
            let pause = tokio::time::sleep(due.unwrap_or(RETRY));
            if this.closing.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let (pass, runtime) = (Arc::clone(&this), Handle::current());
            let done = tokio::task::spawn_blocking(move || pass.pass(&runtime)).await;
            let failed = match done {
                Ok(passed) => passed.err().map(|error| error.to_string()),
                Err(panicked) => Some(panicked.to_string()),
            };
            if let Some(error) = failed {
                tracing::error!(error, "the scrubber could not go on");
                let pause = tokio::time::sleep(RETRY);
                if this.closing.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
        }
    }

    fn pass(&self, runtime: &Handle) -> Result<ScrubReport, ChainError> {
        let pace = Pace::new(self.config.scrub_bytes_per_s);
        let options = ScrubOptions {
            repair_dir: self.config.repair_dir.as_deref(),
            now_ms: now_ms(),
            pace: &|bytes| pace.after(bytes, &self.closing),
            told: &|finding| runtime.block_on(self.told(finding)),
        };
        let report = scrub::scrub(&self.store, &options)?;
        tracing::info!(?report, "payloads were read again");
        Ok(report)
    }

    /// A payload that no answer stands on, such as an older version, is in the log and the counters alone.
    async fn told(&self, finding: &Finding) {
        if !self.serves(finding.payload) {
            return;
        }
        match &finding.state {
            Repair::Found => self.withdraw(finding).await,
            Repair::Repaired { from } => self.bring_back(finding, from).await,
            Repair::Failed { .. } => {}
        }
    }

    fn serves(&self, payload: PayloadHash) -> bool {
        let model = self.port.model();
        let mut entries = model.entries.values();
        entries.any(|entry| entry.payload == payload)
    }

    /// The cache looks at the file itself: what it finds damaged it gives out no more, and the orchestrator hears of it.
    /// Where good pages are still in memory it finds nothing, and the orchestrator is told from here.
    async fn withdraw(&self, finding: &Finding) {
        let looked = self.port.cache.readmit(finding.payload, PAYLOAD).await;
        if let Err(CacheError::Corrupt { .. }) = looked {
            // It is told of what is corrupt for as long as one look takes.
            tokio::time::sleep(2 * CORRUPT_LOOK).await;
            return;
        }
        let report = Report::Corrupt {
            path: finding.name.to_string(),
            what: format!("{}: {} on the disk", finding.payload, finding.fault),
        };
        tell(&self.security, report);
    }

    /// Maps of the damaged file go, and the payload is given out again. A weight that every answer needs cannot be
    /// exchanged under the engine: where its map is damaged it stays out until the node is restarted.
    async fn bring_back(&self, finding: &Finding, from: &Path) {
        let cache = &self.port.cache;
        let corrupt = cache.status().corrupt;
        let known = corrupt
            .iter()
            .any(|record| record.payload == finding.payload);
        if known && finding.name.expert().is_none() {
            return tracing::error!(name = %finding.name, "its file is repaired; restart the node, which holds a map of the old one");
        }
        for _ in 0..EVICTIONS {
            if let Err(error) = cache.evict(finding.payload, PAYLOAD).await {
                tracing::warn!(%error, name = %finding.name, "a map of the damaged file may be left");
            }
            tokio::time::sleep(STOP_LOOK).await;
        }
        // It verifies the payload, and writes down who brought it back.
        let recovered = self.security.decide(Order {
            decision: Decision::Recover,
            path: finding.name.to_string(),
            who: SCRUBBER.to_owned(),
            reason: format!("repaired from {}", from.display()),
            force: false,
        });
        if let Err(error) = recovered.await {
            tracing::warn!(%error, name = %finding.name, "nobody decided that a repaired payload is back");
            if let Err(error) = cache.readmit(finding.payload, PAYLOAD).await {
                tracing::error!(%error, name = %finding.name, "a repaired payload is not given out");
            }
        }
    }
}

/// Holds a reader to a number of bytes a second.
pub struct Pace {
    bytes_per_s: u64,
    next: parking_lot::Mutex<Instant>,
}

impl Pace {
    /// Starts now.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            next: parking_lot::Mutex::new(Instant::now()),
        }
    }

    /// Waits until these bytes may have been read; breaks when the node stops.
    pub fn after(&self, bytes: u64, closing: &CancellationToken) -> ControlFlow<()> {
        let due = self.due(bytes);
        while !closing.is_cancelled() {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::park_timeout(wait.min(STOP_LOOK));
        }
        ControlFlow::Break(())
    }

    /// What was not read in time is not made up for.
    fn due(&self, bytes: u64) -> Instant {
        let mut next = self.next.lock();
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64);
        *next = (*next + takes).max(Instant::now());
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_adds_up_and_does_not_make_up() {
        let began = Instant::now();
        let pace = Pace::new(1000);
        let first = pace.due(60_000);
        assert!(first >= began + Duration::from_secs(60));
        assert_eq!(pace.due(30_000), first + Duration::from_secs(30));
        *pace.next.lock() = began;
        assert!(pace.due(0) >= began);
    }

    #[test]
    fn a_pass_ends_when_the_node_stops() {
        let closing = CancellationToken::new();
        let pace = Pace::new(1);
        assert_eq!(pace.after(0, &closing), ControlFlow::Continue(()));
        closing.cancel();
        assert_eq!(
            pace.after(u64::from(u32::MAX), &closing),
            ControlFlow::Break(())
        );
    }
}
