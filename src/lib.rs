//! A Blyan node: configuration, edge, command line, and the wiring that joins the actors.

pub mod cli;
pub mod config;
pub mod edge;
pub mod https;
pub mod telemetry;
pub mod wiring;
