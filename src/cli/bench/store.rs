use std::time::{Duration, Instant};

use anyhow::Result;
use blyan_chain::{RocksStore, VerifyOptions};
use serde::Serialize;

use super::BenchArgs;
use crate::cli::{data_dir, with_model_async};
use crate::config::Config;

const LOAD_LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Load {
    experts: usize,
    seconds: f64,
    experts_per_second: f64,
    mapped_bytes: u64,
}

/// All experts, with their derivations in place.
pub fn load(config: &Config, args: &BenchArgs) -> Result<()> {
    let config = args.compute.apply(config)?;
    let measured = with_model_async(&config, async |local| {
        let experts: Vec<_> = local
            .model
            .entries
            .iter()
            .filter(|(name, _)| name.expert().is_some())
            .collect();
        for (_, entry) in &experts {
            local.cache.evict(entry.payload, LOAD_LIMIT).await?;
        }
        let form = config.inference.backend.form();
        let began = Instant::now();
        for (name, entry) in &experts {
            local
                .cache
                .load(**name, entry.payload, form, LOAD_LIMIT)
                .await?;
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(Load {
            experts: experts.len(),
            seconds,
            experts_per_second: experts.len() as f64 / seconds,
            mapped_bytes: local.cache.status().resident_bytes,
        })
    })?;
    args.print(&measured)
}

#[derive(Serialize)]
struct Verify {
    bytes_per_second: f64,
    seconds: f64,
    payload_bytes: u64,
    blocks: u64,
    threads: usize,
}

pub fn verify(config: &Config, args: &BenchArgs) -> Result<()> {
    let config = args.compute.apply(config)?;
    let store = RocksStore::open_read_only(data_dir(&config))?;
    let threads = args
        .compute
        .threads
        .map_or(config.chain.verify_threads, usize::from);
    let report = blyan_chain::verify(
        &store,
        VerifyOptions {
            threads,
            ..VerifyOptions::default()
        },
    )?;
    let seconds = report.elapsed.as_secs_f64();
    args.print(&Verify {
        bytes_per_second: (report.payload_bytes + report.json_bytes) as f64 / seconds,
        seconds,
        payload_bytes: report.payload_bytes,
        blocks: report.blocks_a + report.blocks_b,
        threads,
    })
}
