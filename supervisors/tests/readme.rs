//! The README names a test for each sentence: each name is one of a test that there is.

use std::{collections::BTreeSet, fs, path::Path};

/// The text of all sources below `folder`.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the crate's own folder");
    let texts = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return sources(&path);
        }
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("rs") => fs::read_to_string(&path).expect("a source"),
            _ => String::new(),
        }
    });
    texts.collect()
}

/// The last parts of `module::a_test` between backticks; code and types hold other characters.
fn names(readme: &str) -> BTreeSet<&str> {
    let plain = |text: &&str| {
        text.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    let quoted = readme.split('`').skip(1).step_by(2).filter(plain);
    let paths = quoted.filter_map(|path| path.rsplit_once("::"));
    paths
        .map(|(_, name)| name)
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn each_test_that_the_readme_names_is_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&folder.join("src")) + &sources(&folder.join("tests"));
    let names = names(include_str!("../README.md"));
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
    }
}
