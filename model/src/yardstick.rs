//! What the model on a chain is compared with: the model of the file, and splits of it that know nothing.

use std::sync::Arc;

use blyan_formats::bodies::ArchitectureBody;
use blyan_inference::engine::Engine;

use crate::ModelError;
use crate::dense::{DenseWeights, Runtime};
use crate::file::SourceFile;
use crate::fit::{FitOptions, FitProgress, Text, fit_weights, tokenise};
use crate::import::describe;
use crate::recipe::{Grouping, Recipe};
use crate::source::SourceModel;
use crate::split::{dense_engine, split_engine};

/// A recipe's model file in fp32, from which engines are made that never saw a chain.
pub struct Yardsticks {
    architecture: ArchitectureBody,
    weights: Arc<DenseWeights>,
    runtime: Runtime,
}

impl Yardsticks {
    /// De-quantises a recipe's model file, about four bytes a parameter.
    ///
    /// # Errors
    /// [`ModelError::OtherSource`]; what the file lacks.
    pub fn load(file: &SourceFile, recipe: &Recipe, runtime: Runtime) -> Result<Self, ModelError> {
        file.check_against(&recipe.source)?;
        let source = SourceModel::parse(file.bytes())?;
        let architecture = describe(&source, &recipe.model, recipe.experts)?;
        let weights = Arc::new(DenseWeights::load(&source, &architecture)?);
        Ok(Self {
            architecture,
            weights,
            runtime,
        })
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn tokenise(&self, text: &Text) -> Result<Vec<u32>, ModelError> {
        tokenise(&self.architecture, text)
    }

    /// The model of the file, before any split.
    ///
    /// # Errors
    /// [`ModelError::Engine`].
    pub fn dense(&self) -> Result<Engine, ModelError> {
        Ok(dense_engine(&self.weights, &self.runtime)?)
    }

    /// A split of the file, in fp32.
    ///
    /// # Errors
    /// [`ModelError::Engine`].
    pub fn split(&self, recipe: &Recipe) -> Result<Engine, ModelError> {
        Ok(split_engine(&self.weights, &self.runtime, &recipe.layers)?)
    }

    /// The same number and size of experts as `recipe` has, grouped in another way, with routers fitted like the
    /// recipe's: in fp32, on `texts`, with as many tokens and the same seed. The router is what such a split needs most
    /// help with, so it gets a full one.
    ///
    /// # Errors
    /// As [`crate::fit()`].
    pub fn other_split(
        &self,
        recipe: &Recipe,
        grouping: Grouping,
        texts: &[Text],
        progress: FitProgress<'_>,
    ) -> Result<Engine, ModelError> {
        let options = FitOptions {
            model: recipe.model.clone(),
            experts: recipe.experts,
            grouping,
            seed: recipe.fit.seed,
            tokens: recipe.fit.tokens,
            ridge_penalty: recipe.fit.ridge_penalty.clone(),
            timestamp_ms: recipe.timestamp_ms,
            runtime: self.runtime.clone(),
        };
        let fitted = fit_weights(&self.architecture, &self.weights, texts, &options, progress)?;
        Ok(split_engine(&self.weights, &self.runtime, &fitted.layers)?)
    }
}
