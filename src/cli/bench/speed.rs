use std::time::Instant;

use anyhow::Result;
use blyan_inference::local::LocalSequence;
use clap::Args;
use serde::Serialize;

use super::BenchArgs;
use crate::cli::with_model;
use crate::config::Config;
use crate::wiring::LocalModel;

/// Any token does: the computation is the same for all.
const TOKEN: u32 = 1000;
/// Tokens of the prompt before the measured ones.
const DECODE_PROMPT: usize = 32;

/// `blyan bench decode`
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Measurements; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    bench: BenchArgs,
}

/// `blyan bench prefill`
#[derive(Debug, Args)]
pub struct PrefillArgs {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Measurements; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Serialize)]
struct Speed {
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    tokens: u32,
    runs: u32,
    top_k_experts: u32,
    backend: blyan_inference::config::Backend,
    threads: usize,
}

pub fn decode(config: &Config, args: &DecodeArgs) -> Result<()> {
    let config = args.bench.compute.apply(config)?;
    let measured = with_model(&config, |local| {
        let top_k = local.top_k(args.bench.compute.top_k_experts)?;
        let mut rates = Vec::new();
        for run in 0..=args.runs {
            let rate = decode_once(local, args.tokens, top_k)?;
            // The first run loads.
            if run > 0 {
                rates.push(rate);
            }
        }
        Ok(Speed::of(rates, args.tokens, top_k, local, &config))
    })?;
    args.bench.print(&measured)
}

fn decode_once(local: &LocalModel, tokens: u32, top_k: u32) -> Result<f64> {
    let mut sequence = LocalSequence::new(&local.engine, DECODE_PROMPT + tokens as usize, top_k)?;
    sequence.read(&[TOKEN; DECODE_PROMPT])?;
    let began = Instant::now();
    for _ in 0..tokens {
        sequence.read(&[TOKEN])?;
    }
    Ok(f64::from(tokens) / began.elapsed().as_secs_f64())
}

pub fn prefill(config: &Config, args: &PrefillArgs) -> Result<()> {
    let config = args.bench.compute.apply(config)?;
    let measured = with_model(&config, |local| {
        let top_k = local.top_k(args.bench.compute.top_k_experts)?;
        let prompt = vec![TOKEN; args.tokens as usize];
        let mut rates = Vec::new();
        for run in 0..=args.runs {
            let mut sequence = LocalSequence::new(&local.engine, prompt.len(), top_k)?;
            let began = Instant::now();
            sequence.read(&prompt)?;
            if run > 0 {
                rates.push(f64::from(args.tokens) / began.elapsed().as_secs_f64());
            }
        }
        Ok(Speed::of(rates, args.tokens, top_k, local, &config))
    })?;
    args.bench.print(&measured)
}

impl Speed {
    fn of(
        mut rates: Vec<f64>,
        tokens: u32,
        top_k: u32,
        local: &LocalModel,
        config: &Config,
    ) -> Self {
        rates.sort_by(f64::total_cmp);
        Self {
            tokens_per_second: rates[rates.len() / 2],
            slowest: rates[0],
            fastest: rates[rates.len() - 1],
            tokens,
            runs: rates.len() as u32,
            top_k_experts: top_k,
            backend: config.inference.backend,
            threads: local.threads,
        }
    }
}
