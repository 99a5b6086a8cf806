//! Holds no code. It is a dev-dependency of every package: it names every outside crate, so that
//! `cargo test -p one` resolves the same features as `cargo test --workspace` and shares its build.
