use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use blyan_formats::ArchitectureBody;
use blyan_inference::config::Backend;
use blyan_inference::step::StepEngine;
use blyan_model::dense::{DenseWeights, Runtime};
use blyan_model::eval::{Estimate, Losses, token_losses};
use blyan_model::fit::tokenise;
use blyan_model::recipe::Grouping;
use blyan_model::{
    FitOptions, Recipe, SourceFile, SourceModel, Text, dense_engine, fit, split_engine,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::BenchArgs;
use crate::cli::progress::Bar;
use crate::cli::with_model;
use crate::config::Config;
use crate::wiring::{ImportSource, LocalModel};

/// Where the texts of the sources lie, as they were when this was built.
const TEXTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/model/data/texts");
const FIT_TEXTS: [&str; 3] = ["fit-handbook.txt", "fit-jargon.txt", "fit-python.txt"];
/// Fewer experts than all, at which splits are compared.
const FEWER: [u32; 2] = [14, 12];
/// Tokens of a window; each is read from nothing.
const WINDOW: usize = 512;
/// Seed of the bootstrap.
const SEED: u64 = 1;

/// `blyan bench perplexity`
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// Tokens to foresee, in equal shares of the texts
    #[arg(long, value_name = "N", default_value_t = 20_480)]
    tokens: usize,
    /// Evaluation texts
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "handbook,persuasion"
    )]
    text: Vec<EvalText>,
    /// Folder with the texts of the sources (eval-*.txt, fit-*.txt)
    #[arg(long, value_name = "DIR", default_value = TEXTS)]
    texts: PathBuf,
    /// What the model on the chain is compared with
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "gguf,contiguous,random"
    )]
    compare: Vec<Other>,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EvalText {
    /// The Debian administrator's handbook
    Handbook,
    /// Jane Austen's Persuasion
    Persuasion,
}

impl EvalText {
    const fn file(self) -> &'static str {
        match self {
            Self::Handbook => "eval-handbook.txt",
            Self::Persuasion => "eval-persuasion.txt",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Other {
    /// Nothing
    None,
    /// The same model on the reference backend
    Reference,
    /// The source in fp32, before any split
    Gguf,
    /// Experts of neighbouring neurons, with routers fitted like those of the chain
    Contiguous,
    /// Experts of neurons drawn by chance, with routers fitted like those of the chain
    Random,
}

#[derive(Serialize)]
struct Comparison {
    tokens: usize,
    windows: usize,
    /// By model and experts per layer, such as `chain/14`.
    perplexity: BTreeMap<String, Interval>,
    /// Of two models on the same windows, such as `chain/14 over random/14`: below 1 the first is better.
    ratio: BTreeMap<String, Interval>,
}

/// A value with its 95 % bootstrap interval.
#[derive(Serialize)]
struct Interval {
    value: f64,
    low: f64,
    high: f64,
}

impl From<Estimate> for Interval {
    fn from(estimate: Estimate) -> Self {
        Self {
            value: estimate.value,
            low: estimate.low,
            high: estimate.high,
        }
    }
}

/// Losses by model and experts per layer.
type Scores = BTreeMap<String, Losses>;

pub fn run(config: &Config, args: &PerplexityArgs) -> Result<()> {
    let config = args.bench.compute.apply(config)?;
    let (tokens, mut scores) = with_model(&config, |local| {
        let tokens = eval_tokens(&local.model.architecture, args)?;
        let scores = score_chain(local, "chain", &tokens, args)?;
        Ok((tokens, scores))
    })?;
    let asked = |wanted: &[Other]| args.compare.iter().any(|other| wanted.contains(other));
    if asked(&[Other::Reference]) {
        let mut config = config.clone();
        config.inference.backend = Backend::Reference;
        scores.extend(with_model(&config, |local| {
            score_chain(local, "reference", &tokens, args)
        })?);
    }
    if asked(&[Other::Gguf, Other::Contiguous, Other::Random]) {
        Others::read(&config, args)?.score(&tokens, args, &mut scores)?;
    }
    args.bench.print(&compared(&scores))
}

/// Whole windows of each text, so that none holds two texts.
fn eval_tokens(architecture: &ArchitectureBody, args: &PerplexityArgs) -> Result<Vec<u32>> {
    let share = args
        .tokens
        .div_ceil(args.text.len())
        .next_multiple_of(WINDOW);
    let mut all = Vec::new();
    let files: Vec<_> = args.text.iter().map(|text| text.file()).collect();
    for text in texts(&args.texts, &files)? {
        let tokens = tokenise(architecture, &text)?;
        let windows = tokens.len() / WINDOW * WINDOW;
        all.extend_from_slice(&tokens[..share.min(windows)]);
    }
    Ok(all)
}

fn texts(folder: &Path, names: &[&str]) -> Result<Vec<Text>> {
    let texts = names.iter().map(|name| Text::read(&folder.join(name)));
    Ok(texts.collect::<Result<_, _>>()?)
}

fn score_chain(
    local: &LocalModel,
    name: &str,
    tokens: &[u32],
    args: &PerplexityArgs,
) -> Result<Scores> {
    let most = local.top_k(None)?;
    let asked = args.bench.compute.top_k_experts;
    let several = std::iter::once(most).chain(FEWER).collect();
    let counts = asked.map_or(several, |top_k| vec![top_k]);
    let mut scores = Scores::new();
    for top_k in counts {
        let losses = score(&local.engine, tokens, local.top_k(Some(top_k))?)?;
        scores.insert(format!("{name}/{top_k}"), losses);
    }
    Ok(scores)
}

fn score(engine: &dyn StepEngine, tokens: &[u32], top_k: u32) -> Result<Losses> {
    let bar = Bar::of_things("windows");
    let told = |done: usize, all: usize| bar.set(done as u64, all as u64);
    Ok(token_losses(engine, tokens, WINDOW, top_k, &told)?)
}

/// The source, and what other splits of it are made from.
struct Others {
    file: SourceFile,
    recipe: Recipe,
    runtime: Runtime,
}

impl Others {
    fn read(config: &Config, args: &PerplexityArgs) -> Result<Self> {
        let source = ImportSource::of(config);
        let recipe = source.read_recipe()?;
        let file = SourceFile::read(&source.gguf)?;
        file.check_against(&recipe.source)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Runtime {
            ort_library: config.runtime.onnxruntime(),
            threads: args.bench.compute.threads.map_or(cores, usize::from),
        };
        Ok(Self {
            file,
            recipe,
            runtime,
        })
    }

    fn score(&self, tokens: &[u32], args: &PerplexityArgs, scores: &mut Scores) -> Result<()> {
        let source = SourceModel::parse(self.file.bytes())?;
        let architecture =
            blyan_model::import::describe(&source, &self.recipe.model, self.recipe.experts)?;
        let weights = Arc::new(DenseWeights::load(&source, &architecture)?);
        let most = u32::from(self.recipe.experts.per_layer);
        if args.compare.contains(&Other::Gguf) {
            let engine = dense_engine(&weights, &self.runtime)?;
            scores.insert(format!("gguf/{most}"), score(&engine, tokens, most)?);
        }
        for (other, grouping, name) in [
            (Other::Contiguous, Grouping::Contiguous, "contiguous"),
            (Other::Random, Grouping::Random, "random"),
        ] {
            if args.compare.contains(&other) {
                let split = self.fit(grouping, args)?;
                let engine = split_engine(&weights, &self.runtime, &split.layers)?;
                for top_k in FEWER {
                    scores.insert(format!("{name}/{top_k}"), score(&engine, tokens, top_k)?);
                }
            }
        }
        Ok(())
    }

    /// Fitted like the recipe but for the grouping.
    fn fit(&self, grouping: Grouping, args: &PerplexityArgs) -> Result<Recipe> {
        let options = FitOptions {
            model: self.recipe.model.clone(),
            experts: self.recipe.experts,
            grouping,
            seed: self.recipe.fit.seed,
            tokens: self.recipe.fit.tokens,
            ridge_penalty: self.recipe.fit.ridge_penalty.clone(),
            timestamp_ms: self.recipe.timestamp_ms,
            runtime: self.runtime.clone(),
        };
        let bar = Bar::of_things("fitting");
        let texts = texts(&args.texts, &FIT_TEXTS)?;
        Ok(fit(&self.file, &texts, &options, &|_, done, all| {
            bar.set(done as u64, all as u64)
        })?)
    }
}

fn compared(scores: &Scores) -> Comparison {
    let mut ratio = BTreeMap::new();
    for (name, losses) in scores.iter().filter(|(name, _)| name.starts_with("chain/")) {
        let count = name.trim_start_matches("chain");
        for (other, others) in scores
            .iter()
            .filter(|(other, _)| other.ends_with(count) && *other != name)
        {
            ratio.insert(
                format!("{name} over {other}"),
                losses.ratio_to(others, SEED).into(),
            );
        }
    }
    let any = scores.values().next();
    Comparison {
        tokens: any.map_or(0, Losses::tokens),
        windows: any.map_or(0, Losses::windows),
        perplexity: scores
            .iter()
            .map(|(name, losses)| (name.clone(), losses.perplexity(SEED).into()))
            .collect(),
        ratio,
    }
}
