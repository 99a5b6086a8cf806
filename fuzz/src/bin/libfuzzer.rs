//! One target under libFuzzer, whose options it takes: `BLYAN_FUZZ_TARGET=gguf blyan-libfuzzer -runs=1000 FOLDER`.
//! With `BLYAN_FUZZ_SEEDS=FOLDER` it writes the inputs to begin with there, and runs nothing.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use blyan_fuzz::{TARGETS, Target, target};

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("BLYAN_FUZZ_TARGET").unwrap_or_default();
    let Some(chosen) = target(&name) else {
        let names = TARGETS.map(|target| target.name).join(", ");
        eprintln!("BLYAN_FUZZ_TARGET is {name:?}; it must be one of {names}");
        std::process::exit(2);
    };
    if let Some(folder) = std::env::var_os("BLYAN_FUZZ_SEEDS") {
        write_seeds(chosen, folder.as_ref());
        std::process::exit(0);
    }
    CHOSEN.get_or_init(|| chosen);
}

fn write_seeds(target: &Target, folder: &Path) {
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = folder.join(format!("seed-{number}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

libfuzzer_sys::fuzz_target!(init: choose(), |input: &[u8]| {
    if let Some(chosen) = CHOSEN.get() {
        (chosen.run)(input);
    }
});
