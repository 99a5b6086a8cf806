//! Logs to standard error, metrics for `/metrics`.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::NodeConfig;

const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Begins to log; `more` are directives that win over the configuration's.
///
/// # Errors
/// `node.log` is no filter, or the process logs already.
pub fn init_logs(config: &NodeConfig, more: &str) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{},{more}", config.log))
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
    begun.map_err(|fault| anyhow::anyhow!("logs: {fault}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What was caught is counted where it was caught; here it is only said.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let text = panic_text(panic.payload());
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location,
        "panic: {text}"
    );
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
    blyan_reward::describe_metrics();
    blyan_security::describe_metrics();
    blyan_supervisors::describe_metrics();
    Ok(handle)
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(owned)
        .unwrap_or("(no text)")
}
