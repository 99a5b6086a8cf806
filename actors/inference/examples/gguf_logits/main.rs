//! `gguf_logits GGUF LINES OUT`: the engine's logits for token lines, on the weights of a GGUF file.
//!
//! LINES is a JSON list of `{"prompt_len": n, "tokens": [..]}`. Each line's first `prompt_len` tokens are one prefill,
//! the rest decode steps. `OUT/<i>.f32` gets the logits after each token from the prompt's last on, fp32
//! `[steps, vocabulary]`. `tests/oracle` compares them with another implementation.

mod dense;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use blyan_inference::engine::{Engine, EngineOptions, ExpertFfn, ReferenceKernel};
use blyan_inference::local::LocalSequence;
use serde::Deserialize;

use dense::DenseModel;

#[derive(Deserialize)]
struct Line {
    prompt_len: usize,
    tokens: Vec<u32>,
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [gguf, lines, out] = arguments.as_slice() else {
        anyhow::bail!("usage: gguf_logits GGUF LINES OUT");
    };
    let library = std::env::var_os("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH is not set")?;
    let lines: Vec<Line> = serde_json::from_slice(&std::fs::read(lines)?)?;
    let engine = engine(gguf, library.into())?;
    for (number, line) in lines.iter().enumerate() {
        write_logits(&engine, line, &out.join(format!("{number}.f32")))?;
    }
    Ok(())
}

fn engine(gguf: &Path, library: PathBuf) -> Result<Engine> {
    let model = Arc::new(DenseModel::read(gguf)?);
    let ffn = ExpertFfn::new(
        model.shape,
        &model.entries,
        Arc::clone(&model) as _,
        Arc::new(ReferenceKernel),
    )?;
    let mut options = EngineOptions::new(library);
    options.threads = std::thread::available_parallelism()?.get();
    Ok(Engine::with_ffn(
        options,
        model.shape,
        model,
        Arc::new(ffn),
    )?)
}

fn write_logits(engine: &Engine, line: &Line, out: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(out)?);
    let top_k = engine.shape().experts as u32;
    let mut sequence = LocalSequence::new(engine, line.tokens.len(), top_k)?;
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
