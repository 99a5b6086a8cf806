use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use blyan_chain::ChainReader;
use blyan_formats::{NodeKey, PublicKey};
use blyan_security::audit::{AUDIT_DIR, Anchor, AuditError, AuditFault, AuditReport, verify};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{EXIT_FAULT, data_dir};
use crate::config::Config;
use crate::wiring::anchors;

/// What the command cannot see.
const LIMIT: &str = "what was cut off after the last anchor cannot be found out";

/// `blyan audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check every byte of the audit log; exit 0, or name the first fault and exit 1. Changes nothing, and may run
    /// beside a node
    Verify(AuditVerifyArgs),
}

/// `blyan audit verify`
#[derive(Debug, Args)]
pub struct AuditVerifyArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// What the log once held, besides what chain A says: its number of records and the last one's hash. What was cut
    /// off after the last anchor cannot be found out
    #[arg(long, value_name = "COUNT:HEAD")]
    anchor: Vec<Anchor>,
    /// The key that must have signed every record [default: that of node.key]
    #[arg(long, value_name = "PUBLIC_KEY")]
    key: Option<PublicKey>,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Said<'a> {
    Whole {
        #[serde(flatten)]
        report: &'a AuditReport,
        limit: &'static str,
    },
    Fault {
        #[serde(flatten)]
        fault: &'a AuditFault,
        text: String,
    },
}

impl AuditCommand {
    pub fn run(self, config: &Config) -> Result<ExitCode> {
        let Self::Verify(args) = self;
        let dir = config.node.data_dir();
        let key = args.key.map_or_else(|| node_key(&dir), Ok)?;
        let mut known = match on_chain(config, key) {
            // A log may be checked away from its chain, by whoever knows an anchor.
            Err(why) if !args.anchor.is_empty() => {
                eprintln!("without the chain's anchors: {why:#}");
                Vec::new()
            }
            known => known?,
        };
        known.extend(&args.anchor);
        match verify(&dir.join(AUDIT_DIR), key, &known) {
            Ok(report) => {
                say_whole(&report, key, args.json)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(AuditError::Fault(fault)) if args.json => {
                let text = fault.to_string();
                print_json(&Said::Fault {
                    fault: &fault,
                    text,
                })?;
                Ok(ExitCode::from(EXIT_FAULT))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The anchors that the node has put on chain A.
fn on_chain(config: &Config, key: PublicKey) -> Result<Vec<Anchor>> {
    let reader = ChainReader::open_read_only(data_dir(config));
    let reader = reader.context("chain A, which holds the log's anchors")?;
    anchors(&reader, key)
}

fn node_key(dir: &Path) -> Result<PublicKey> {
    let path = dir.join(crate::wiring::NODE_KEY_FILE);
    let key = NodeKey::load(&path)
        .with_context(|| format!("{}; --key names the public key instead", path.display()))?;
    Ok(key.public_key())
}

fn say_whole(report: &AuditReport, key: PublicKey, json: bool) -> Result<()> {
    if json {
        return print_json(&Said::Whole {
            report,
            limit: LIMIT,
        });
    }
    let last_anchor = report
        .last_anchor
        .map_or_else(|| "none".to_owned(), |anchor| anchor.to_string());
    println!("verified, no fault");
    println!("records   {}", report.end.count);
    println!("head      {}", report.end.head);
    println!("key       {key}");
    println!("anchor    {last_anchor}");
    if report.torn_len > 0 {
        println!(
            "unfinished append of {} bytes: under way, or cut off by a crash before anybody was told",
            report.torn_len
        );
    }
    println!("limit     {LIMIT}");
    Ok(())
}

fn print_json(said: &Said<'_>) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(said)?);
    Ok(())
}
