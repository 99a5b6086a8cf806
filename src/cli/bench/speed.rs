//! How fast prompts are read and answers are written, in process, on the engine that the node has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blyan_inference::config::Backend;
use blyan_inference::kv::KvSlot;
use blyan_inference::sampler::sample;
use blyan_inference::step::{Logits, StepEngine, StepRow, Terminate};
use blyan_protocol::Sampling;
use clap::Args;
use clap::value_parser;
use serde::Serialize;

use super::BenchArgs;
use super::weights::bytes_per_token;
use crate::cli::with_model;
use crate::config::Config;
use crate::wiring::LocalModel;

/// What is read: persuasive prose, as chats are.
const TEXT: &str = include_str!("../../../model/data/texts/eval-persuasion.txt");

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    top_k: None,
    seed: 0,
};

/// `blyan bench decode`
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens to generate after each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..))]
    generate: u32,
    /// Answers generated together, each after a prompt of its own; at most inference.slots_per_replica
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    batch: u32,
    #[command(flatten)]
    repeated: Repeated,
}

/// `blyan bench prefill`
#[derive(Debug, Args)]
pub struct PrefillArgs {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = value_parser!(u32).range(1..))]
    tokens: u32,
    #[command(flatten)]
    repeated: Repeated,
}

/// What both take.
#[derive(Debug, Args)]
struct Repeated {
    /// Measurements, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    repetitions: u32,
    #[command(flatten)]
    bench: BenchArgs,
}

/// What is computed in one measurement.
#[derive(Clone, Copy)]
struct Work {
    /// Tokens of each prompt.
    prompt: u32,
    /// Tokens generated after each prompt.
    generate: u32,
    /// Prompts.
    batch: u32,
}

#[derive(Serialize)]
struct Report {
    /// What the bench is named after: the median of `decode`, or of `prefill` where nothing is generated.
    tokens_per_second: f64,
    prefill: Speed,
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<Speed>,
    prompt_tokens: u32,
    generated_tokens: u32,
    batch: u32,
    top_k_experts: u32,
    backend: Backend,
    threads: usize,
    /// Read by a token that is computed alone; those computed together share them.
    weight_bytes_per_token: u64,
    #[serde(flatten)]
    memory: Memory,
}

/// Tokens per second, of all rows together.
#[derive(Serialize)]
struct Speed {
    median: f64,
    slowest: f64,
    fastest: f64,
    /// In the order in which they were taken.
    samples: Vec<f64>,
}

/// Of this process, as the system counts it.
#[derive(Serialize)]
struct Memory {
    resident_bytes: Option<u64>,
    anonymous_bytes: Option<u64>,
}

pub fn decode(config: &Config, args: &DecodeArgs) -> Result<()> {
    let work = Work {
        prompt: args.prompt,
        generate: args.generate,
        batch: args.batch,
    };
    report(config, work, &args.repeated)
}

pub fn prefill(config: &Config, args: &PrefillArgs) -> Result<()> {
    let work = Work {
        prompt: args.tokens,
        generate: 0,
        batch: 1,
    };
    report(config, work, &args.repeated)
}

fn report(config: &Config, work: Work, args: &Repeated) -> Result<()> {
    let compute = &args.bench.compute;
    let config = compute.apply(config)?;
    let report = with_model(&config, |local| {
        let top_k = local.top_k(compute.top_k_experts)?;
        let times = measure(local, work, top_k, args.repetitions)?;
        let rates = |tokens: u32, time: fn(&Times) -> Duration| {
            let tokens = f64::from(work.batch) * f64::from(tokens);
            Speed::of(times.iter().map(|one| tokens / time(one).as_secs_f64()))
        };
        let prefill = rates(work.prompt, |one| one.prefill);
        let decode = (work.generate > 0).then(|| rates(work.generate, |one| one.decode));
        Ok(Report {
            tokens_per_second: decode.as_ref().unwrap_or(&prefill).median,
            prefill,
            decode,
            prompt_tokens: work.prompt,
            generated_tokens: work.generate,
            batch: work.batch,
            top_k_experts: top_k,
            backend: config.inference.backend,
            threads: local.threads,
            weight_bytes_per_token: bytes_per_token(&config, &local.model, top_k)?,
            memory: Memory::of_process(),
        })
    })?;
    args.bench.print(&report)
}

struct Times {
    prefill: Duration,
    decode: Duration,
}

fn measure(local: &LocalModel, work: Work, top_k: u32, repetitions: u32) -> Result<Vec<Times>> {
    let prompts = prompts(local, work)?;
    let mut batch = Batch::new(&local.engine, work, top_k)?;
    // Not counted: it loads the experts and makes the session.
    batch.run(&prompts, work.generate)?;
    (0..repetitions)
        .map(|_| batch.run(&prompts, work.generate))
        .collect()
}

/// Stretches of the text that follow each other, one for each row.
fn prompts(local: &LocalModel, work: Work) -> Result<Vec<Vec<u32>>> {
    let tokens = local.tokenizer.encode_text(TEXT)?;
    let rows = tokens.chunks_exact(work.prompt as usize);
    let prompts: Vec<_> = rows
        .take(work.batch as usize)
        .map(<[u32]>::to_vec)
        .collect();
    ensure!(
        prompts.len() == work.batch as usize,
        "{} prompts of {} tokens need more than the text's {}",
        work.batch,
        work.prompt,
        tokens.len()
    );
    Ok(prompts)
}

/// Sequences that are computed together.
struct Batch<'e> {
    engine: &'e dyn StepEngine,
    slots: Vec<KvSlot>,
    top_k: u32,
}

impl<'e> Batch<'e> {
    fn new(engine: &'e dyn StepEngine, work: Work, top_k: u32) -> Result<Self> {
        let (rows, rows_max) = (work.batch as usize, engine.rows_max());
        ensure!(
            rows <= rows_max,
            "--batch {rows}: the engine takes {rows_max} at once (inference.slots_per_replica)"
        );
        let context = work.prompt as usize + work.generate as usize;
        let slots = (0..rows).map(|_| engine.new_slot(context));
        Ok(Self {
            engine,
            slots: slots.collect::<Result<_, _>>()?,
            top_k,
        })
    }

    fn run(&mut self, prompts: &[Vec<u32>], generate: u32) -> Result<Times> {
        let began = Instant::now();
        let mut tokens = self.read(prompts)?;
        let prefill = began.elapsed();
        for _ in 0..generate {
            tokens = self.next(&tokens)?;
        }
        let decode = began.elapsed() - prefill;
        Ok(Times { prefill, decode })
    }

    /// From nothing; one prompt after the other, in the chunks of the node. The token that follows each.
    fn read(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>> {
        let (engine, top_k) = (self.engine, self.top_k);
        let read = |(kv, prompt): (&mut KvSlot, &Vec<u32>)| {
            kv.truncate(0);
            let chunks = prompt.chunks(engine.chunk_max());
            let last = chunks.len() - 1;
            let mut next = Vec::new();
            for (index, tokens) in chunks.enumerate() {
                let logits = if index == last {
                    Logits::Last
                } else {
                    Logits::None
                };
                let row = StepRow {
                    tokens,
                    kv: &mut *kv,
                    top_k,
                    logits,
                };
                next = step(engine, &mut [row])?;
            }
            next.pop().context("the last chunk gave no token")
        };
        self.slots.iter_mut().zip(prompts).map(read).collect()
    }

    /// One step of all rows with a token each. The token that follows each.
    fn next(&mut self, tokens: &[u32]) -> Result<Vec<u32>> {
        let top_k = self.top_k;
        let rows = self.slots.iter_mut().zip(tokens.chunks(1));
        let mut rows: Vec<_> = rows
            .map(|(kv, tokens)| StepRow {
                tokens,
                kv,
                top_k,
                logits: Logits::Last,
            })
            .collect();
        step(self.engine, &mut rows)
    }
}

/// The most likely token after each row that wants logits.
fn step(engine: &dyn StepEngine, rows: &mut [StepRow<'_>]) -> Result<Vec<u32>> {
    let output = engine.step(rows, &Terminate::default())?;
    let wanted = output.logits.iter().filter(|logits| !logits.is_empty());
    wanted
        .map(|logits| sample(logits, &GREEDY, 0).context("no logit is a number"))
        .collect()
}

impl Speed {
    fn of(samples: impl Iterator<Item = f64>) -> Self {
        let samples: Vec<_> = samples.collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: super::median(&sorted),
            slowest: sorted[0],
            fastest: sorted[sorted.len() - 1],
            samples,
        }
    }
}

impl Memory {
    fn of_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024)
        };
        Self {
            resident_bytes: bytes("VmRSS:"),
            anonymous_bytes: bytes("RssAnon:"),
        }
    }
}
