use anyhow::Result;
use blyan_chain::{RocksStore, VerifyOptions, VerifyReport, check_network, verify};
use blyan_formats::BlockHash;
use clap::Args;

use super::data_dir;
use super::progress::Bar;
use crate::config::Config;

/// `blyan verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Hash of a block that must be on the chain: it fixes the network and everything before that block. Without it
    /// a store that someone signed anew as a whole is not found out
    #[arg(long, value_name = "HASH")]
    anchor: Option<BlockHash>,
}

pub fn run(config: &Config, args: &VerifyArgs) -> Result<()> {
    let store = RocksStore::open_read_only(data_dir(config))?;
    let bar = Bar::of_bytes("verify");
    let options = VerifyOptions {
        anchor: args.anchor,
        threads: config.chain.verify_threads,
        progress: &|progress| bar.add(progress.bytes, progress.bytes_total),
    };
    let report = verify(&store, options)?;
    drop(bar);
    check_network(Some(report.genesis), &config.chain)?;
    print(&report);
    Ok(())
}

fn print(report: &VerifyReport) {
    let model = report
        .model
        .map_or_else(|| "none yet".to_owned(), |model| model.to_string());
    println!(
        "verified in {:.1} s, no fault",
        report.elapsed.as_secs_f64()
    );
    println!("genesis   {}", report.genesis);
    println!("model     {model}");
    println!(
        "blocks    {} on chain A, {} on chain B",
        report.blocks_a, report.blocks_b
    );
    println!(
        "payloads  {} bytes in files, {} bytes of JSON",
        report.payload_bytes, report.json_bytes
    );
    println!("receipts  {}", report.receipts);
    if report.unreferenced + report.temporary > 0 {
        println!(
            "left by an interrupted import: {} payloads, {} unfinished files",
            report.unreferenced, report.temporary
        );
    }
}
