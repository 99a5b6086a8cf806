use std::path::{Path, PathBuf};

use anyhow::Result;
use blyan_formats::PublicKey;
use clap::{Args, Subcommand};
use serde_json::json;

use super::key_file::{self, Cost};
use super::passphrase::PassphraseArgs;
use crate::config::Config;

/// The key's file in the data directory.
const KEY_FILE: &str = "miner.key";

/// `blyan miner key`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key, encrypted under a passphrase
    New(NewArgs),
    /// The public half, which an admin grants
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// A file that does not exist yet [default: miner.key in the data directory]
    file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The key [default: miner.key in the data directory]
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl KeyCommand {
    pub fn run(self, config: &Config) -> Result<()> {
        match self {
            Self::New(args) => {
                let path = path(config, args.file);
                let passphrase = args.passphrase.choose()?;
                let public = key_file::create(&path, passphrase.as_bytes(), Cost::RECOMMENDED)?;
                say(&path, public, args.json)
            }
            Self::Show(args) => {
                let path = path(config, args.file);
                say(&path, key_file::public_key(&path)?, args.json)
            }
        }
    }
}

/// The key's file: the given one, or the data directory's.
pub fn path(config: &Config, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| config.node.data_dir().join(KEY_FILE))
}

fn say(path: &Path, public: PublicKey, json: bool) -> Result<()> {
    if json {
        let said = json!({"file": path, "public_key": public.to_string()});
        println!("{said:#}");
        return Ok(());
    }
    println!("file        {}", path.display());
    println!("public key  {public}");
    Ok(())
}
