use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail};
use blyan_chain::RocksStore;
use blyan_chain::scrub::{self, Finding, Repair, ScrubOptions};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::data_dir;
use crate::config::Config;
use crate::wiring::{Pace, now_ms};

/// `blyan scrub`
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Read at most so many bytes a second [default: as fast as the disk]
    #[arg(long, value_name = "BYTES")]
    bytes_per_s: Option<u64>,
    /// Folder with copies of payload files, each named by its payload hash [default: chain.repair_dir]
    #[arg(long, value_name = "DIR")]
    repair_dir: Option<PathBuf>,
}

/// One pass over a store that no node runs on: a running node makes them by itself.
pub fn run(config: &Config, args: &ScrubArgs) -> Result<()> {
    let store = RocksStore::open(data_dir(config))?;
    let pace = args.bytes_per_s.map(Pace::new);
    let never = CancellationToken::new();
    let options = ScrubOptions {
        repair_dir: args
            .repair_dir
            .as_deref()
            .or(config.chain.repair_dir.as_deref()),
        now_ms: now_ms(),
        pace: &|bytes| {
            pace.as_ref()
                .map_or(ControlFlow::Continue(()), |pace| pace.after(bytes, &never))
        },
        told: &print,
    };
    let report = scrub::scrub(&store, &options)?;
    println!(
        "read {} payloads, {} bytes: {} repaired, {} damaged",
        report.payloads, report.bytes, report.repaired, report.damaged
    );
    if report.damaged > 0 {
        bail!("{} payloads have no whole copy", report.damaged);
    }
    Ok(())
}

fn print(finding: &Finding) {
    let Finding {
        name,
        payload,
        fault,
        state,
        ..
    } = finding;
    match state {
        Repair::Found => println!("{name} {payload}: {fault}"),
        Repair::Repaired { from } => println!("{name} {payload}: repaired from {}", from.display()),
        Repair::Failed { why } => println!("{name} {payload}: not repaired: {why}"),
    }
}
