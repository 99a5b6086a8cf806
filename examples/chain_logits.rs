//! `chain_logits DATA_DIR LINES OUT`: the node's logits for token lines, on the model in its store, all experts active.
//!
//! LINES and what is written to OUT are those of `gguf_logits`. `tests/oracle` compares them with another
//! implementation that reads the payload files itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use blyan::config::{Overrides, Sources};
use blyan::wiring::LocalModel;
use blyan_inference::local::LocalSequence;
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    prompt_len: usize,
    tokens: Vec<u32>,
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [data_dir, lines, out] = arguments.as_slice() else {
        anyhow::bail!("usage: chain_logits DATA_DIR LINES OUT");
    };
    let overrides = Overrides {
        data_dir: Some(data_dir.clone()),
        ..Overrides::default()
    };
    let config = Sources::of_process(None, overrides).load()?;
    let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(lines)?)?;
    actix_rt::System::new().block_on(async {
        let local = LocalModel::open(&config).await?;
        let written = lines.iter().enumerate().try_for_each(|(number, line)| {
            write_logits(&local, line, &out.join(format!("{number}.f32")))
        });
        local.close().await;
        written
    })
}

fn write_logits(local: &LocalModel, line: &Line, out: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(out)?);
    let mut sequence = LocalSequence::new(&local.engine, line.tokens.len(), local.top_k(None)?)?;
    let (prompt, rest) = line
        .tokens
        .split_at_checked(line.prompt_len)
        .context("a prompt longer than its line")?;
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        for logit in sequence.read(tokens)? {
            file.write_all(&logit.to_le_bytes())?;
        }
    }
    Ok(file.flush()?)
}
