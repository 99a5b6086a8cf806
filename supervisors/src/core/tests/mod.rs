//! The core against a world of actors that do as they are told.

mod policies;
mod random;
mod world;
