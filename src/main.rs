//! The node and its command line.

use std::process::ExitCode;

use blyan::wiring::Faults;

fn main() -> ExitCode {
    blyan::cli::run(Faults::none())
}
