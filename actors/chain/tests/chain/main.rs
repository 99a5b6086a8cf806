//! The chain against real stores on disk, through its public interface.

mod contract;
mod publish;
mod rules;
mod store;
mod support;
mod verification;
