//! The chain against real stores on disk, through its public interface.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod contract;
mod publish;
mod rules;
mod store;
mod support;
mod verification;
