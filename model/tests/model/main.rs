//! Fit and import on a toy model.

mod crashes;
mod expert_files;
mod experts;
mod fit;
mod import;
mod support;
