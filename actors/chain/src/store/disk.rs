use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The few calls on which durability stands, apart so that tests can fail, count or kill at each of them.
pub trait Disk: Send + Sync {
    /// Makes the content and length of `file` durable.
    ///
    /// # Errors
    /// What the system says. The file's content is then unknown, and must not be used.
    fn sync_file(&self, file: &File) -> io::Result<()>;

    /// Gives a synced file its final name, in place of what is there.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Runs `write`, the synced write of one batch to the database. A double may refuse it, or call it and then say
    /// that the sync failed.
    ///
    /// # Errors
    /// What `write` says, or the double's own.
    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
}

/// The system's own calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        write()
    }
}
