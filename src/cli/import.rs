use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::progress::Bar;
use crate::config::Config;
use crate::wiring::{Faults, Home, ImportSource};

/// `blyan import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The recipe that says which neurons make an expert [default: the built-in one]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The model file [default: model.gguf of the configuration]
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// Threads; the blocks are the same for any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

pub fn run(config: &Config, args: &ImportArgs, faults: &Faults) -> Result<()> {
    let home = Home::open(config)?;
    let mut source = ImportSource::of(config);
    source.recipe = args.recipe.clone().or(source.recipe);
    source.gguf = args.gguf.clone().unwrap_or(source.gguf);
    source.threads = args.threads.map_or(source.threads, usize::from);
    let bar = Bar::of_things("import");
    let imported = home.import(config, &source, &*faults.seams.probe, &|done, all| {
        bar.set(done, all)
    })?;
    drop(bar);
    println!(
        "model {} with {} blocks ({} new), {} bytes of payloads",
        imported.model, imported.blocks, imported.new_blocks, imported.payload_bytes
    );
    Ok(())
}
