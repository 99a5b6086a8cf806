//! Model files, mapped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{ExpertError, ExpertSource};

/// A model's files: a GGUF, a safetensors file, or the shards of one in a folder. They must not change while they are
/// mapped; what is cut off meanwhile ends the process.
pub struct ModelFiles {
    maps: Vec<Mmap>,
}

impl ModelFiles {
    /// Maps a file, or the model in a folder: its `.safetensors` files, else its only `.gguf` file.
    ///
    /// # Errors
    /// [`ExpertError::File`], [`ExpertError::EmptyFolder`].
    pub fn open(path: &Path) -> Result<Self, ExpertError> {
        let files = if path.is_dir() {
            of_folder(path)?
        } else {
            vec![path.to_owned()]
        };
        let maps = files
            .iter()
            .map(|file| map(file).map_err(|why| ExpertError::file(file, why)));
        Ok(Self {
            maps: maps.collect::<Result<_, _>>()?,
        })
    }

    /// Parses the files.
    ///
    /// # Errors
    /// As [`ExpertSource::parse`].
    pub fn source(&self) -> Result<ExpertSource<'_>, ExpertError> {
        match &self.maps[..] {
            [one] => ExpertSource::parse(one),
            shards => ExpertSource::parse_shards(shards.iter().map(|shard| &shard[..])),
        }
    }
}

fn of_folder(folder: &Path) -> Result<Vec<PathBuf>, ExpertError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        entries.collect()
    };
    let all = list().map_err(|why| ExpertError::file(folder, why))?;
    let of_kind = |kind: &str| -> Vec<PathBuf> {
        let mut found = all.clone();
        found.retain(|path| path.extension().is_some_and(|extension| extension == kind));
        found.sort_unstable();
        found
    };
    let shards = of_kind("safetensors");
    if !shards.is_empty() {
        return Ok(shards);
    }
    let ggufs = of_kind("gguf");
    if ggufs.len() == 1 {
        return Ok(ggufs);
    }
    Err(ExpertError::EmptyFolder(folder.to_owned()))
}

pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and its bytes are only ever read as plain bytes and checked text; that nobody changes
    // the file meanwhile is asked of the caller, as nothing in the system can forbid it.
    unsafe { Mmap::map(&file) }
}
