//! `blyan miner`: experts of somebody's own, on the way to the chain.

mod block_file;
mod extract;
mod key;
mod key_file;
mod passphrase;
mod payload;
mod transfer;
mod upload;

use anyhow::Result;
use clap::Subcommand;

pub use extract::put as put_payload;
pub use payload::file_name as payload_file_name;

use crate::config::Config;

/// `blyan miner`
#[derive(Debug, Subcommand)]
pub enum MinerCommand {
    /// The key that signs what is uploaded
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Take experts out of a model file, in the form that the chain keeps them in
    Extract(extract::ExtractArgs),
    /// Sign experts and bring them to a node; goes on where an interrupted upload stopped
    Upload(upload::UploadArgs),
}

impl MinerCommand {
    pub fn run(self, config: &Config) -> Result<()> {
        match self {
            Self::Key(command) => command.run(config),
            Self::Extract(args) => extract::run(config, &args),
            Self::Upload(args) => upload::run(config, &args),
        }
    }
}
