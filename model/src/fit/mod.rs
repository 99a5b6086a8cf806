//! From a model file and text to a recipe.

mod cluster;
mod ridge;
