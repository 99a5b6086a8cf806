use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What O_DIRECT wants memory and offsets to be multiples of, on any disk.
const ALIGN: usize = 4096;
/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// A file that is read from the disk, past the page cache, as far as its file system can. One that knows no O_DIRECT,
/// such as tmpfs, is asked to drop the pages of the file first; it keeps those that are mapped.
pub(super) struct DirectFile {
    file: File,
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins.
    start: usize,
    /// What of the block is not given out yet.
    left: Range<usize>,
    /// Of the byte after it.
    at: u64,
}

impl DirectFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        let file = match direct {
            Err(error) if is_unaligned(&error) => {
                let file = File::open(path)?;
                forget_pages(&file)?;
                file
            }
            opened => opened?,
        };
        let memory = vec![0; BLOCK + ALIGN];
        Ok(Self {
            start: memory.as_ptr().align_offset(ALIGN),
            memory,
            file,
            left: 0..0,
            at: 0,
        })
    }

    fn fill(&mut self) -> io::Result<()> {
        // After a short read the next one begins within a sector, which not every file system allows.
        let known = (self.at % ALIGN as u64) as usize;
        let from = self.at - known as u64;
        let block = &mut self.memory[self.start..self.start + BLOCK];
        let read = match self.file.read_at(block, from) {
            Err(error) if is_unaligned(&error) => {
                end_direct(&self.file)?;
                self.file.read_at(block, from)?
            }
            read => read?,
        };
        self.left = self.start + known.min(read)..self.start + read;
        self.at = self.at.max(from + read as u64);
        Ok(())
    }
}

/// What a file system says that reads directly not at all, or not like this.
fn is_unaligned(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// From now on the file is read through the page cache.
fn end_direct(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and neither command takes a pointer.
    let done = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT)
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    forget_pages(file)
}

fn forget_pages(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call changes nothing but what is cached.
    let refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if refused == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(refused))
    }
}

impl Read for DirectFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            self.fill()?;
        }
        let len = buffer.len().min(self.left.len());
        buffer[..len].copy_from_slice(&self.memory[self.left.start..self.left.start + len]);
        self.left.start += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_whatever_its_length() {
        // Beside the sources: the folder for temporary files may be in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for len in [0, 1, ALIGN, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12_345] {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 256) as u8).collect();
            let path = dir.path().join(len.to_string());
            std::fs::write(&path, &bytes).unwrap();
            let mut read = Vec::new();
            DirectFile::open(&path)
                .unwrap()
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == bytes, "{len} bytes");
        }
    }

    #[test]
    fn a_file_is_read_on_from_within_a_sector_and_without_o_direct() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..3 * ALIGN + 5).map(|at| (at * 31) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for at in [1, ALIGN - 1, ALIGN, 2 * ALIGN + 7, bytes.len()] {
            for direct in [true, false] {
                let mut file = DirectFile::open(&path).unwrap();
                file.at = at as u64;
                if !direct {
                    end_direct(&file.file).unwrap();
                }
                let mut read = Vec::new();
                file.read_to_end(&mut read).unwrap();
                assert_eq!(read, bytes[at..], "from {at}, direct: {direct}");
            }
        }
    }
}
