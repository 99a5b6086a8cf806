use std::path::PathBuf;

use anyhow::{Context as _, Result};
use blyan_chain::ChainReader;
use blyan_formats::TensorName;
use blyan_model::experts::{ExpertOrigin, Wanted, write_payload};
use clap::Args;

use super::data_dir;
use crate::config::Config;

/// `blyan model extract`
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Such as layer3.expert5
    expert: TensorName,
    /// A file that does not exist yet: safetensors, fp32, the matrices gate [F, H], up [F, H] and down [H, F]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(config: &Config, args: &ExtractArgs) -> Result<()> {
    let layout = data_dir(config);
    let model = ChainReader::open_read_only(layout.clone())?.model(None)?;
    let wanted = Wanted::of(&model.architecture, args.expert)?;
    let entry = model.entries.get(&args.expert);
    let entry = entry.context("the model's manifest does not name it")?;
    let origin = ExpertOrigin {
        name: args.expert,
        block: entry.block,
    };
    let payload = layout.payload(entry.payload);
    write_payload(&payload, entry.payload, origin, &args.out)?;
    println!(
        "{}  {} neurons of width {}, of block {}",
        args.expert, wanted.neurons, wanted.hidden, entry.block
    );
    Ok(())
}
