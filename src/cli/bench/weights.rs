//! What a token costs in bytes of weights.

use std::ops::Range;

use anyhow::{Context, Result};
use blyan_chain::ChainReader;
use blyan_formats::TensorView;
use blyan_protocol::{ModelDescription, WeightForm};

use crate::cli::data_dir;
use crate::config::Config;

/// Bytes of weights that the backend reads for a token that is computed alone with `top_k` experts a layer. The
/// embedding counts once, as the head; the row that is looked up in it does not count.
///
/// # Errors
/// A payload cannot be found or is no TensorBlock.
pub fn bytes_per_token(config: &Config, model: &ModelDescription, top_k: u32) -> Result<u64> {
    let reader = ChainReader::open_read_only(data_dir(config))?;
    let (mut others, mut experts) = (0, 0);
    for (name, entry) in &model.entries {
        let path = reader.locate(entry.payload)?.path;
        let payload = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let bytes = read_bytes(
            config.inference.backend.form(),
            &TensorView::parse(&payload)?,
        );
        match name.expert() {
            Some(_) => experts += bytes,
            None => others += bytes,
        }
    }
    let per_layer = u64::from(model.architecture.experts.per_layer);
    Ok(others + experts * u64::from(top_k) / per_layer)
}

/// Bytes of one weight in the form that the backend computes from.
fn read_bytes(form: WeightForm, weight: &TensorView<'_>) -> u64 {
    let (spec, sections) = (weight.spec(), weight.sections());
    let len = |range: &Range<u64>| range.end - range.start;
    match form {
        WeightForm::Fp32 => spec.rows * spec.cols * size_of::<f32>() as u64,
        WeightForm::Stored => len(&sections.scales) + len(&sections.data),
    }
}
