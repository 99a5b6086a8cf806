//! The chain against real stores on disk, through its public interface.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod contract;
mod export;
mod flips;
mod plain;
mod publish;
mod rules;
mod scrub;
mod snapshots;
mod store;
mod support;
mod uploads;
mod vectors;
mod verification;
mod versions;
