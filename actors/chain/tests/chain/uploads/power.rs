//! A power cut, wherever it comes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blyan_chain::uploads::{UploadError, Uploads, UploadsConfig};
use blyan_chain::{Disk, RealDisk};

use super::faults::Client;
use super::{Draft, begin, draft, id, open, open_with, stored_payload};
use crate::support::NOW_MS;

/// A disk whose power is cut at call `calls_max`: it keeps what was synced, as of the sync, and nothing else.
struct Forgetting {
    calls: AtomicU64,
    calls_max: u64,
    files: Mutex<HashMap<u64, Vec<u8>>>,
    names: Mutex<HashMap<PathBuf, Vec<(OsString, u64)>>>,
}

impl Forgetting {
    fn until(calls_max: u64) -> Self {
        Self {
            calls: AtomicU64::new(0),
            calls_max,
            files: Mutex::default(),
            names: Mutex::default(),
        }
    }

    fn power(&self) -> io::Result<()> {
        match self.calls.fetch_add(1, Ordering::SeqCst) < self.calls_max {
            true => Ok(()),
            false => Err(io::Error::other("no power")),
        }
    }

    /// What is left of a folder, below `to`.
    fn leave(&self, dir: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let (names, files) = (self.names.lock().unwrap(), self.files.lock().unwrap());
        for (name, inode) in names.get(dir).into_iter().flatten() {
            fs::write(
                to.join(name),
                files.get(inode).map_or(&[][..], Vec::as_slice),
            )
            .unwrap();
        }
    }
}

impl Disk for Forgetting {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.power()?;
        let mut bytes = Vec::new();
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read_to_end(&mut bytes)?;
        self.files
            .lock()
            .unwrap()
            .insert(file.metadata()?.ino(), bytes);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.power()?;
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.power()?;
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            names.push((entry.file_name(), entry.metadata()?.ino()));
        }
        self.names.lock().unwrap().insert(dir.to_owned(), names);
        Ok(())
    }

    fn write_batch(&self, _: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        unreachable!("an upload writes to no database")
    }
}

/// How far a client came until the power was cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reached {
    acknowledged: Option<u64>,
    published: bool,
    ended: bool,
}

fn until_the_cut(
    uploads: &Uploads,
    draft: &Draft,
    reached: &mut Reached,
) -> Result<(), UploadError> {
    begin(uploads, 1, draft)?;
    reached.acknowledged = Some(0);
    let mut at = 0;
    for piece in draft.bytes.chunks(2000) {
        reached.acknowledged = Some(uploads.write(id(1), at, piece, NOW_MS)?.received);
        at += piece.len() as u64;
    }
    uploads.publish(id(1))?;
    reached.published = true;
    uploads.stored(id(1))?;
    reached.ended = true;
    Ok(())
}

/// Cuts the power at a call, and looks at what is left; returns how far the client had come.
fn cut_at(call: u64) -> Reached {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (draft, mut reached) = (draft(1), Reached::default());
    let disk = Arc::new(Forgetting::until(call));
    let power: Arc<dyn Disk> = Arc::clone(&disk) as _;
    if let Ok(uploads) = open_with(before.path(), power, UploadsConfig::default(), NOW_MS) {
        // The error is the cut.
        let _ = until_the_cut(&uploads, &draft, &mut reached);
    }
    for folder in ["uploads", "payloads"] {
        disk.leave(&before.path().join(folder), &after.path().join(folder));
    }
    if reached.published {
        assert_eq!(
            stored_payload(after.path(), &draft),
            Some(draft.bytes.clone()),
            "call {call}"
        );
    }
    let uploads = open(after.path());
    let there = uploads.of_block(draft.block.hash());
    if let Some(acknowledged) = reached.acknowledged {
        let there = there.unwrap_or_else(|| panic!("call {call}: the upload is lost"));
        assert!(
            there.received >= acknowledged,
            "call {call}: {there:?}, {reached:?}"
        );
    }
    let mut client = Client {
        dir: after.path(),
        draft: &draft,
        uploads,
        acknowledged: reached.acknowledged.unwrap_or(0),
        begun: 1,
        killed: false,
        errors: 0,
    };
    client.drive();
    assert_eq!(client.errors, 0, "call {call}");
    reached
}

#[test]
fn a_power_cut_at_any_call_leaves_what_was_acknowledged() {
    let mut cuts = 0;
    while !cut_at(cuts).ended {
        cuts += 1;
    }
    assert!(cuts > 10, "{cuts}");
}
