use std::fs::{File, OpenOptions};
use std::io::{self, Read};
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
    left: std::ops::Range<usize>,
    at: u64,
}

impl DirectFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        let file = match direct {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open_uncached(path)?,
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
}

fn open_uncached(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open; the call changes nothing but what is cached.
    let refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if refused == 0 {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(refused))
    }
}

impl Read for DirectFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            let block = &mut self.memory[self.start..self.start + BLOCK];
            let read = self.file.read_at(block, self.at)?;
            self.left = self.start..self.start + read;
            self.at += read as u64;
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
}
