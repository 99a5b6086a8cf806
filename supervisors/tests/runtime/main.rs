//! The runtime over real actix, real threads and real time. No test says how fast anything has to be.

mod lifecycle;
mod mailbox;
mod panics;
mod puppet;
mod stuck;
mod windows;
