//! Imports that are killed, and what is left of them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt as _;

use blyan_chain::{ChainError, ChainReader, DataDir, RocksStore, VerifyOptions, verify};
use blyan_formats::BlockHash;
use blyan_protocol::ModelId;

use crate::support::{ScriptedDisk, When, import, imported, key, open_store};

/// Names the directory that a child imports into.
const DIR_VAR: &str = "BLYAN_TEST_IMPORT_DIR";
/// `before 12`: the call on which durability stands at which the child kills itself.
const KILL_VAR: &str = "BLYAN_TEST_KILL_AT";
/// Replays the random moments of an earlier run.
const SEED_VAR: &str = "BLYAN_TEST_SEED";

/// Kills at random moments.
const RANDOM_KILLS: u64 = 40;

/// True in a child, which has then done its import.
fn ran_as_child() -> bool {
    let Some(dir) = std::env::var_os(DIR_VAR) else {
        return false;
    };
    let kill_at = std::env::var(KILL_VAR).ok();
    let disk = ScriptedDisk::new(move |number, _, when| {
        let moment = match when {
            When::Before => format!("before {number}"),
            When::After => format!("after {number}"),
        };
        if kill_at.as_ref() == Some(&moment) {
            kill_self();
        }
        Ok(())
    });
    println!("importing");
    let store = RocksStore::open_with(DataDir::new(dir), Arc::new(disk)).unwrap();
    import(&Arc::new(store), &key(1)).unwrap();
    true
}

fn kill_self() -> ! {
    // SAFETY: raise has no precondition; SIGKILL ends the process without running anything more of it.
    unsafe { libc::raise(libc::SIGKILL) };
    unreachable!("SIGKILL cannot be caught")
}

/// This test binary again, running `test` alone, as a child that imports into `dir`.
fn child(test: &str, dir: &Path, kill_at: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR_VAR, dir);
    command.env(KILL_VAR, kill_at.unwrap_or_default());
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

/// Whatever the kill left is a chain that passes verification; importing again ends where an undisturbed import does.
fn check_left_over(dir: &Path, manifest: BlockHash, moment: &str) {
    match ChainReader::open_read_only(DataDir::new(dir)) {
        Ok(reader) => {
            let verified = verify(&**reader.store(), VerifyOptions::default());
            verified.unwrap_or_else(|fault| panic!("killed {moment}: {fault}"));
        }
        Err(ChainError::NoChain(_)) => {}
        Err(error) => panic!("killed {moment}: {error}"),
    }
    let store = open_store(dir);
    assert_eq!(import(&store, &key(1)), Ok(manifest), "killed {moment}");
    let report = verify(&*store, VerifyOptions::default()).unwrap();
    assert_eq!(report.model, Some(ModelId(manifest)), "killed {moment}");
    assert_eq!(
        (report.blocks_a, report.blocks_b),
        (3, 20),
        "killed {moment}"
    );
    assert_eq!(
        (report.temporary, report.unreferenced),
        (0, 0),
        "killed {moment}"
    );
}

/// How many calls on which durability stands an undisturbed import makes.
fn calls_of_an_import() -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(ScriptedDisk::new(|_, _, _| Ok(())));
    let store = RocksStore::open_with(DataDir::new(dir.path()), Arc::clone(&disk) as _).unwrap();
    import(&Arc::new(store), &key(1)).unwrap();
    disk.calls()
}

#[test]
fn an_import_that_is_killed_at_any_call_is_finished_by_the_next() {
    if ran_as_child() {
        return;
    }
    let manifest = imported().2;
    let calls = calls_of_an_import();
    assert!(calls > 40, "{calls}");
    let last = ["after", "before"].map(|when| format!("{when} {}", calls - 1));
    for moment in (0..calls)
        .map(|number| format!("before {number}"))
        .chain(last)
    {
        let dir = tempfile::tempdir().unwrap();
        let test = "publish::an_import_that_is_killed_at_any_call_is_finished_by_the_next";
        let status = child(test, dir.path(), Some(&moment)).wait().unwrap();
        assert!(was_killed(status), "{moment}: {status}");
        check_left_over(dir.path(), manifest, &moment);
    }
}

#[test]
fn an_import_that_is_killed_at_random_is_finished_by_the_next() {
    if ran_as_child() {
        return;
    }
    let test = "publish::an_import_that_is_killed_at_random_is_finished_by_the_next";
    let manifest = imported().2;
    let seed = std::env::var(SEED_VAR)
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(random_seed);
    println!("{SEED_VAR}={seed}");
    let whole = time_of_a_child(test);
    let mut killed = 0;
    for number in 0..RANDOM_KILLS {
        let dir = tempfile::tempdir().unwrap();
        let mut child = started_child(test, dir.path());
        let share = draw(seed, number) as f64 / u64::MAX as f64;
        std::thread::sleep(whole.mul_f64(share));
        child.kill().unwrap();
        killed += u64::from(was_killed(child.wait().unwrap()));
        check_left_over(
            dir.path(),
            manifest,
            &format!("at {share} of the import, seed {seed}"),
        );
    }
    assert!(
        killed > RANDOM_KILLS / 4,
        "only {killed} of {RANDOM_KILLS} were killed in time, seed {seed}"
    );
}

/// A child whose import has begun.
fn started_child(test: &str, dir: &Path) -> Child {
    let mut child = child(test, dir, None);
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("importing")));
    child
}

fn time_of_a_child(test: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let mut child = started_child(test, dir.path());
    let began = Instant::now();
    assert!(child.wait().unwrap().success());
    began.elapsed()
}

fn random_seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.subsec_nanos().into()
}

/// SplitMix64: the `number`th draw of a seed.
fn draw(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
