#![doc = include_str!("../README.md")]

pub mod dense;
mod error;
pub mod eval;
pub mod experts;
mod file;
pub mod fit;
pub mod import;
mod linalg;
pub mod recipe;
pub mod source;
mod split;

pub use error::ModelError;
pub use file::SourceFile;
pub use fit::{FitOptions, Text, fit};
pub use import::{ImportOptions, ImportProgress, Imported, Phase, import};
pub use linalg::Singular;
pub use recipe::Recipe;
pub use source::SourceModel;
pub use split::{dense_engine, split_engine};
