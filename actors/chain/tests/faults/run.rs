//! A child that runs the script over the double, and what came of it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use crate::check::{check, follow};
use crate::double::{self, Plan};
use crate::power::{self, Cut};
use crate::said::{Fact, Said};
use crate::script::{Lazy, Script, Until};

/// Names the place of a child.
const PLACE_VAR: &str = "BLYAN_TEST_PLACE";
/// `<round> <until> <lazy> <plan>`.
const ORDER_VAR: &str = "BLYAN_TEST_ORDER";

/// What a child is to do.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub round: u64,
    pub until: Until,
    pub disk: Lazy,
    pub plan: Plan,
}

impl Order {
    /// The whole script with a plan of the double.
    pub const fn whole(round: u64, plan: Plan) -> Self {
        Self {
            round,
            until: Until::End,
            disk: Lazy::Nothing,
            plan,
        }
    }

    fn parse(text: &str) -> Self {
        let mut words = text.splitn(4, ' ');
        let mut next = || words.next().unwrap();
        Self {
            round: next().parse().unwrap(),
            until: match next() {
                "receipts" => Until::Receipts,
                "restored" => Until::Restored,
                _ => Until::End,
            },
            disk: match next() {
                "files" => Lazy::Files,
                "dirs" => Lazy::Dirs,
                _ => Lazy::Nothing,
            },
            plan: next().parse().unwrap(),
        }
    }

    fn to_text(self) -> String {
        let until = match self.until {
            Until::End => "end",
            Until::Receipts => "receipts",
            Until::Restored => "restored",
        };
        let disk = match self.disk {
            Lazy::Nothing => "nothing",
            Lazy::Files => "files",
            Lazy::Dirs => "dirs",
        };
        format!("{} {until} {disk} {}", self.round, self.plan)
    }
}

/// The directory of a store, with the double's journal and grave beside it.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// In memory where there is such a file system: the double decides what is durable, not the disk.
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let place = Self { dir: dir.unwrap() };
        std::fs::create_dir(place.store()).unwrap();
        place
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn grave(&self) -> PathBuf {
        self.dir.path().join("grave")
    }

    /// Forgets what earlier children did: what is there now is durable.
    fn settle(&self) {
        let _ = std::fs::remove_file(self.journal());
        let _ = std::fs::remove_dir_all(self.grave());
        std::fs::create_dir(self.grave()).unwrap();
    }

    /// The store as a power cut would have left it.
    pub fn cut(&self, cut: Cut) -> PathBuf {
        let to = self.dir.path().join("cut");
        let _ = std::fs::remove_dir_all(&to);
        power::cut(&self.store(), &self.journal(), &self.grave(), cut, &to);
        to
    }

    /// From now on the store is what a cut left.
    pub fn take(&self, cut: &Path) {
        std::fs::remove_dir_all(self.store()).unwrap();
        std::fs::rename(cut, self.store()).unwrap();
    }

    /// The file or folder at which the plan's fault struck, if it did.
    pub fn struck(&self) -> Option<String> {
        let journal = std::fs::read_to_string(self.journal()).unwrap();
        let mut lines = journal.lines();
        lines.find_map(|line| line.strip_prefix("X ").map(str::to_owned))
    }

    /// Starts a child of this test binary on the store.
    pub fn start(&self, order: Order) -> Running {
        self.settle();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "run::child", "--nocapture", "--test-threads=1"]);
        command
            .env(PLACE_VAR, self.dir.path())
            .env(ORDER_VAR, order.to_text());
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running {
            child,
            out,
            said: Vec::new(),
        }
    }
}

/// A child at work.
pub struct Running {
    pub child: Child,
    out: BufReader<ChildStdout>,
    said: Vec<Said>,
}

/// How a child ended.
pub struct Ended {
    pub said: Vec<Said>,
    pub calls: u64,
    pub status: ExitStatus,
}

impl Running {
    /// Waits until the double is in place.
    pub fn begun(&mut self) {
        let mut line = String::new();
        while !line.contains("child begins") {
            line.clear();
            assert_ne!(
                self.out.read_line(&mut line).unwrap(),
                0,
                "the child did not begin"
            );
        }
    }

    /// Listens until the child has said something that is `awaited`, or has ended.
    pub fn hear(&mut self, awaited: impl Fn(&Said) -> bool) {
        let mut line = String::new();
        while self.out.read_line(&mut line).unwrap() > 0 {
            if let Ok(said) = line.trim_end().parse::<Said>() {
                self.said.push(said);
                if self.said.last().is_some_and(&awaited) {
                    return;
                }
            }
            line.clear();
        }
    }

    pub fn wait(mut self) -> Ended {
        let (mut said, mut calls) = (self.said, 0);
        for line in self.out.lines().map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("child made ") {
                calls = number.parse().unwrap();
            }
            // The last line of one who was killed may be cut off.
            said.extend(line.parse::<Said>());
        }
        Ended {
            said,
            calls,
            status: self.child.wait().unwrap(),
        }
    }
}

impl Ended {
    /// It was killed, or it ended of itself; nothing else ends a process.
    pub fn orderly(&self) -> Result<(), String> {
        let killed = self.status.signal() == Some(libc::SIGKILL);
        if killed || self.status.success() {
            Ok(())
        } else {
            Err(format!("ended by {}", self.status))
        }
    }

    pub fn done(&self) -> bool {
        self.said.last() == Some(&Said::Done)
    }
}

/// Runs the script once more without a fault, here, and checks all of it: no operator was needed.
pub fn goes_on(dir: &Path, kept: &BTreeSet<Fact>, round: u64) -> Result<(), String> {
    check(dir, kept)?;
    let said = parking_lot::Mutex::new(Vec::new());
    let script = Script {
        dir,
        round,
        until: Until::End,
        disk: Lazy::Nothing,
        say: &|line| said.lock().push(line),
    };
    script.run();
    let said = said.into_inner();
    if said.last() != Some(&Said::Done) {
        return Err(format!("to go on: {:?}", said.last()));
    }
    let mut kept = kept.clone();
    follow(&mut kept, &said);
    check(dir, &kept)
}

/// The child's own part; a test that does nothing in the parent.
#[test]
fn child() {
    let (Some(place), Ok(order)) = (std::env::var_os(PLACE_VAR), std::env::var(ORDER_VAR)) else {
        return;
    };
    let (place, order) = (PathBuf::from(place), Order::parse(&order));
    let store = place.join("store");
    double::begin(
        &store,
        &place.join("journal"),
        &place.join("grave"),
        order.plan,
    );
    println!("child begins");
    let script = Script {
        dir: &store,
        round: order.round,
        until: order.until,
        disk: order.disk,
        say: &|said| println!("{said}"),
    };
    script.run();
    println!("child made {}", double::calls());
}
