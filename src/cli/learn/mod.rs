//! `blyan learn`: experts that learn beside the published model, on this machine alone.

mod classroom;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use blyan_formats::TensorName;
use blyan_learner::Course;
use clap::Args;

use super::ComputeArgs;
use crate::config::Config;
use classroom::Classroom;

/// Seed of the bootstrap.
const BOOTSTRAP_SEED: u64 = 1;
/// Experts per layer that are learned for where --top-k-experts names no other number.
const TOP_K: u32 = 12;

/// `blyan learn`
#[derive(Debug, Args)]
pub struct LearnArgs {
    /// What is to learn, such as layer0.expert3; several learn one after the other
    #[arg(long = "expert", value_name = "NAME", required = true, num_args = 1..)]
    experts: Vec<TensorName>,
    /// Judge all as one at the end, instead of each before the next one learns
    #[arg(long)]
    together: bool,
    /// A text to learn from
    #[arg(long = "text", value_name = "FILE", required = true, num_args = 1..)]
    texts: Vec<PathBuf>,
    /// A text to be judged by, with nothing in common with the others
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    held_out: Vec<PathBuf>,
    /// The folder for the payloads of what is adopted, which `blyan miner upload` takes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens to learn from, in equal shares of the texts
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    tokens: usize,
    /// Tokens to be judged by, in equal shares of the texts
    #[arg(long, value_name = "N", default_value_t = 20_480)]
    held_out_tokens: usize,
    /// Steps of each expert
    #[arg(long, value_name = "N", default_value_t = Course::default().steps)]
    steps: u32,
    /// Tokens of a step
    #[arg(long, value_name = "N", default_value_t = Course::default().batch)]
    batch: usize,
    /// Learning rate at its highest
    #[arg(long, value_name = "X", default_value_t = Course::default().learning_rate)]
    learning_rate: f32,
    /// Seed of the minibatches
    #[arg(long, value_name = "N", default_value_t = Course::default().seed)]
    seed: u64,
    /// As JSON, a line for each expert
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl LearnArgs {
    fn course(&self) -> Course {
        Course {
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.learning_rate,
            seed: self.seed,
        }
    }
}

pub fn run(config: &Config, args: &LearnArgs) -> Result<()> {
    let config = args.compute.apply(config)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    super::with_model_async(&config, async |local| {
        Classroom::open(&config, local, args).await?.teach_all()
    })
}
