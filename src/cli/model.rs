use anyhow::Result;
use blyan_chain::ChainReader;
use blyan_protocol::ModelDescription;
use clap::Args;
use serde_json::{Value, json};

use super::data_dir;
use crate::config::Config;

/// `blyan model info`
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// As JSON, every weight included
    #[arg(long)]
    json: bool,
}

pub fn info(config: &Config, args: &InfoArgs) -> Result<()> {
    let reader = ChainReader::open_read_only(data_dir(config))?;
    let model = reader.model(None)?;
    if args.json {
        let genesis = reader.index().genesis().map(|hash| hash.to_string());
        println!("{:#}", as_json(&model, genesis));
        return Ok(());
    }
    let shape = &model.architecture;
    let bytes: u64 = model.entries.values().map(|entry| entry.payload_len).sum();
    println!("{} ({})", shape.name, shape.license);
    println!("model id  {}", model.id);
    println!(
        "layers    {}, {} wide, {} heads, {} key/value heads",
        shape.layers, shape.hidden, shape.heads, shape.kv_heads
    );
    println!(
        "experts   {} a layer, {} of them always on, {} neurons each",
        shape.experts.per_layer, shape.experts.always_on, shape.experts.neurons
    );
    println!(
        "context   {} tokens, vocabulary {}",
        shape.context, shape.vocab
    );
    println!("weights   {} blocks, {bytes} bytes", model.entries.len());
    Ok(())
}

fn as_json(model: &ModelDescription, genesis: Option<String>) -> Value {
    let shape = &model.architecture;
    let entries: serde_json::Map<String, Value> = model
        .entries
        .iter()
        .map(|(name, entry)| {
            let entry = json!({
                "block": entry.block.to_string(),
                "payload_hash": entry.payload.to_string(),
                "payload_len": entry.payload_len,
            });
            (name.to_string(), entry)
        })
        .collect();
    json!({
        "model_id": model.id.to_string(),
        "genesis_hash": genesis,
        "name": shape.name,
        "license": shape.license,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "vocab": shape.vocab,
        "context": shape.context,
        "experts": {
            "per_layer": shape.experts.per_layer,
            "always_on": shape.experts.always_on,
            "neurons": shape.experts.neurons,
        },
        "entries": entries,
    })
}
