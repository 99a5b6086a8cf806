use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use blyan_chain::snapshot::Snapshot;
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;

use super::progress::Bar;
use crate::config::Config;
use crate::telemetry;
use crate::wiring::{Faults, Home, ImportSource, NodeEnd, RunningNode, StopSignals, resume};

/// `blyan node`
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where to listen [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

pub fn run(config: &Config, faults: Faults) -> Result<ExitCode> {
    let metrics = telemetry::init_metrics()?;
    let config = config.clone();
    let end = actix_rt::System::new().block_on(async move {
        let mut stop = StopSignals::listen()?;
        let listener = bind(&config)?;
        let home = open(&config, None).await?;
        let (home, listener) = if home.has_model()? {
            (home, listener)
        } else {
            // Meanwhile clients are refused at once instead of waiting unheard.
            drop(listener);
            let Some(home) = import(&config, home, &faults, &mut stop).await? else {
                return Ok(NodeEnd::Stopped);
            };
            (home, bind(&config)?)
        };
        serve(&config, home, &listener, faults, metrics, &mut stop).await
    })?;
    Ok(leave(&end))
}

/// One tree after the other on the same address: connections wait for the next one while the node goes back to a
/// snapshot.
async fn serve(
    config: &Config,
    mut home: Home,
    listener: &TcpListener,
    faults: Faults,
    metrics: PrometheusHandle,
    stop: &mut StopSignals,
) -> Result<NodeEnd> {
    let mut driver = faults.driver;
    loop {
        let (listener, seams) = (listener.try_clone()?, faults.seams.clone());
        let node =
            RunningNode::start(config.clone(), home, listener, seams, metrics.clone()).await?;
        if let Some(driver) = driver.take() {
            driver(node.poke());
        }
        let verified = match node.run(stop).await? {
            NodeEnd::RollingBack(verified) => verified,
            end => return Ok(end),
        };
        home = tokio::select! {
            home = open(config, verified) => home?,
            // The next start goes on with it.
            () = stop.recv() => return Ok(NodeEnd::Stopped),
        };
    }
}

/// The data directory, after a rollback that was ordered.
async fn open(config: &Config, verified: Option<Snapshot>) -> Result<Home> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        resume(&config, verified.as_ref())?;
        Home::open(&config)
    })
    .await?
}

fn bind(config: &Config) -> Result<TcpListener> {
    let listen = config.node.listen;
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Imports; nothing if the node is told to stop meanwhile, which an import survives at any moment.
async fn import(
    config: &Config,
    home: Home,
    faults: &Faults,
    stop: &mut StopSignals,
) -> Result<Option<Home>> {
    tracing::info!("the data directory holds no model yet: importing it");
    let (config, probe) = (config.clone(), Arc::clone(&faults.seams.probe));
    let importing = tokio::task::spawn_blocking(move || {
        let bar = Bar::of_things("import");
        let source = ImportSource::of(&config);
        let imported = home.import(&config, &source, &*probe, &|done, all| bar.set(done, all))?;
        tracing::info!(model = %imported.model, blocks = imported.blocks, "imported");
        anyhow::Ok(home)
    });
    tokio::select! {
        home = importing => Ok(Some(home??)),
        () = stop.recv() => Ok(None),
    }
}

/// Ends the process here: threads that were abandoned may be inside foreign code, which must not meet its own
/// destructors.
fn leave(end: &NodeEnd) -> ExitCode {
    if let NodeEnd::Failed(exit) = end {
        eprintln!("error: {exit}");
    }
    let _ = std::io::stdout().flush();
    let status = end.exit_status();
    // SAFETY: `_exit` ends the process without running anything of it; output is flushed, the store is durable.
    unsafe { libc::_exit(status.into()) }
}
