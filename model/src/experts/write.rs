//! An expert as a safetensors file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use blyan_formats::{BlockHash, PayloadHash, Tensor, TensorName, TensorView};
use safetensors::Dtype;
use safetensors::tensor::TensorView as Matrix;

use super::ExpertError;
use super::file::map;

/// Where an expert comes from, for the file's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertOrigin {
    /// `layer<N>.expert<M>`
    pub name: TensorName,
    /// Its block.
    pub block: BlockHash,
}

/// Writes the payload file `payload`, whose hash is `expected`, as [`write_expert`] does.
///
/// # Errors
/// [`ExpertError::Payload`] if a byte of it is not as the hash says; as [`write_expert`].
pub fn write_payload(
    payload: &Path,
    expected: PayloadHash,
    origin: ExpertOrigin,
    path: &Path,
) -> Result<(), ExpertError> {
    let map = map(payload).map_err(|why| ExpertError::file(payload, why))?;
    let view = TensorView::parse(&map).and_then(|view| {
        view.verify_full(expected)?;
        Ok(view)
    });
    let view = view.map_err(|why| ExpertError::Payload {
        name: origin.name,
        why,
    })?;
    write_expert(&view.tensor(), origin, path)
}

/// Writes the three matrices of an expert as fp32 under the names `gate` `[F, H]`, `up` `[F, H]` and `down` `[H, F]`,
/// each the weight of a linear layer: outputs x inputs. `expert` is `[3F, H]` as the chain keeps it. Taken back
/// unchanged by [`super::ExpertSource::extract`], an expert that was quantised here has the same bytes as before.
///
/// # Errors
/// [`ExpertError::File`], with `AlreadyExists` where there is a file; [`ExpertError::Values`] if the rows are not
/// those of three matrices.
pub fn write_expert(
    expert: &Tensor<'_>,
    origin: ExpertOrigin,
    path: &Path,
) -> Result<(), ExpertError> {
    let (neurons, hidden) = (expert.rows() / 3, expert.cols());
    let mut values = vec![0.0; 3 * neurons * hidden];
    let read = expert.dequantise_into(&mut values);
    read.map_err(|why| ExpertError::Values {
        name: origin.name,
        why,
    })?;
    let (gate_and_up, down) = values.split_at(2 * neurons * hidden);
    let (gate, up) = gate_and_up.split_at(neurons * hidden);
    let transposed = (0..hidden).flat_map(|column| down.iter().skip(column).step_by(hidden));
    let [gate, up, down] = [bytes(gate), bytes(up), bytes(transposed)];
    let wide = vec![neurons, hidden];
    let tensors = [
        ("gate", Matrix::new(Dtype::F32, wide.clone(), &gate)?),
        ("up", Matrix::new(Dtype::F32, wide, &up)?),
        (
            "down",
            Matrix::new(Dtype::F32, vec![hidden, neurons], &down)?,
        ),
    ];
    let file = safetensors::serialize(tensors, Some(metadata(origin)))?;
    put(path, &file).map_err(|why| ExpertError::file(path, why))
}

fn bytes<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn metadata(origin: ExpertOrigin) -> HashMap<String, String> {
    HashMap::from([
        ("expert".to_owned(), origin.name.to_string()),
        ("block".to_owned(), origin.block.to_string()),
    ])
}

/// A whole file or none, and never in place of another.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut staged = tempfile::NamedTempFile::new_in(folder)?;
    staged.write_all(bytes)?;
    staged.as_file().sync_all()?;
    staged.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}
