//! `blyan keys`: which keys may sign blocks, asked of a running node as its admin.

use anyhow::{Result, anyhow};
use awc::http::Method;
use blyan_formats::PublicKey;
use clap::Subcommand;

use super::node_api::{Body, NodeApi};
use crate::config::Config;

/// Where a node lists and grants keys.
const PATH: &str = "/chain/keys";

/// `blyan keys`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// The keys that may sign blocks, as JSON
    List(ListArgs),
    /// Let a key sign experts, and nothing else, from here on; it cannot be taken back
    Grant(GrantArgs),
}

/// `blyan keys list`
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    node: Option<String>,
}

/// `blyan keys grant`
#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    /// The key, as `blyan miner key show` prints it: 66 hex digits
    #[arg(value_name = "KEY")]
    key: PublicKey,
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    node: Option<String>,
}

impl KeysCommand {
    /// Prints what the node answers.
    ///
    /// # Errors
    /// No node answers, or it refuses.
    pub fn run(&self, config: &Config) -> Result<()> {
        let (node, method, body) = match self {
            Self::List(args) => (&args.node, Method::GET, Body::Empty),
            Self::Grant(args) => {
                let body = serde_json::to_vec(&serde_json::json!({ "key": args.key }))?;
                (&args.node, Method::POST, Body::Json(body))
            }
        };
        let api = NodeApi::new(config, node.as_deref());
        let reply = actix_rt::System::new().block_on(api.send(method, PATH, body))?;
        if !reply.status.is_success() {
            return Err(anyhow!("the node answers {}", reply.refusal()));
        }
        let answer: serde_json::Value = reply.json()?;
        println!("{}", serde_json::to_string_pretty(&answer)?);
        Ok(())
    }
}
