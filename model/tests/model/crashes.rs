//! An import survives a kill at every point and a disk that fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_chain::{ChainConfig, ChainReader, DataDir, Disk, RealDisk, RocksStore, open_or_create};
use blyan_model::{ImportOptions, Imported, ModelError, Recipe, SourceFile, import};
use blyan_supervisors::{NoProbe, Probe};

use crate::support::{hashes, key, run_import, toy_recipe, write_toy};

/// The real disk, but one call on which durability stands fails, after it was made.
struct FailingDisk {
    calls: AtomicU64,
    fails_at: u64,
}

impl FailingDisk {
    fn then_fail(&self, done: io::Result<()>) -> io::Result<()> {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.fails_at {
            Err(full)
        } else {
            done
        }
    }
}

impl Disk for FailingDisk {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.then_fail(RealDisk.sync_file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.then_fail(RealDisk.rename(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.then_fail(RealDisk.sync_dir(dir))
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.then_fail(RealDisk.write_batch(write))
    }
}

/// Opens a directory and imports; how often the disk was called is returned too.
fn import_on(
    data: &Path,
    file: &SourceFile,
    recipe: &Recipe,
    fails_at: u64,
) -> (Result<Imported, ModelError>, u64) {
    let disk = Arc::new(FailingDisk {
        calls: AtomicU64::new(0),
        fails_at,
    });
    let run = || {
        let store = Arc::new(RocksStore::open_with(DataDir::new(data), disk.clone())?);
        let mut chain =
            open_or_create(store, &ChainConfig::default(), &key(), 1_700_000_000_000, 1)?;
        let options = ImportOptions {
            threads: 1,
            accepted_ms: 1,
            probe: &NoProbe,
            progress: &|_| {},
        };
        import(&mut chain, file, recipe, &key(), &options)
    };
    (run(), disk.calls.load(Ordering::SeqCst))
}

#[test]
fn after_a_failed_sync_nothing_is_published_and_the_next_import_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let (undisturbed, calls) =
        import_on(&folder.path().join("undisturbed"), &file, &recipe, u64::MAX);
    let undisturbed = undisturbed.unwrap();
    let tried: BTreeSet<u64> = (0..calls).step_by(5).chain(calls - 5..calls).collect();
    for fails_at in tried {
        let data = folder.path().join(format!("data-{fails_at}"));
        let (failed, _) = import_on(&data, &file, &recipe, fails_at);
        let error = failed.unwrap_err();
        assert!(
            error.to_string().contains("free some space"),
            "call {fails_at}: {error}"
        );
        let reader = ChainReader::open_read_only(DataDir::new(&data));
        assert!(
            reader.is_err() || reader.unwrap().model(None).is_err(),
            "published though call {fails_at} failed"
        );
        let resumed = import_on(&data, &file, &recipe, u64::MAX).0.unwrap();
        assert_eq!(resumed.model, undisturbed.model, "call {fails_at}");
    }
}

/// Counts hits; on the given one the process ends as a kill would end it.
struct AbortAt {
    hits: AtomicU64,
    at: u64,
}

impl Probe for AbortAt {
    fn hit(&self, _point: &str) {
        if self.hits.fetch_add(1, Ordering::SeqCst) == self.at {
            std::process::abort();
        }
    }
}

const CHILD: &str = "BLYAN_TEST_IMPORT_CHILD";

/// The child of the test below: imports, and aborts on the way.
#[test]
fn child_that_is_killed() {
    let Ok(order) = std::env::var(CHILD) else {
        return;
    };
    let (at, folder) = order.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let file = SourceFile::read(&folder.join("toy-1.gguf")).unwrap();
    let probe = AbortAt {
        hits: AtomicU64::new(0),
        at: at.parse().unwrap(),
    };
    run_import(&folder.join("data"), &file, &toy_recipe(&file), 2, &probe).unwrap();
}

#[test]
fn an_import_goes_on_after_a_kill_at_any_point() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let undisturbed = run_import(
        &folder.path().join("undisturbed"),
        &file,
        &recipe,
        2,
        &NoProbe,
    )
    .unwrap();

    let payloads = undisturbed.blocks as u64;
    for at in [
        0,
        1,
        payloads / 2,
        payloads,
        payloads + 1,
        payloads + 2,
        payloads + 3,
    ] {
        let order = format!("{at} {}", folder.path().display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashes::child_that_is_killed", "--nocapture"])
            .env(CHILD, order)
            .output()
            .unwrap();
        assert!(
            !child.status.success(),
            "the child was to be killed at {at}"
        );
        let data = folder.path().join("data");
        let published = ChainReader::open_read_only(DataDir::new(&data))
            .unwrap()
            .model(None)
            .is_ok();
        assert!(!published, "killed at {at}, before the manifest");

        let resumed = run_import(&data, &file, &recipe, 2, &NoProbe).unwrap();
        assert_eq!(resumed.model, undisturbed.model, "killed at {at}");
        assert_eq!(hashes(&data), hashes(&folder.path().join("undisturbed")));
        let leftover = std::fs::read_dir(DataDir::new(&data).payloads()).unwrap();
        assert_eq!(
            leftover.count(),
            undisturbed.blocks,
            "killed at {at}: no temporary file is left"
        );
        std::fs::remove_dir_all(&data).unwrap();
    }
}
