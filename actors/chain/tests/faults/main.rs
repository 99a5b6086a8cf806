//! The chain on disks that tear, shorten, fail and forget, at every call, and killed at random.
//!
//! The double of the disk ([`double`]) is not below the chain alone: this binary defines libc's calls on files, so it
//! sees those of RocksDB too, and needs nothing of the chain's own code. A child process runs a script ([`script`])
//! over it and says on its output what was acknowledged. Then [`power`] makes a directory as a power cut would have
//! left it, and [`check`] opens both that one and the one that a kill left.
//!
//! What it shows: that no call's failure loses or half publishes anything, and that nothing is acknowledged that was
//! not synced. What it cannot: the order in which a disk keeps blocks of one file that were not synced (what survives of
//! a file is a prefix), and a disk that lies about syncs.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod check;
mod double;
mod every_call;
mod hooks;
mod kills;
mod mutants;
mod power;
mod run;
mod said;
mod script;
#[allow(dead_code, reason = "shared with the tests of the chain")]
#[path = "../chain/support.rs"]
mod support;
