#![doc = include_str!("../README.md")]

mod error;
mod file;
pub mod fit;
pub mod import;
mod linalg;
pub mod recipe;
pub mod source;

pub use error::ModelError;
pub use file::SourceFile;
pub use import::{ImportOptions, Imported, Phase, Progress, import};
pub use linalg::Singular;
pub use recipe::Recipe;
pub use source::SourceModel;
