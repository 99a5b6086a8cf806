#![doc = include_str!("../README.md")]

mod heap;
mod targets;

/// Something that reads bytes of others, and the laws that hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and its folder below `corpus/`.
    pub name: &'static str,
    /// Reads an input; panics where a law is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with, most of them sound.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Longest input that is worth a try, in bytes: all bounds that lie above are ones on lengths alone.
pub const INPUT_LEN_MAX: usize = 8192;

/// All targets.
pub const TARGETS: [Target; 6] = [
    targets::canonical::TARGET,
    targets::block::TARGET,
    targets::tensorblock::TARGET,
    targets::gguf::TARGET,
    targets::safetensors::TARGET,
    targets::uploads::TARGET,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
