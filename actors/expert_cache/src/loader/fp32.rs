//! The fp32 derivation of a payload: a raw, row-major file beside the payloads, trusted only by its SHA-256.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_formats::Tensor;
use metrics::counter;
use sha2::{Digest, Sha256};

use super::VerifiedPayload;
use crate::cast::bytes_of;
use crate::{CacheError, GuardedMap, metrics as names};

/// Values that are converted, hashed and written at once: what fits a processor's second cache.
const CHUNK_VALUES: usize = 64 * 1024;

/// Maps the file if it has this length and this SHA-256; `None` if it is missing, unreadable or another.
///
/// # Errors
/// [`CacheError::TooManyMaps`] and [`CacheError::Signal`], which another file would not change.
pub(super) fn map_if_equal(
    path: &Path,
    len: u64,
    sha256: &[u8; 32],
) -> Result<Option<GuardedMap>, CacheError> {
    match GuardedMap::open(path, len) {
        Ok(map) => {
            let equal = Sha256::digest(map.as_slice())[..] == sha256[..] && map.intact();
            Ok(equal.then_some(map))
        }
        Err(CacheError::Io { .. } | CacheError::Length { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Writes the derivation under another name and renames it into place. Returns its SHA-256. It is not synced: a file
/// that a power failure tore fails its SHA-256 and is made again.
///
/// # Errors
/// [`CacheError::Io`], with nothing left behind; [`CacheError::Corrupt`] if the payload went bad meanwhile.
pub(super) fn write(verified: &VerifiedPayload) -> Result<[u8; 32], CacheError> {
    let path = &verified.location().fp32_path;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CacheError::io("creating", folder))?;
    }
    remove_leftovers(path);
    let temporary = Temporary::beside(path);
    let mut file =
        File::create_new(&temporary.0).map_err(CacheError::io("creating", &temporary.0))?;
    let sha256 = write_values(verified, &mut file, &temporary.0)?;
    verified.check_intact()?;
    fs::rename(&temporary.0, path).map_err(CacheError::io("renaming to", path))?;
    counter!(names::REBUILT).increment(1);
    Ok(sha256)
}

fn write_values(
    verified: &VerifiedPayload,
    file: &mut File,
    path: &Path,
) -> Result<[u8; 32], CacheError> {
    let tensor = verified.view()?.tensor();
    let rows_at_once = (CHUNK_VALUES / tensor.cols()).max(1);
    let mut values = vec![0.0; rows_at_once.min(tensor.rows()) * tensor.cols()];
    let mut hasher = Sha256::new();
    for start in (0..tensor.rows()).step_by(rows_at_once) {
        let bytes = dequantise(&tensor, start, rows_at_once, &mut values)?;
        hasher.update(bytes);
        file.write_all(bytes)
            .map_err(CacheError::io("writing", path))?;
    }
    Ok(hasher.finalize().into())
}

/// The bytes of at most `rows` rows from `start`.
fn dequantise<'a>(
    tensor: &Tensor<'_>,
    start: usize,
    rows: usize,
    values: &'a mut [f32],
) -> Result<&'a [u8], CacheError> {
    let end = tensor.rows().min(start + rows);
    let values = &mut values[..(end - start) * tensor.cols()];
    tensor
        .dequantise_rows(start..end, values)
        .map_err(|error| CacheError::Form(error.to_string()))?;
    Ok(bytes_of(values))
}

/// Removes what a killed process left behind of this derivation: it is missing then, so it is made again and this is
/// called. A file that stays is only wasted space.
fn remove_leftovers(path: &Path) {
    let Some(folder) = path.parent() else { return };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    for file in files.map(|file| file.path()) {
        if Temporary::writer(&file, path).is_some_and(|writer| !is_alive(writer)) {
            let _ = fs::remove_file(file);
        }
    }
}

fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// A file that is removed again unless it was renamed: the target's name, then `.tmp-<process>-<number>`.
struct Temporary(PathBuf);

impl Temporary {
    /// A name that no other load uses, in this process or another.
    fn beside(path: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".tmp-{}-{next}", std::process::id()));
        Self(path.with_file_name(name))
    }

    /// The process that writes `file`, if that is a temporary of `path`.
    fn writer(file: &Path, path: &Path) -> Option<u32> {
        let (name, target) = (file.file_name()?.to_str()?, path.file_name()?.to_str()?);
        let (process, _) = name
            .strip_prefix(target)?
            .strip_prefix(".tmp-")?
            .split_once('-')?;
        process.parse().ok()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}
