//! Replicas in a real supervision tree, seen through the handle. The model is a toy; scheduling, streams, receipts and
//! restarts are the real ones.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod answers;
mod cancels;
mod editions;
mod experts;
mod failures;
mod house;
mod limits;
mod local;
mod receipts;
mod toy;
