use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use blyan_formats::bodies::{Decimal, ExpertShape, Routing};
use blyan_model::dense::Runtime;
use blyan_model::fit::FitPhase;
use blyan_model::recipe::{Grouping, ModelRecord};
use blyan_model::{FitOptions, SourceFile, SourceModel, Text, fit};
use clap::{Args, ValueEnum};

use super::progress::Bar;
use crate::config::Config;

/// `blyan fit`
#[derive(Debug, Args)]
pub struct FitArgs {
    /// A text to look at the model with; several are read in equal shares
    #[arg(long = "text", value_name = "FILE", required = true)]
    texts: Vec<PathBuf>,
    /// Where the recipe goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The model file [default: model.gguf of the configuration]
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// What the model is called
    #[arg(long, value_name = "NAME", default_value = "SmolLM2-135M-Instruct")]
    name: String,
    /// The licence of its weights, as SPDX expression
    #[arg(long, value_name = "SPDX", default_value = "Apache-2.0")]
    license: String,
    /// Experts of a layer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=1024))]
    experts: u16,
    /// Experts of a layer that take part in every token
    #[arg(long, value_name = "N", default_value_t = 4)]
    always_on: u16,
    /// Which neurons go together
    #[arg(long, value_enum, default_value_t = GroupingArg::CoActivation)]
    grouping: GroupingArg,
    /// Tokens to read
    #[arg(long, value_name = "N", default_value_t = 24_576)]
    tokens: usize,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Penalty of the ridge regression, in mean variances of an input
    #[arg(long, value_name = "DECIMAL", default_value = "0.01")]
    ridge_penalty: Decimal,
    /// Timestamp of every block that an import of the recipe makes, in ms since 1970
    #[arg(long, value_name = "MS", default_value_t = 1_767_225_600_000)]
    timestamp_ms: u64,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupingArg {
    CoActivation,
    Contiguous,
    Random,
}

impl From<GroupingArg> for Grouping {
    fn from(grouping: GroupingArg) -> Self {
        match grouping {
            GroupingArg::CoActivation => Self::CoActivation,
            GroupingArg::Contiguous => Self::Contiguous,
            GroupingArg::Random => Self::Random,
        }
    }
}

pub fn run(config: &Config, args: &FitArgs) -> Result<()> {
    let gguf = args.gguf.clone().unwrap_or_else(|| config.model.gguf());
    let file = SourceFile::read(&gguf)?;
    let texts: Vec<_> = args
        .texts
        .iter()
        .map(|path| Text::read(path))
        .collect::<Result<_, _>>()?;
    let options = options(config, args, &file)?;
    let bars = [
        Bar::of_things("reading"),
        Bar::of_things("grouping"),
        Bar::of_things("routing"),
    ];
    let recipe = fit(&file, &texts, &options, &|phase, done, all| {
        let bar = &bars[match phase {
            FitPhase::Activations => 0,
            FitPhase::Groups => 1,
            FitPhase::Routers => 2,
        }];
        bar.set(done as u64, all as u64);
    })?;
    drop(bars);
    std::fs::write(&args.out, recipe.to_json()?)
        .with_context(|| format!("writing {}", args.out.display()))?;
    println!(
        "{}: {} layers, {} tokens read",
        args.out.display(),
        recipe.layers.len(),
        recipe.fit.tokens
    );
    Ok(())
}

fn options(config: &Config, args: &FitArgs, file: &SourceFile) -> Result<FitOptions> {
    let ffn = SourceModel::parse(file.bytes())?.shape().ffn;
    let experts = ExpertShape {
        per_layer: args.experts,
        always_on: args.always_on,
        neurons: u32::try_from(ffn)? / u32::from(args.experts),
        routing: Routing::TopScoresUnitWeight,
    };
    let cores = available_parallelism().map_or(1, usize::from);
    Ok(FitOptions {
        model: ModelRecord {
            name: args.name.clone(),
            license: args.license.clone(),
        },
        experts,
        grouping: args.grouping.into(),
        seed: args.seed,
        tokens: args.tokens,
        ridge_penalty: args.ridge_penalty.clone(),
        timestamp_ms: args.timestamp_ms,
        runtime: Runtime {
            ort_library: config.runtime.onnxruntime(),
            threads: args.threads.map_or(cores, usize::from),
        },
    })
}
