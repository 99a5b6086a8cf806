use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The few calls on which the log's durability stands, apart so that tests can fail them or kill between them.
pub trait AuditDisk: Send + Sync + 'static {
    /// Writes all of `bytes` where the file stands.
    ///
    /// # Errors
    /// What the system says; some of the bytes may have been written.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content and length of `file` durable.
    ///
    /// # Errors
    /// What the system says. What the file holds on disk is then unknown.
    fn sync_file(&self, file: &File) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether there is room for a record: one that is begun without it leaves nobody knows what.
    ///
    /// # Errors
    /// Why there is none.
    fn room(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The system's own calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl AuditDisk for RealDisk {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The null device takes writes and refuses syncs, so that a sync that is not asked for shows.
    #[test]
    fn a_sync_that_the_system_refuses_is_refused() {
        let null = Path::new("/dev/null");
        assert!(RealDisk.sync_file(&File::open(null).unwrap()).is_err());
        assert!(RealDisk.sync_dir(null).is_err());
    }
}
