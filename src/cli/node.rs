use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::progress::Bar;
use crate::config::Config;
use crate::telemetry;
use crate::wiring::{Faults, Home, ImportSource, NodeEnd, RunningNode};

/// `blyan node`
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where to listen [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

pub fn run(config: &Config, faults: Faults) -> Result<ExitCode> {
    let metrics = telemetry::init_metrics()?;
    let mut listener = bind(config)?;
    let home = Home::open(config)?;
    if !home.has_model()? {
        // Meanwhile clients are refused at once instead of waiting unheard.
        drop(listener);
        import(config, &home, &faults)?;
        listener = bind(config)?;
    }
    let config = config.clone();
    let end = actix_rt::System::new().block_on(async move {
        let node = RunningNode::start(config, home, listener, faults.probe, metrics).await?;
        if let Some(driver) = faults.driver {
            driver(node.poke());
        }
        node.run().await
    })?;
    Ok(leave(&end))
}

fn bind(config: &Config) -> Result<TcpListener> {
    let listen = config.node.listen;
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn import(config: &Config, home: &Home, faults: &Faults) -> Result<()> {
    tracing::info!("the data directory holds no model yet: importing it");
    let bar = Bar::of_things("import");
    let source = ImportSource::of(config);
    let imported = home.import(config, &source, &*faults.probe, &|done, all| bar.set(done, all))?;
    tracing::info!(model = %imported.model, blocks = imported.blocks, "imported");
    Ok(())
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
