use std::path::PathBuf;

use anyhow::Result;
use blyan_chain::{ChainReader, check_network, export};
use clap::Args;

use super::data_dir;
use super::progress::Bar;
use crate::config::Config;

/// `blyan export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A new or empty directory; its parent must exist
    dir: PathBuf,
    /// Say what was written as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, args: &ExportArgs) -> Result<()> {
    let reader = ChainReader::open_read_only(data_dir(config))?;
    check_network(reader.index().genesis(), &config.chain)?;
    let bar = Bar::of_bytes("export");
    let report = export(&reader, &args.dir, &|progress| {
        bar.add(progress.bytes, progress.bytes_total);
    })?;
    drop(bar);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("genesis   {}", report.genesis);
    println!("blocks    {}", report.blocks);
    println!(
        "payloads  {} files, {} bytes",
        report.payloads, report.payload_bytes
    );
    println!(
        "check it  tests/vectors/check.py {} --anchor {}",
        args.dir.display(),
        report.genesis
    );
    Ok(())
}
