//! A Blyan node: configuration, edge, command line, and the wiring that joins the actors.

pub mod config;
pub mod edge;
