//! Read-only maps of files that survive damage to the file.
//!
//! A file that is truncated, or whose disk fails, under a live map makes the next read of the missing page
//! raise SIGBUS, which ends a process. Here the page reads as zeros and the map is no longer
//! [`intact`](GuardedMap::intact): whoever computed from it throws the result away.

mod ranges;
mod sigbus;

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::CacheError;

pub use ranges::MAPS_MAX;

/// A read-only map of a whole file.
#[derive(Debug)]
pub struct GuardedMap {
    // Declared, so dropped, first: an address must leave the table before the system can give it to another map.
    range: ranges::Registration,
    map: Mmap,
}

impl GuardedMap {
    /// Maps the file at `path`, which must have `expected_len` bytes.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the file cannot be opened or mapped, [`CacheError::Length`] if it has another
    /// length, [`CacheError::TooManyMaps`] when [`MAPS_MAX`] maps are alive, [`CacheError::Signal`] if the
    /// SIGBUS handler cannot be put in place.
    pub fn open(path: &Path, expected_len: u64) -> Result<Self, CacheError> {
        sigbus::install().map_err(CacheError::Signal)?;
        let file = File::open(path).map_err(CacheError::io("opening", path))?;
        let actual = file
            .metadata()
            .map_err(CacheError::io("reading the length of", path))?
            .len();
        if actual != expected_len {
            return Err(CacheError::Length {
                path: path.to_path_buf(),
                expected: expected_len,
                actual,
            });
        }
        // SAFETY: files that are mapped here are never changed in place by this program (they are written
        // once under another name and renamed); damage from outside is met by `sigbus` and by hashes.
        let map = unsafe { Mmap::map(&file) }.map_err(CacheError::io("mapping", path))?;
        let range = ranges::Registration::new(map.as_ptr() as usize, map.len())
            .ok_or(CacheError::TooManyMaps { max: MAPS_MAX })?;
        Ok(Self { range, map })
    }

    /// The file's bytes, page aligned.
    pub fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// False once a page could not be read from the file and reads as zeros instead.
    pub fn intact(&self) -> bool {
        !self.range.is_damaged()
    }
}
