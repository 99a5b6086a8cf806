//! The chain against real stores on disk, through its public interface.

mod publish;
mod store;
mod support;
