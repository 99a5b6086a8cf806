#![doc = include_str!("../README.md")]

mod check;
mod client;
mod report;
mod run;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::scenario::Scenario;

#[derive(Parser)]
#[command(version, about = "Open-loop chat load on a running node")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario and reports; exits 1 when a threshold is broken.
    Run {
        /// The scenario's TOML file.
        scenario: PathBuf,
        /// The node, on loopback.
        #[arg(long, default_value = "http://127.0.0.1:8000")]
        url: String,
        /// Sent as X-API-Key.
        #[arg(long)]
        api_key: Option<String>,
        /// Also writes the report as JSON to this file, `-` for standard output in place of the table.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match actix_rt::System::new().block_on(execute(Cli::parse().command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<bool> {
    let Command::Run {
        scenario,
        url,
        api_key,
        json,
    } = command;
    refuse_other_machines(&url)?;
    let text = std::fs::read_to_string(&scenario)
        .with_context(|| format!("cannot read {}", scenario.display()))?;
    let scenario = Scenario::parse(&text)
        .with_context(|| format!("{} is not a scenario", scenario.display()))?;
    let outcomes = run::run(&scenario, &client::Target::new(url, api_key)).await?;
    let report = report::Report::new(&scenario, &outcomes);
    match json.as_deref() {
        Some(path) if path.as_os_str() == "-" => println!("{}", report.to_json()?),
        Some(path) => {
            std::fs::write(path, report.to_json()?)?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    Ok(report.broken.is_empty())
}

/// A load harness pointed at somebody else's machine is an attack.
fn refuse_other_machines(url: &str) -> anyhow::Result<()> {
    let uri: actix_web::http::Uri = url.parse().context("--url is not a URL")?;
    let host = uri.host().context("--url names no host")?;
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if uri.scheme_str() != Some("http") || !loopback {
        bail!("only http:// to a loopback address is accepted, not {url}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::refuse_other_machines;

    #[test]
    fn only_loopback_is_a_target() {
        for url in [
            "http://127.0.0.1:8000",
            "http://localhost:1",
            "http://[::1]:8000",
        ] {
            assert!(refuse_other_machines(url).is_ok(), "{url}");
        }
        for url in [
            "http://example.org",
            "https://127.0.0.1",
            "http://10.0.0.1:8000",
            "nonsense",
        ] {
            assert!(refuse_other_machines(url).is_err(), "{url}");
        }
    }
}
