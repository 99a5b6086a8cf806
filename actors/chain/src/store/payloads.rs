use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_formats::PayloadHash;
use parking_lot::Mutex;

use super::{DataDir, Disk, Need, Room};
use crate::ChainError;

/// What the names of unfinished payload files start with.
const TEMP_PREFIX: &str = ".tmp-";

/// Bytes compared at a time.
const COMPARE_LEN: usize = 64 * 1024;

/// The folder of payload files. A file that has a payload's name was synced before it got that name, and is never
/// changed in place (CHAIN-I2).
pub struct PayloadDir {
    layout: DataDir,
    disk: Arc<dyn Disk>,
    room: Room,
    next_temp: AtomicU64,
    names: Mutex<Names>,
}

/// Which names of the folder are durable: a sync of a folder costs as much as that of the database's log, also where
/// nothing has changed.
enum Names {
    /// All.
    Synced,
    /// A file may have got its name since the last sync.
    Unsynced,
    /// A sync failed. One more that succeeds would say nothing of the names that this one dropped.
    Lost(ChainError),
}

impl Names {
    fn changed(&mut self) {
        if matches!(self, Self::Synced) {
            *self = Self::Unsynced;
        }
    }
}

/// What [`PayloadDir::clean_temp`] found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TempPayloads {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PayloadDir {
    /// The payload files of a data directory.
    pub fn new(layout: DataDir, disk: Arc<dyn Disk>) -> Self {
        Self {
            room: Room::new(layout.root()),
            layout,
            disk,
            next_temp: AtomicU64::new(0),
            names: Mutex::new(Names::Unsynced),
        }
    }

    /// The data directory.
    pub fn layout(&self) -> &DataDir {
        &self.layout
    }

    /// How full the disk is.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Where the payload's file is or would be.
    pub fn path(&self, payload: PayloadHash) -> PathBuf {
        self.layout.payload(payload)
    }

    /// Length of the payload's file in bytes, `None` where there is none. Anything that is not a plain file counts
    /// as none.
    ///
    /// # Errors
    /// [`ChainError::Io`] if the folder cannot be read.
    pub fn len(&self, payload: PayloadHash) -> Result<Option<u64>, ChainError> {
        let path = self.path(payload);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ChainError::io("read the length of a payload", error)),
        }
    }

    /// Starts a payload file under a temporary name.
    ///
    /// # Errors
    /// [`ChainError::DiskFull`]; [`ChainError::Io`] if the file cannot be made.
    pub fn writer(&self) -> Result<PayloadWriter<'_>, ChainError> {
        self.room.check(Need::Growth)?;
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let temp = self
            .layout
            .payloads()
            .join(format!("{TEMP_PREFIX}{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temp);
        let file = file.map_err(|error| ChainError::io("make a payload file", error))?;
        Ok(PayloadWriter {
            dir: self,
            file,
            temp,
            finished: false,
        })
    }

    /// Stores a whole payload, unless its file is there already with these bytes.
    ///
    /// # Errors
    /// As [`PayloadWriter::finish`].
    pub fn put(&self, payload: PayloadHash, bytes: &[u8]) -> Result<(), ChainError> {
        if self
            .holds(payload, bytes)
            .map_err(|error| ChainError::io("read a payload", error))?
        {
            return Ok(());
        }
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(|error| ChainError::io("write a payload", error))?;
        writer.finish(payload)
    }

    fn holds(&self, payload: PayloadHash, bytes: &[u8]) -> io::Result<bool> {
        let mut file = match File::open(self.path(payload)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let mut buffer = vec![0; COMPARE_LEN.min(bytes.len())];
        for part in bytes.chunks(COMPARE_LEN) {
            let read = &mut buffer[..part.len()];
            file.read_exact(read)?;
            if read != part {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the names of all finished payload files durable. Once it has failed it fails for as long as this store is
    /// open.
    ///
    /// # Errors
    /// [`ChainError::NotDurable`].
    pub(crate) fn sync_names(&self) -> Result<(), ChainError> {
        // Held over the sync: whoever finds nothing to sync must not go on before the one that syncs has ended.
        let mut names = self.names.lock();
        match &*names {
            Names::Synced => return Ok(()),
            Names::Lost(error) => return Err(error.clone()),
            Names::Unsynced => {}
        }
        let synced = self.disk.sync_dir(&self.layout.payloads());
        let synced = synced.map_err(|error| ChainError::not_durable("the payload folder", &error));
        *names = match &synced {
            Ok(()) => Names::Synced,
            Err(error) => Names::Lost(error.clone()),
        };
        synced
    }

    /// Removes what an interrupted import left under temporary names.
    ///
    /// # Errors
    /// [`ChainError::Io`].
    pub fn clean_temp(&self) -> Result<TempPayloads, ChainError> {
        let mut cleaned = TempPayloads::default();
        self.each_file(|name, path, len| {
            if name.starts_with(TEMP_PREFIX) {
                fs::remove_file(path)?;
                cleaned.files += 1;
                cleaned.bytes += len;
            }
            Ok(())
        })?;
        Ok(cleaned)
    }

    /// Visits every name in the folder with its path and length.
    pub(crate) fn each_file(
        &self,
        mut visit: impl FnMut(&str, &Path, u64) -> io::Result<()>,
    ) -> Result<(), ChainError> {
        let mut walk = || -> io::Result<()> {
            for entry in fs::read_dir(self.layout.payloads())? {
                let entry = entry?;
                let len = entry.metadata()?.len();
                visit(&entry.file_name().to_string_lossy(), &entry.path(), len)?;
            }
            Ok(())
        };
        walk().map_err(|error| ChainError::io("walk the payload folder", error))
    }

    /// Whether `name` is an unfinished file of this folder.
    pub(crate) fn is_temp_name(name: &str) -> bool {
        name.starts_with(TEMP_PREFIX)
    }
}

/// A payload file in the making. Dropped unfinished, it is removed.
pub struct PayloadWriter<'a> {
    dir: &'a PayloadDir,
    file: File,
    temp: PathBuf,
    finished: bool,
}

impl PayloadWriter<'_> {
    /// Syncs the file, then gives it the payload's name, in place of a file that may be there.
    ///
    /// # Errors
    /// [`ChainError::NotDurable`] if the sync or the renaming fails; the file is then removed.
    pub fn finish(mut self, payload: PayloadHash) -> Result<(), ChainError> {
        let named = self.dir.path(payload);
        let disk = &self.dir.disk;
        let done = disk.sync_file(&self.file).and_then(|()| {
            // Whoever finds the name finds that it is not synced, and no sync counts that was begun before.
            let mut names = self.dir.names.lock();
            names.changed();
            disk.rename(&self.temp, &named)
        });
        self.finished = done.is_ok();
        done.map_err(|error| ChainError::not_durable("a payload file", &error))
    }
}

impl Write for PayloadWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for PayloadWriter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for PayloadWriter<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for PayloadWriter<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = fs::remove_file(&self.temp) {
            tracing::warn!(%error, "an unfinished payload file could not be removed; the next start does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::super::RealDisk;
    use super::*;

    /// Says that a sync of a folder has begun, and ends it as it is told.
    struct Gate {
        begun: Mutex<Sender<()>>,
        end: Mutex<Receiver<io::Result<()>>>,
    }

    impl Disk for Gate {
        fn sync_file(&self, file: &File) -> io::Result<()> {
            RealDisk.sync_file(file)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealDisk.rename(from, to)
        }

        fn sync_dir(&self, _: &Path) -> io::Result<()> {
            self.begun.lock().send(()).unwrap();
            self.end.lock().recv().unwrap()
        }

        fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
            write()
        }
    }

    #[test]
    fn no_sync_of_names_ends_well_before_the_one_that_it_leaves_them_to() {
        let dir = tempfile::tempdir().unwrap();
        let layout = DataDir::new(dir.path());
        fs::create_dir(layout.payloads()).unwrap();
        let ((begin, begun), (say_end, end)) = (channel(), channel());
        let gate = Gate {
            begun: Mutex::new(begin),
            end: Mutex::new(end),
        };
        let files = PayloadDir::new(layout, Arc::new(gate));
        files.put(PayloadHash::of_bytes(b"1"), b"1").unwrap();
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| files.sync_names());
            begun.recv().unwrap();
            scope.spawn(|| tell.send(files.sync_names()).unwrap());
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
            say_end.send(Err(io::Error::other("no more"))).unwrap();
            assert!(first.join().unwrap().is_err());
            assert!(told.recv().unwrap().is_err());
        });
        files.put(PayloadHash::of_bytes(b"2"), b"2").unwrap();
        assert!(files.sync_names().is_err(), "what is lost stays lost");
    }
}
