use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use awc::http::Method;
use blyan_formats::{BlockHash, NetworkId, NodeKey, TensorName};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::block_file::{Ground, kept_or_new};
use super::passphrase::PassphraseArgs;
use super::payload::{self, PayloadFile};
use super::transfer::{Listener, Patience, read, upload};
use super::{key, key_file};
use crate::cli::node_api::NodeApi;
use crate::cli::progress::Bar;
use crate::config::Config;
use crate::edge::replies::VersionReply;
use crate::wiring::now_ms;

/// `blyan miner upload`
#[derive(Debug, Args)]
pub struct UploadArgs {
    /// A payload file, or a folder of them
    path: PathBuf,
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    node: Option<String>,
    /// The key that signs [default: miner.key in the data directory]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// The version that is improved [default: the one that the newest manifest names]
    #[arg(long, value_name = "HASH")]
    parent: Option<BlockHash>,
    /// As JSON, a line for each expert
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, args: &UploadArgs) -> Result<()> {
    let payloads = payload::find(&args.path)?;
    let key_path = key::path(config, args.key.clone());
    // Whatever is wrong with the key's file is said before anybody is asked for its passphrase.
    key_file::public_key(&key_path)?;
    let key = key_file::open(&key_path, args.passphrase.get()?.as_bytes())?;
    // The owner's key of this machine's node is nothing for the node of somebody else.
    let api = NodeApi::of_anybody(config, args.node.as_deref());
    actix_rt::System::new().block_on(async {
        // The first question is asked once: a wrong address is no node that restarts.
        let genesis = api.ask(Method::GET, "/genesis/hash").await?;
        let genesis: Genesis = serde_json::from_slice(&genesis).context("the node's answer")?;
        let job = Job {
            api: &api,
            key: &key,
            network: NetworkId::of_genesis(genesis.genesis_hash),
            args,
        };
        for (name, path) in payloads {
            job.bring(name, &path)
                .await
                .with_context(|| name.to_string())?;
        }
        Ok(())
    })
}

struct Job<'a> {
    api: &'a NodeApi,
    key: &'a NodeKey,
    network: NetworkId,
    args: &'a UploadArgs,
}

/// `GET /genesis/hash`
#[derive(Deserialize)]
struct Genesis {
    genesis_hash: BlockHash,
}

/// `GET /experts/{name}/versions`
#[derive(Deserialize)]
struct Versions {
    versions: Vec<VersionReply>,
}

impl Job<'_> {
    async fn bring(&self, name: TensorName, path: &Path) -> Result<()> {
        let payload = PayloadFile::open(name, path)?;
        let bar = Bar::of_bytes("upload");
        let listener = Listener {
            progress: &|done, all| bar.set(done, all),
            trouble: &|why| eprintln!("{name}: {why}; trying again"),
        };
        let patience = Patience::default();
        let asked = format!("/experts/{name}/versions");
        let known: Versions = read(self.api, &asked, &patience, &listener).await?;
        let same = payload.hash.to_string();
        let there = known.versions.iter().find(|v| v.payload_hash == same);
        let (block, new) = match there {
            Some(version) => (version.hash.clone(), false),
            None => {
                let ground = self.ground(&known.versions)?;
                let block = kept_or_new(path, &payload, &ground, self.key, now_ms())?;
                let stored = upload(self.api, &payload, &block, &patience, &listener).await?;
                (stored.block, true)
            }
        };
        drop(bar);
        say(&payload, &block, new, self.args.json);
        Ok(())
    }

    /// What a new version stands on.
    fn ground(&self, versions: &[VersionReply]) -> Result<Ground> {
        let parent = self.choose(versions)?;
        let architecture = parent.meta_ref.as_deref();
        let architecture = architecture.context("the node names no architecture")?;
        Ok(Ground {
            network: self.network,
            architecture: architecture.parse()?,
            parent: (parent.hash.parse()?, parent.index),
        })
    }

    fn choose<'v>(&self, versions: &'v [VersionReply]) -> Result<&'v VersionReply> {
        let Some(asked) = self.args.parent else {
            let current = versions.iter().find(|version| version.current);
            return current.context(
                "the newest manifest has no such expert; --parent names a version to improve",
            );
        };
        let asked = asked.to_string();
        let found = versions.iter().find(|version| version.hash == asked);
        found.ok_or_else(|| anyhow!("the node has no version {asked} of this expert"))
    }
}

fn say(payload: &PayloadFile, block: &str, new: bool, as_json: bool) {
    let name = payload.name;
    if as_json {
        let said = json!({
            "expert": name.to_string(),
            "block": block,
            "payload_hash": payload.hash.to_string(),
            "payload_len": payload.len,
            // Whether this run brought it there.
            "uploaded": new,
        });
        println!("{said}");
        return;
    }
    let how = if new {
        "stored as"
    } else {
        "on the chain already,"
    };
    println!("{name}  {how} block {block}");
}
