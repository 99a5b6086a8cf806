//! `blyan model adopt`: experts that become part of the model of a running node, asked for as its admin.

use anyhow::{Result, anyhow};
use awc::http::Method;
use blyan_formats::BlockHash;
use clap::Args;

use super::node_api::{Body, NodeApi};
use crate::config::Config;
use crate::edge::{AdoptReply, AdoptRequest};

/// `blyan model adopt`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Blocks of experts, as `blyan miner upload` prints them: 64 hex digits
    #[arg(value_name = "BLOCK", required = true)]
    blocks: Vec<BlockHash>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// As the node says it
    #[arg(long)]
    json: bool,
    /// The node [default: http:// and node.listen]
    #[arg(long, value_name = "URL")]
    node: Option<String>,
}

/// Returns when new requests are answered by the changed model.
///
/// # Errors
/// No node answers, or it refuses.
pub fn run(config: &Config, args: &AdoptArgs) -> Result<()> {
    let wanted = AdoptRequest {
        blocks: args.blocks.clone(),
        reason: args.reason.clone(),
    };
    let body = Body::Json(serde_json::to_vec(&wanted)?);
    let api = NodeApi::new(config, args.node.as_deref());
    let reply = actix_rt::System::new().block_on(api.send(Method::POST, "/model/adopt", body))?;
    if !reply.status.is_success() {
        return Err(anyhow!("the node answers {}", reply.refusal()));
    }
    let adopted: AdoptReply = reply.json()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&adopted)?);
        return Ok(());
    }
    for expert in &adopted.replaced {
        println!("{}  {} -> {}", expert.name, expert.from, expert.to);
    }
    if adopted.replaced.is_empty() {
        println!("the model has these blocks already");
    }
    println!("model id  {}", adopted.model_id);
    Ok(())
}
