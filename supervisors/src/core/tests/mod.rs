//! The core against a world of actors that do as they are told.

mod differences;
mod model;
mod otp;
mod plain;
mod policies;
mod random;
mod stopping;
mod table;
mod world;
