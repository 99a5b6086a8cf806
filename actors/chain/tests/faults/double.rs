//! The double of the disk: counts the calls of this process on files below one directory, fails one of them, and keeps
//! a journal of what was synced.

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::hooks::real;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a file.
    Read,
    /// Makes a file longer, or gives it room.
    Write,
    /// Makes a file or a folder durable.
    Sync,
    /// Makes, changes or removes a name.
    Name,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The process ends before the call.
    Kill,
    /// Half is written, then the process ends.
    Tear,
    /// Half is read or written; the caller is told so.
    Short,
    /// This one call fails with EIO.
    Io,
    /// This one call fails with ENOSPC.
    NoSpace,
    /// From this call on there is no room.
    Full,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::Kill,
        Self::Tear,
        Self::Short,
        Self::Io,
        Self::NoSpace,
        Self::Full,
    ];

    /// Whether a call of this kind can meet it.
    const fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Kill => !matches!(kind, Kind::Read),
            Self::Tear => matches!(kind, Kind::Write),
            Self::Short => matches!(kind, Kind::Write | Kind::Read),
            Self::Io => true,
            Self::NoSpace | Self::Full => matches!(kind, Kind::Write | Kind::Name),
        }
    }
}

/// What the double does in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It only looks on.
    Watch,
    /// One fault.
    At(Fault, u64),
    /// A sync fails with EIO about once in so many.
    FlakySyncs { seed: u64, one_in: u64 },
    /// Syncs of the database's log are not made, and said to be.
    DeafLog,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watch => write!(f, "watch"),
            Self::At(fault, call) => write!(f, "at {fault:?} {call}"),
            Self::FlakySyncs { seed, one_in } => write!(f, "flaky {seed} {one_in}"),
            Self::DeafLog => write!(f, "deaf"),
        }
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no plan: {text}");
        let number = |word: &str| word.parse().map_err(|_| wrong());
        let words: Vec<_> = text.split(' ').collect();
        match words.as_slice() {
            ["watch"] => Ok(Self::Watch),
            ["deaf"] => Ok(Self::DeafLog),
            ["flaky", seed, one_in] => Ok(Self::FlakySyncs {
                seed: number(seed)?,
                one_in: number(one_in)?,
            }),
            ["at", name, call] => {
                let fault = Fault::ALL
                    .into_iter()
                    .find(|fault| format!("{fault:?}") == *name);
                Ok(Self::At(fault.ok_or_else(wrong)?, number(call)?))
            }
            _ => Err(wrong()),
        }
    }
}

/// What a hooked call is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The real call.
    Pass,
    /// Fail with this errno.
    Fail(c_int),
    /// Half of it.
    Half,
    /// Half of it, then the end.
    HalfThenKill,
    /// Nothing, and say that it is done.
    Skip,
}

/// A process's double.
struct Double {
    root: PathBuf,
    grave: PathBuf,
    journal: c_int,
    plan: Plan,
    calls: AtomicU64,
    full: AtomicBool,
    syncing: Mutex<()>,
}

static DOUBLE: OnceLock<Double> = OnceLock::new();

thread_local! {
    /// The double's own calls are not its business.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Puts the double below `root`. What is there now counts as durable. The journal and, in `grave`, every file whose name
/// is taken away are for [`crate::power`].
pub fn begin(root: &Path, journal: &Path, grave: &Path, plan: Plan) {
    let double = Double {
        root: root.to_owned(),
        grave: grave.to_owned(),
        journal: real::open_to_append(journal),
        plan,
        calls: AtomicU64::new(0),
        full: AtomicBool::new(false),
        syncing: Mutex::new(()),
    };
    double.note_tree(root);
    assert!(DOUBLE.set(double).is_ok(), "one double a process");
}

/// Calls so far.
pub fn calls() -> u64 {
    DOUBLE
        .get()
        .map_or(0, |double| double.calls.load(Ordering::SeqCst))
}

/// Whether the disk is full.
pub fn is_full() -> bool {
    DOUBLE
        .get()
        .is_some_and(|double| double.full.load(Ordering::SeqCst))
}

/// Asks the double about a call on `place`, `None` where it cannot be told.
pub fn judge(kind: Kind, place: impl FnOnce() -> Option<PathBuf>) -> Verdict {
    within(|double| {
        let path = place().filter(|path| path.starts_with(&double.root));
        path.map_or(Verdict::Pass, |path| double.verdict(kind, &path))
    })
    .unwrap_or(Verdict::Pass)
}

/// Makes a file or folder durable by `call`, and tells the double.
pub fn sync(fd: c_int, call: impl Fn() -> c_int) -> c_int {
    let synced = within(|double| {
        let path = real::path_of(fd).filter(|path| path.starts_with(&double.root));
        path.map(|path| double.sync(&path, fd, &call))
    });
    synced.flatten().unwrap_or_else(call)
}

/// Tells the double that a name is about to be taken away from whatever has it.
pub fn losing(path: &Path) {
    within(|double| {
        if path.starts_with(&double.root)
            && let Ok(meta) = fs::symlink_metadata(path)
            && meta.is_file()
        {
            real::link(path, &double.grave.join(meta.ino().to_string()));
        }
    });
}

/// Tells the double of a folder that was just made.
pub fn made_dir(path: &Path) {
    within(|double| {
        if path.starts_with(&double.root)
            && let Ok(meta) = fs::symlink_metadata(path)
        {
            // The number may be one that a removed folder had.
            double.note(&format!("D {}", meta.ino()));
        }
    });
}

fn within<T>(work: impl FnOnce(&Double) -> T) -> Option<T> {
    let double = DOUBLE.get()?;
    if INSIDE.replace(true) {
        return None;
    }
    let done = work(double);
    INSIDE.set(false);
    Some(done)
}

impl Double {
    fn verdict(&self, kind: Kind, path: &Path) -> Verdict {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let grows = matches!(kind, Kind::Write | Kind::Name);
        if grows && self.full.load(Ordering::SeqCst) {
            return Verdict::Fail(libc::ENOSPC);
        }
        match self.plan {
            Plan::At(fault, at) if at == number => {
                if !fault.fits(kind) {
                    // Nothing more can come of this run.
                    real::kill_self();
                }
                self.note_strike(path);
                self.strike(fault)
            }
            Plan::FlakySyncs { seed, one_in }
                if kind == Kind::Sync && draw(seed, number).is_multiple_of(one_in) =>
            {
                self.note_strike(path);
                Verdict::Fail(libc::EIO)
            }
            Plan::DeafLog if kind == Kind::Sync && is_log(path) => Verdict::Skip,
            _ => Verdict::Pass,
        }
    }

    fn note_strike(&self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        self.note(&format!("X {}", name.to_string_lossy()));
    }

    fn strike(&self, fault: Fault) -> Verdict {
        match fault {
            Fault::Kill => real::kill_self(),
            Fault::Tear => Verdict::HalfThenKill,
            Fault::Short => Verdict::Half,
            Fault::Io => Verdict::Fail(libc::EIO),
            Fault::NoSpace => Verdict::Fail(libc::ENOSPC),
            Fault::Full => {
                self.full.store(true, Ordering::SeqCst);
                Verdict::Fail(libc::ENOSPC)
            }
        }
    }

    /// One at a time: of two syncs of one folder the journal must not end with the names that the earlier one saw.
    fn sync(&self, path: &Path, fd: c_int, call: impl Fn() -> c_int) -> c_int {
        let _one = self.syncing.lock();
        // What is written or named meanwhile need not be synced.
        let state = if path.is_dir() {
            dir_line(path)
        } else {
            real::ino_and_len(fd).map(|(ino, len)| format!("F {ino} {len}"))
        };
        let done = call();
        if let (0, Some(state)) = (done, state) {
            self.note(&state);
        }
        done
    }

    /// Notes a folder and all below it as durable.
    fn note_tree(&self, dir: &Path) {
        self.note(&dir_line(dir).unwrap());
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                self.note_tree(&entry.path());
            } else {
                self.note(&format!("F {} {}", meta.ino(), meta.len()));
            }
        }
    }

    fn note(&self, line: &str) {
        real::append(self.journal, &format!("{line}\n"));
    }
}

/// `D <inode> <name> <inode> ...`: the names of a folder.
fn dir_line(dir: &Path) -> Option<String> {
    let mut line = format!("D {}", fs::metadata(dir).ok()?.ino());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        assert!(!name.as_bytes().contains(&b' '), "{name:?} cannot be noted");
        if let Ok(meta) = entry.metadata() {
            line += &format!(" {} {}", name.to_string_lossy(), meta.ino());
        }
    }
    Some(line)
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "log")
}

/// SplitMix64: the `number`th draw of a seed.
pub fn draw(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
