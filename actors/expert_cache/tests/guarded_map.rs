//! What a map does when its file is damaged from outside.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use blyan_expert_cache::{CacheError, GuardedMap};
use common::truncate;

const PAGE: usize = 4096;

/// Set in the process that is meant to die.
const CHILD: &str = "BLYAN_TEST_SIGBUS_CHILD";

fn file_of(pages: usize) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![7; pages * PAGE]).unwrap();
    (folder, path)
}

#[test]
fn a_map_of_a_truncated_file_reads_zeros_and_is_not_intact() {
    let (_folder, path) = file_of(3);
    let map = GuardedMap::open(&path, 3 * PAGE as u64).unwrap();
    let (_other_folder, other_path) = file_of(3);
    let other = GuardedMap::open(&other_path, 3 * PAGE as u64).unwrap();
    assert!(map.as_slice().iter().all(|byte| *byte == 7));
    truncate(&path, PAGE as u64);
    assert!(map.intact(), "nobody has read the missing pages yet");
    assert_eq!(map.as_slice()[2 * PAGE + 17], 0);
    assert!(!map.intact());
    assert_eq!(map.as_slice()[..PAGE], [7; PAGE]);
    assert_eq!(map.as_slice()[PAGE..], [0; 2 * PAGE]);
    assert!(other.as_slice().iter().all(|byte| *byte == 7));
    assert!(other.intact());
}

#[test]
fn threads_that_meet_the_same_damage_all_go_on() {
    const PAGES: usize = 256;
    let (_folder, path) = file_of(PAGES);
    let map = GuardedMap::open(&path, (PAGES * PAGE) as u64).unwrap();
    truncate(&path, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(map.as_slice().iter().all(|byte| *byte == 0)));
        }
    });
    assert!(!map.intact());
}

#[test]
fn a_new_map_at_the_place_of_a_damaged_one_is_intact() {
    for _ in 0..32 {
        let (_folder, path) = file_of(2);
        let map = GuardedMap::open(&path, 2 * PAGE as u64).unwrap();
        assert!(map.intact());
        truncate(&path, 0);
        assert_eq!(map.as_slice()[0], 0);
        assert!(!map.intact());
    }
}

#[test]
fn a_file_of_another_length_is_not_mapped() {
    let (_folder, path) = file_of(1);
    let error = GuardedMap::open(&path, 5).unwrap_err();
    assert!(
        matches!(
            error,
            CacheError::Length {
                expected: 5,
                actual: 4096,
                ..
            }
        ),
        "{error}"
    );
    let error = GuardedMap::open(&path.with_extension("none"), 5).unwrap_err();
    assert!(matches!(error, CacheError::Io { .. }), "{error}");
}

/// Runs this test again in a process of its own, where it is to die of SIGBUS.
fn dies_of_sigbus(test: &str) {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(run.status.signal(), Some(libc::SIGBUS), "{run:?}");
}

/// The handler in place, shown at work, so that what kills the process is not its absence.
fn survive_one_fault() {
    let (_folder, path) = file_of(1);
    let map = GuardedMap::open(&path, PAGE as u64).unwrap();
    truncate(&path, 0);
    assert_eq!(map.as_slice()[0], 0);
    assert!(!map.intact());
}

#[test]
fn a_fault_in_memory_of_others_still_ends_the_process() {
    if std::env::var_os(CHILD).is_none() {
        return dies_of_sigbus("a_fault_in_memory_of_others_still_ends_the_process");
    }
    survive_one_fault();
    let (_folder, path) = file_of(1);
    let file = fs::File::open(&path).unwrap();
    // SAFETY: the map is read once, after its file was truncated, to die of it.
    let foreign = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    truncate(&path, 0);
    panic!("read {} from a page that is not there", foreign[0]);
}

#[test]
fn a_sigbus_that_was_sent_still_ends_the_process() {
    if std::env::var_os(CHILD).is_none() {
        return dies_of_sigbus("a_sigbus_that_was_sent_still_ends_the_process");
    }
    survive_one_fault();
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(libc::SIGBUS) };
    panic!("lived on after a SIGBUS that was sent");
}
