//! The command line.

mod adopt;
mod audit;
mod bench;
mod export;
mod extract;
mod fit;
mod generate;
mod import;
mod keys;
mod learn;
mod miner;
mod model;
mod node;
mod node_api;
mod progress;
mod receipts;
mod scrub;
mod snapshot;
mod tree;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use blyan_chain::{ChainError, DataDir};
use blyan_inference::config::Backend;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides, Sources};
use crate::telemetry;
use crate::wiring::{Faults, LocalModel};

/// Something is wrong, and the message says what.
const EXIT_FAULT: u8 = 1;
/// A running node holds the data directory.
const EXIT_HELD: u8 = 2;

/// A node of the Blyan network: a language model whose experts are blocks on a chain.
#[derive(Debug, Parser)]
#[command(
    name = "blyan",
    version,
    arg_required_else_help = true,
    max_term_width = 120
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML); config/default.toml of the sources explains every key
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps everything [default: $HOME/.local/share/blyan]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: import the model if there is none yet, then answer chat
    Node(node::NodeArgs),
    /// Make a recipe: look at a model with texts, and say which neurons are an expert and how they are routed
    Fit(fit::FitArgs),
    /// Put the model on the chain; goes on where an interrupted import stopped
    Import(import::ImportArgs),
    /// Check every stored byte; exit 0, or name the first fault and exit 1
    Verify(verify::VerifyArgs),
    /// Write the chain as plain files, which tests/vectors/check.py verifies; also beside a running node
    Export(export::ExportArgs),
    /// What is on the chain
    #[command(subcommand)]
    Model(ModelCommand),
    /// Answer one prompt without a node, also beside one; prints the answer alone
    Generate(generate::GenerateArgs),
    /// Measure this machine and the model on the chain
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// List the receipts of ended requests
    Receipts(receipts::ReceiptsArgs),
    /// Read every payload from the disk and repair what is damaged, with the node stopped; a running one does it itself
    Scrub(scrub::ScrubArgs),
    /// Consistent copies of the store, and the way back to one
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Experts of one's own: a key, weights out of model files, uploads
    #[command(subcommand)]
    Miner(miner::MinerCommand),
    /// Teach experts what few of a layer lack, on text, and write those that held-out text says are better
    Learn(learn::LearnArgs),
    /// Which keys may sign blocks of a running node's chain
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// The supervision tree of a running node
    Tree(tree::TreeArgs),
    /// The log of what was decided about components, by whom and why
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// The published model: id, shapes, and every weight with its block
    Info(model::InfoArgs),
    /// Write one expert's weights for other tools; `blyan miner extract` takes them back
    Extract(extract::ExtractArgs),
    /// Let a running node answer with these experts in place of those that it has; older blocks lead back
    Adopt(adopt::AdoptArgs),
}

/// Runs the command line; `faults` are those of the process.
pub fn run(faults: Faults) -> ExitCode {
    let cli = Cli::parse();
    let listen = match &cli.command {
        Command::Node(args) => args.listen,
        _ => None,
    };
    let overrides = Overrides {
        data_dir: cli.common.data_dir,
        listen,
    };
    let config = match Sources::of_process(cli.common.config, overrides).load() {
        Ok(config) => config,
        Err(error) => return fail(&error.into()),
    };
    let quiet = match &cli.command {
        Command::Node(_) => "",
        // It ends every step that it has seen enough of, which ONNX Runtime calls an error each time.
        Command::Learn(_) => "blyan_supervisors=warn,blyan_inference::engine::session=error",
        // The command's own small tree is nobody's concern.
        _ => "blyan_supervisors=warn",
    };
    let done =
        telemetry::init_logs(&config.node, quiet).and_then(|()| cli.command.run(&config, faults));
    done.unwrap_or_else(|error| fail(&error))
}

impl Command {
    fn run(self, config: &Config, faults: Faults) -> Result<ExitCode> {
        match self {
            Self::Node(_) => return node::run(config, faults),
            Self::Fit(args) => fit::run(config, &args)?,
            Self::Import(args) => import::run(config, &args, &faults)?,
            Self::Verify(args) => verify::run(config, &args)?,
            Self::Export(args) => export::run(config, &args)?,
            Self::Model(ModelCommand::Info(args)) => model::info(config, &args)?,
            Self::Model(ModelCommand::Extract(args)) => extract::run(config, &args)?,
            Self::Model(ModelCommand::Adopt(args)) => adopt::run(config, &args)?,
            Self::Generate(args) => generate::run(config, &args)?,
            Self::Bench(command) => bench::run(config, &command)?,
            Self::Receipts(args) => receipts::run(config, &args)?,
            Self::Scrub(args) => scrub::run(config, &args)?,
            Self::Snapshot(command) => command.run(config)?,
            Self::Miner(command) => command.run(config)?,
            Self::Learn(args) => learn::run(config, &args)?,
            Self::Keys(command) => command.run(config)?,
            Self::Tree(args) => tree::run(config, &args)?,
            Self::Audit(command) => return command.run(config),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How commands compute.
#[derive(Clone, Debug, Args)]
struct ComputeArgs {
    /// fast, reference or cuda [default: inference.backend]
    #[arg(long, value_name = "B", value_parser = parse_backend)]
    backend: Option<Backend>,
    /// Threads [default: inference.threads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Experts per layer and token, the always-on ones included [default: all; `learn`: 12]
    #[arg(long, value_name = "N")]
    top_k_experts: Option<u32>,
}

impl ComputeArgs {
    fn apply(&self, config: &Config) -> Result<Config> {
        let mut config = config.clone();
        if let Some(backend) = self.backend {
            config.inference.backend = backend;
        }
        if let Some(threads) = self.threads {
            config.inference.threads = threads.into();
        }
        config.inference.validate()?;
        Ok(config)
    }
}

fn parse_backend(name: &str) -> Result<Backend, String> {
    serde_json::from_value(name.into()).map_err(|fault: serde_json::Error| fault.to_string())
}

/// Opens the published model, and ends its threads afterwards.
fn with_model<T>(config: &Config, work: impl FnOnce(&LocalModel) -> Result<T>) -> Result<T> {
    with_model_async(config, async |local| work(local))
}

fn with_model_async<T>(
    config: &Config,
    work: impl AsyncFnOnce(&LocalModel) -> Result<T>,
) -> Result<T> {
    actix_rt::System::new().block_on(async {
        let local = LocalModel::open(config).await?;
        let done = work(&local).await;
        local.close().await;
        done
    })
}

fn data_dir(config: &Config) -> DataDir {
    DataDir::new(config.node.data_dir())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", explain(error));
    let held = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ChainError::Held(_))));
    ExitCode::from(if held { EXIT_HELD } else { EXIT_FAULT })
}

/// The error and its causes, each said once.
fn explain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut said, cause| {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&cause);
        }
        said
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_flags_stand_before_or_after_the_command() {
        for line in [
            ["blyan", "--data-dir", "/d", "verify"],
            ["blyan", "verify", "--data-dir", "/d"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.common.data_dir, Some("/d".into()));
        }
    }

    #[test]
    fn a_cause_that_was_said_is_not_repeated() {
        let error = anyhow::Error::new(ChainError::Held("/d".into()))
            .context("a node runs: /d is held by a running node");
        assert_eq!(explain(&error), "a node runs: /d is held by a running node");
    }
}
