use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use awc::http::Method;
use blyan_chain::snapshot::{self, Snapshot};
use blyan_chain::{ChainError, DataDir, RocksStore, VerifyOptions};
use clap::{Args, Subcommand};

use super::data_dir;
use super::node_api::{Body, NodeApi};
use super::progress::Bar;
use crate::config::Config;
use crate::edge::replies::SnapshotReply;
use crate::edge::{RollbackReply, RollbackRequest, RollbackState};
use crate::wiring::{now_ms, snapshot_reply as reply};

/// Where a node is told to go back.
const ROLLBACK: &str = "/chain/rollback";
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long a node may be away.
const PATIENCE: Duration = Duration::from_secs(600);

/// `blyan snapshot`
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Make one, also of a running node
    Create(ShowArgs),
    /// Those that there are, oldest first
    List(ShowArgs),
    /// Check every byte of one; exit 0, or name the first fault and exit 1
    Verify(WhichArgs),
    /// Bring a running node back to one, as its admin; returns when it is well again
    Rollback(RollbackArgs),
    /// Go back to one, with the node stopped; what came after it is kept in db.replaced until the next restore
    Restore(WhichArgs),
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Its id [default: the newest]
    id: Option<String>,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Its id [default: the newest]
    id: Option<String>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// As the node says it
    #[arg(long)]
    json: bool,
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    node: Option<String>,
}

impl SnapshotCommand {
    pub fn run(self, config: &Config) -> Result<()> {
        let layout = data_dir(config);
        match self {
            Self::Create(args) => {
                let taken = create(config, &layout)?;
                show(&[taken], &args)
            }
            Self::List(args) => show(&snapshot::list(&layout)?, &args),
            Self::Verify(args) => verify(config, &snapshot::find(&layout, args.id.as_deref())?),
            Self::Rollback(args) => rollback(config, args),
            Self::Restore(args) => restore(
                config,
                &layout,
                &snapshot::find(&layout, args.id.as_deref())?,
            ),
        }
    }
}

/// Of the store itself where no node runs on it, by its node otherwise.
fn create(config: &Config, layout: &DataDir) -> Result<Snapshot> {
    if !layout.db().is_dir() {
        bail!(ChainError::NoChain(layout.root().to_owned()));
    }
    match RocksStore::open(layout.clone()) {
        Ok(store) => Ok(snapshot::create(&store, now_ms())?),
        Err(ChainError::Held(_)) => {
            let api = NodeApi::new(config, None);
            let asked = api.ask(Method::POST, "/chain/snapshots");
            let body = actix_rt::System::new().block_on(asked)?;
            let made: SnapshotReply = serde_json::from_slice(&body).context("the node's answer")?;
            Ok(snapshot::find(layout, Some(&made.id))?)
        }
        Err(error) => Err(error.into()),
    }
}

fn show(snapshots: &[Snapshot], args: &ShowArgs) -> Result<()> {
    if args.json {
        let all: Vec<_> = snapshots.iter().cloned().map(reply).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!(
        "{:31} {:>8} {:>9} {:>9} {:>14}",
        "id", "blocks", "receipts", "payloads", "payload bytes"
    );
    for snapshot in snapshots {
        let held = &snapshot.manifest;
        println!(
            "{:31} {:>8} {:>9} {:>9} {:>14}",
            snapshot.id, held.blocks, held.receipts, held.payloads, held.payload_bytes
        );
    }
    Ok(())
}

fn verify(config: &Config, snapshot: &Snapshot) -> Result<()> {
    let report = with_bar(config, |options| {
        snapshot::verify_snapshot(snapshot, options)
    })?;
    println!(
        "{}: no fault, {} bytes of payloads",
        snapshot.id, report.payload_bytes
    );
    Ok(())
}

/// Orders it and waits for its end; meanwhile the node is away for some seconds.
fn rollback(config: &Config, args: RollbackArgs) -> Result<()> {
    let api = NodeApi::new(config, args.node.as_deref());
    let wanted = RollbackRequest {
        timestamp: None,
        snapshot: args.id,
        reason: args.reason,
    };
    let body = Body::Json(serde_json::to_vec(&wanted)?);
    let ended = actix_rt::System::new().block_on(async {
        let reply = api.send(Method::POST, ROLLBACK, body).await?;
        if !reply.status.is_success() {
            bail!("the node answers {}", reply.refusal());
        }
        let ordered: RollbackReply = reply.json()?;
        eprintln!("the node goes back to {}", ordered.snapshot);
        until_ended(&api, &ordered).await
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&ended)?);
    }
    match (&ended.state, &ended.failure) {
        (RollbackState::Done, _) if args.json => Ok(()),
        (RollbackState::Done, _) => {
            let took_ms = ended.ended_ms.unwrap_or_default() - ended.ordered_ms;
            println!(
                "back at {}, every part is well after {took_ms} ms",
                ended.snapshot
            );
            Ok(())
        }
        (_, why) => bail!(
            "it failed: {}",
            why.as_deref().unwrap_or("no reason is known")
        ),
    }
}

async fn until_ended(api: &NodeApi, ordered: &RollbackReply) -> Result<RollbackReply> {
    let began = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        match api.send(Method::GET, ROLLBACK, Body::Empty).await {
            Ok(reply) if reply.status.is_success() => {
                let last: RollbackReply = reply.json()?;
                if last.id == ordered.id && last.ended_ms.is_some() {
                    return Ok(last);
                }
            }
            _ if began.elapsed() < PATIENCE => {}
            Ok(reply) => bail!("the node answers {}", reply.refusal()),
            Err(why) => return Err(why.into()),
        }
    }
}

fn restore(config: &Config, layout: &DataDir, snapshot: &Snapshot) -> Result<()> {
    let restored = with_bar(config, |options| {
        snapshot::restore(layout, snapshot, options)
    })
    .inspect_err(|why| {
        if let Some(ChainError::Held(_)) = why.downcast_ref() {
            eprintln!("`blyan snapshot rollback` brings a running node back");
        }
    })?;
    println!(
        "restored {}: {} blocks, {} receipts, {} payload files brought back",
        snapshot.id, snapshot.manifest.blocks, snapshot.manifest.receipts, restored.payloads
    );
    Ok(())
}

fn with_bar<T>(
    config: &Config,
    work: impl FnOnce(VerifyOptions<'_>) -> Result<T, ChainError>,
) -> Result<T> {
    let bar = Bar::of_bytes("verify");
    let options = VerifyOptions {
        anchor: None,
        threads: config.chain.verify_threads,
        progress: &|progress| bar.add(progress.bytes, progress.bytes_total),
    };
    Ok(work(options)?)
}
