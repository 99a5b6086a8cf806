//! Fit and import on a toy model.

mod crashes;
mod fit;
mod import;
mod support;
