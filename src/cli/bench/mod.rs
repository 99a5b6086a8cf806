//! Measurements of one machine: how fast, and how well the model on the chain foresees text.

mod bandwidth;
mod perplexity;
mod speed;
mod store;
mod weights;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ComputeArgs;
use crate::config::Config;

/// `blyan bench`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Generated tokens per second of answers to prompts, and what they take in memory
    Decode(speed::DecodeArgs),
    /// Read tokens per second of one prompt
    Prefill(speed::PrefillArgs),
    /// Bytes per second that threads read from memory
    Bandwidth(bandwidth::BandwidthArgs),
    /// How long the weights take to be verified and mapped
    Load(BenchArgs),
    /// Bytes per second of a full check of the store
    Verify(BenchArgs),
    /// Perplexity of the model on the chain, of its source in fp32, and of other splits, with intervals
    Perplexity(perplexity::PerplexityArgs),
}

/// What every measurement takes.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl BenchArgs {
    /// The result on standard output: as JSON, or a line for each number.
    fn print(&self, result: &impl Serialize) -> Result<()> {
        print(self.json, result)
    }
}

fn print(json: bool, result: &impl Serialize) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(result)?);
        return Ok(());
    }
    if let serde_json::Value::Object(fields) = serde_json::to_value(result)? {
        for (name, value) in fields {
            println!("{name:<24} {value}");
        }
    }
    Ok(())
}

/// Of sorted values, at least one.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[middle])
}

pub fn run(config: &Config, command: &BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Decode(args) => speed::decode(config, args),
        BenchCommand::Prefill(args) => speed::prefill(config, args),
        BenchCommand::Bandwidth(args) => bandwidth::run(args),
        BenchCommand::Load(args) => store::load(config, args),
        BenchCommand::Verify(args) => store::verify(config, args),
        BenchCommand::Perplexity(args) => perplexity::run(config, args),
    }
}
