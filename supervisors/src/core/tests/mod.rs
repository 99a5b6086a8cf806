//! The core against a world of actors that do as they are told.

mod differences;
mod model;
mod orders;
mod otp;
mod plain;
mod policies;
mod random;
mod starting;
mod stopping;
mod table;
mod telling;
mod world;
