//! Logs to standard error, metrics for `/metrics`.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::NodeConfig;

const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Begins to log.
///
/// # Errors
/// `node.log` is no filter, or the process logs already.
pub fn init_logs(config: &NodeConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("node.log: {:?} is no log filter", config.log))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let begun = if config.log_json {
        logs.json().try_init()
    } else {
        logs.try_init()
    };
    begun.map_err(|fault| anyhow::anyhow!("logs: {fault}"))
}

/// Begins to count. Must come before the first metric is described.
///
/// # Errors
/// The process counts already.
pub fn init_metrics() -> Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .context("metrics: buckets")?;
    let handle = builder.install_recorder().context("metrics: recorder")?;
    crate::edge::metrics::describe();
    blyan_chain::describe_metrics();
    blyan_expert_cache::describe_metrics();
    blyan_inference::metrics::describe();
    blyan_supervisors::describe_metrics();
    Ok(handle)
}
