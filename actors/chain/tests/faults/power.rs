//! What a power cut leaves of a directory, by the journal of the double.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing of it is left.
    ForgetsAll,
    /// Of each file some more is left than was synced, and of each folder either the synced names or the last ones.
    ForgetsSome {
        /// Of the choices.
        seed: u64,
    },
}

/// The last state of everything that was synced, by inode.
#[derive(Default)]
struct Durable {
    files: HashMap<u64, u64>,
    dirs: HashMap<u64, Vec<(String, u64)>>,
}

impl Durable {
    fn of(journal: &str) -> Self {
        let mut durable = Self::default();
        for line in journal.lines() {
            let mut words = line.split(' ');
            let (what, ino) = (words.next().unwrap(), words.next());
            let number = |word: &str| word.parse::<u64>().unwrap();
            match what {
                "F" => {
                    let len = number(words.next().unwrap());
                    durable.files.insert(number(ino.unwrap()), len);
                }
                "D" => {
                    let rest: Vec<_> = words.collect();
                    let names = rest
                        .chunks(2)
                        .map(|pair| (pair[0].to_owned(), number(pair[1])));
                    durable.dirs.insert(number(ino.unwrap()), names.collect());
                }
                "X" => {}
                other => panic!("the journal says {other}"),
            }
        }
        durable
    }
}

/// A directory that was left, and what is known of it.
struct Left {
    durable: Durable,
    /// Where each inode is found now.
    places: HashMap<u64, PathBuf>,
    cut: Cut,
}

/// Makes in `to`, which is not there yet, what a cut would have left of `root`.
pub fn cut(root: &Path, journal: &Path, grave: &Path, cut: Cut, to: &Path) {
    let mut places = HashMap::new();
    find_places(grave, &mut places);
    find_places(root, &mut places);
    let left = Left {
        durable: Durable::of(&fs::read_to_string(journal).unwrap()),
        places,
        cut,
    };
    left.rebuild_dir(fs::metadata(root).unwrap().ino(), to);
}

fn find_places(dir: &Path, places: &mut HashMap<u64, PathBuf>) {
    let meta = fs::metadata(dir).unwrap();
    places.insert(meta.ino(), dir.to_owned());
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            find_places(&entry.path(), places);
        } else {
            places.insert(meta.ino(), entry.path());
        }
    }
}

impl Left {
    fn rebuild_dir(&self, ino: u64, to: &Path) {
        fs::create_dir(to).unwrap();
        for (name, ino) in self.names(ino) {
            let to = to.join(name);
            match self.places.get(&ino) {
                Some(place) if place.is_dir() => self.rebuild_dir(ino, &to),
                Some(place) => self.rebuild_file(ino, place, &to),
                // A folder whose removal was not synced; its files lie in the grave.
                None if self.durable.dirs.contains_key(&ino) => self.rebuild_dir(ino, &to),
                None => panic!("{} had inode {ino}, which is nowhere", to.display()),
            }
        }
    }

    fn names(&self, ino: u64) -> Vec<(String, u64)> {
        let now = self.places.get(&ino);
        if let (Some(now), true) = (now, self.keeps(ino)) {
            let entries = fs::read_dir(now).unwrap().map(Result::unwrap);
            return entries
                .map(|entry| {
                    let ino = entry.metadata().unwrap().ino();
                    (entry.file_name().into_string().unwrap(), ino)
                })
                .collect();
        }
        self.durable.dirs.get(&ino).cloned().unwrap_or_default()
    }

    fn rebuild_file(&self, ino: u64, place: &Path, to: &Path) {
        let bytes = fs::read(place).unwrap();
        let synced = self.durable.files.get(&ino).copied().unwrap_or(0);
        let synced = usize::try_from(synced).unwrap().min(bytes.len());
        let unsynced = bytes.len() - synced;
        let kept = match self.cut {
            Cut::ForgetsSome { seed } if unsynced > 0 => {
                usize::try_from(crate::double::draw(seed, ino)).unwrap() % (unsynced + 1)
            }
            _ => 0,
        };
        fs::write(to, &bytes[..synced + kept]).unwrap();
    }

    /// Whether the names that a folder has now are left.
    fn keeps(&self, ino: u64) -> bool {
        match self.cut {
            Cut::ForgetsAll => false,
            Cut::ForgetsSome { seed } => crate::double::draw(seed, ino).is_multiple_of(2),
        }
    }
}
