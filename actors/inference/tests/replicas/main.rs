//! Replicas in a real supervision tree, seen through the handle. The model is a toy; scheduling, streams, receipts and
//! restarts are the real ones.

mod answers;
mod cancels;
mod experts;
mod failures;
mod house;
mod limits;
mod local;
mod receipts;
mod toy;
