//! A process that appends until it is killed, and what it had acknowledged by then.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use blyan_security::audit::{AuditLog, AuditOptions, RealDisk, verify};

use crate::house::{House, SEGMENT_LEN_MAX, entry};

const DIR: &str = "BLYAN_AUDIT_KILL_DIR";
const KILLS: u64 = 100;

/// The child: does nothing when it is run as a test.
#[test]
fn appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let options = AuditOptions {
        dir: dir.into(),
        key: House::new().key,
        segment_len_max: SEGMENT_LEN_MAX,
        disk: Arc::new(RealDisk),
    };
    let mut log = AuditLog::open(options, 1, &mut |_| {}).unwrap();
    loop {
        let record = log.append(&[entry(7)]).unwrap().remove(0);
        println!("acknowledged {}", record.seq);
        std::io::stdout().flush().unwrap();
    }
}

fn child(house: &House) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::appends_until_it_is_killed", "--nocapture"])
        .env(DIR, house.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The last record that the child acknowledged before it was killed after `after` of them.
fn last_acknowledged(house: &House, after: u64) -> u64 {
    let mut child = child(house);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut last) = (0, 0);
    for line in lines.map_while(Result::ok) {
        // The test runner writes its own words before the first.
        let Some((_, number)) = line.split_once("acknowledged ") else {
            continue;
        };
        last = number.parse().unwrap();
        seen += 1;
        if seen == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= after, "it ended by itself");
    last
}

#[test]
fn every_acknowledged_record_outlives_kill_9() {
    let house = House::new();
    for round in 0..KILLS {
        let acknowledged = last_acknowledged(&house, 1 + round % 5);
        let report = verify(&house.dir(), house.public_key(), &[]).unwrap();
        assert!(
            report.end.count >= acknowledged,
            "round {round}: {} of {acknowledged}",
            report.end.count
        );
    }
    let (log, replayed) = house.open().unwrap();
    assert_eq!(replayed.len() as u64, log.anchor().count);
}
