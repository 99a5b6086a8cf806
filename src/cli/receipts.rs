use anyhow::Result;
use blyan_chain::{ChainReader, RECEIPTS_MAX, ReceiptCursor, RocksStore};
use blyan_protocol::{Outcome, Receipt};
use clap::Args;

use super::data_dir;
use crate::config::Config;

/// `blyan receipts`
#[derive(Debug, Args)]
pub struct ReceiptsArgs {
    /// As JSON, experts included
    #[arg(long)]
    json: bool,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: usize,
}

pub fn run(config: &Config, args: &ReceiptsArgs) -> Result<()> {
    let reader = ChainReader::open_read_only(data_dir(config))?;
    let receipts = list(&reader, args.limit)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&receipts)?);
        return Ok(());
    }
    for receipt in &receipts {
        let took = receipt.ended_ms.saturating_sub(receipt.admitted_ms);
        println!(
            "{}  {:<18}  {:>6} in  {:>6} out  {took:>8} ms",
            receipt.request_id,
            outcome(receipt),
            receipt.tokens_in,
            receipt.tokens_out
        );
    }
    Ok(())
}

fn list(reader: &ChainReader<RocksStore>, limit: usize) -> Result<Vec<Receipt>> {
    let mut all: Vec<Receipt> = Vec::new();
    while all.len() < limit {
        let after = all.last().map(ReceiptCursor::of);
        let page = reader.receipts(after, RECEIPTS_MAX.min(limit - all.len()))?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    Ok(all)
}

fn outcome(receipt: &Receipt) -> String {
    match &receipt.outcome {
        Outcome::Finished => "finished".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Failed { code } => format!("failed: {code}"),
    }
}
