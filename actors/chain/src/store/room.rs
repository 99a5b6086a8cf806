use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ChainError;
use crate::metrics;

/// Below this no store is opened for writing: RocksDB writes at every opening, and does not survive each failure of it.
const OPENING_NEEDS: u64 = 8 << 20;

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Blocks, payloads, snapshots: refused once the reserve is touched.
    Growth,
    /// Records of what was done already, such as receipts: may use half of the reserve.
    Receipts,
    /// Records of decisions, without which nobody can be put out of service or brought back: three quarters of it.
    Decisions,
}

/// Watches how full the disk is, so that a full one is met before RocksDB meets it. It asks the system at every write:
/// that takes a microsecond, and a node comes back by itself as soon as there is room.
pub struct Room {
    root: PathBuf,
    reserve: AtomicU64,
}

impl Room {
    /// The room of the file system below `root`, of which nothing is kept free yet.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            reserve: AtomicU64::new(0),
        }
    }

    /// From now on this many bytes are kept free.
    pub fn keep_free(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that this process may still write.
    ///
    /// # Errors
    /// [`ChainError::Io`] if the system does not say.
    pub fn free(&self) -> Result<u64, ChainError> {
        let free = free_bytes(&self.root)
            .map_err(|error| ChainError::io("ask how full the disk is", error))?;
        metrics::disk_free(free);
        Ok(free)
    }

    /// Whether there is room for a write.
    ///
    /// # Errors
    /// [`ChainError::DiskFull`]; as [`Room::free`].
    pub fn check(&self, need: Need) -> Result<(), ChainError> {
        let reserve = self.reserve.load(Ordering::Relaxed);
        self.above(match need {
            Need::Growth => reserve,
            Need::Receipts => reserve / 2,
            Need::Decisions => reserve / 4,
        })
    }

    /// Whether a store may be opened for writing.
    pub(super) fn check_opening(&self) -> Result<(), ChainError> {
        self.above(OPENING_NEEDS)
    }

    fn above(&self, kept: u64) -> Result<(), ChainError> {
        let free = self.free()?;
        if free < kept {
            return Err(ChainError::DiskFull { free, kept });
        }
        Ok(())
    }
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a value of this plain struct.
    let mut room: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with zero, and `room` may be written to.
    if unsafe { libc::statvfs(path.as_ptr(), &mut room) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_may_use_half_of_what_is_kept_free_and_decisions_more() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path());
        assert_eq!(room.check(Need::Growth), Ok(()));
        let free = room.free().unwrap();
        // Others write to this disk meanwhile: a quarter more or less is beside the point.
        room.keep_free(free + free / 4);
        assert!(matches!(
            room.check(Need::Growth),
            Err(ChainError::DiskFull { kept, .. }) if kept == free + free / 4
        ));
        assert_eq!(room.check(Need::Receipts), Ok(()));
        room.keep_free(free * 3);
        assert!(room.check(Need::Receipts).is_err());
        assert_eq!(room.check(Need::Decisions), Ok(()));
        room.keep_free(free * 6);
        assert!(room.check(Need::Decisions).is_err());
        room.keep_free(0);
        assert_eq!(room.check(Need::Growth), Ok(()));
    }
}
