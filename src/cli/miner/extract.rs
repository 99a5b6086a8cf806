use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use blyan_chain::ChainReader;
use blyan_formats::tensorblock::{TensorBuf, Written, write_tensorblock};
use blyan_formats::{PayloadHash, TensorName};
use blyan_model::Recipe;
use blyan_model::experts::{ModelFiles, Wanted};
use clap::Args;
use serde_json::json;

use super::payload::file_name;
use crate::cli::data_dir;
use crate::config::Config;
use crate::wiring::ImportSource;

/// `blyan miner extract`
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// A GGUF or safetensors file, or the folder of one model
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Such as layer3.expert5
    #[arg(long = "expert", value_name = "NAME", required = true, num_args = 1..)]
    experts: Vec<TensorName>,
    /// The folder for the payloads
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// For a dense model: which neurons of a layer make an expert [default: model.recipe, else the built-in one]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// As JSON, a line for each expert
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, args: &ExtractArgs) -> Result<()> {
    let model = ChainReader::open_read_only(data_dir(config))?.model(None)?;
    let files = ModelFiles::open(&args.from)?;
    let source = files
        .source()
        .with_context(|| args.from.display().to_string())?;
    let recipe = recipe(config, args.recipe.as_ref())?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for name in &args.experts {
        let wanted = Wanted::of(&model.architecture, *name)?;
        let expert = source.extract(&wanted, Some(&recipe))?;
        let path = args.out.join(file_name(*name));
        let written = put(&path, &expert).with_context(|| path.display().to_string())?;
        let served = model.entries.get(name).map(|entry| entry.payload);
        say(*name, &path, &written, served, args.json);
    }
    Ok(())
}

fn recipe(config: &Config, given: Option<&PathBuf>) -> Result<Recipe> {
    let mut source = ImportSource::of(config);
    source.recipe = given.cloned().or(source.recipe);
    source.read_recipe()
}

/// Writes a whole payload or none.
///
/// # Errors
/// The file cannot be written, or a value is not finite.
pub fn put(path: &Path, expert: &TensorBuf) -> Result<Written> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut out = BufWriter::new(tempfile::NamedTempFile::new_in(folder)?);
    let written = write_tensorblock(&expert.as_tensor(), &mut out)?;
    out.flush()?;
    let staged = out.into_inner()?;
    staged.as_file().sync_all()?;
    staged.persist(path)?;
    Ok(written)
}

fn say(
    name: TensorName,
    path: &Path,
    written: &Written,
    served: Option<PayloadHash>,
    as_json: bool,
) {
    let unchanged = served == Some(written.payload_hash);
    if as_json {
        let said = json!({
            "expert": name.to_string(),
            "file": path,
            "payload_hash": written.payload_hash.to_string(),
            "payload_len": written.len,
            "unchanged": unchanged,
        });
        println!("{said}");
        return;
    }
    let path = path.display();
    let remark = if unchanged {
        ", the same as on the chain"
    } else {
        ""
    };
    println!(
        "{name}  {path}  {} bytes, payload {}{remark}",
        written.len, written.payload_hash
    );
}
