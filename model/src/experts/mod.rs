//! One expert's weights out of a model file, as the payload of a block, and back into a file that other tools read.
//!
//! A file is mapped, never read as a whole: what is held in memory is one expert in fp32. Everything here is a pure
//! function of the bytes; hostile bytes give an [`ExpertError`].

mod error;
mod file;
mod matrix;
mod select;
mod style;
mod write;

use blyan_formats::TensorName;
use blyan_formats::bodies::ArchitectureBody;
use blyan_formats::gguf::{Gguf, MAGIC};
use blyan_formats::tensorblock::TensorBuf;
use safetensors::SafeTensors;

pub use error::ExpertError;
pub use file::ModelFiles;
pub use write::{ExpertOrigin, write_expert, write_payload};

use crate::recipe::Recipe;
use matrix::Matrix;
use style::Style;

/// Whose weights are taken, and in which shape the chain wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `layer<N>.expert<M>`
    pub name: TensorName,
    /// N.
    pub layer: u16,
    /// M.
    pub expert: u16,
    /// H, the width of the residual stream.
    pub hidden: usize,
    /// F, neurons of one expert.
    pub neurons: usize,
}

impl Wanted {
    /// An expert of a model.
    ///
    /// # Errors
    /// [`ExpertError::NotAnExpert`]; [`ExpertError::NoSuchExpert`] if the model has none of that name.
    pub fn of(architecture: &ArchitectureBody, name: TensorName) -> Result<Self, ExpertError> {
        let (layer, expert) = name
            .layer()
            .zip(name.expert())
            .ok_or(ExpertError::NotAnExpert(name))?;
        if architecture.tensor_shape(&name).is_none() {
            return Err(ExpertError::NoSuchExpert {
                name,
                layers: architecture.layers,
                per_layer: architecture.experts.per_layer,
            });
        }
        Ok(Self {
            name,
            layer,
            expert,
            hidden: architecture.hidden as usize,
            neurons: architecture.experts.neurons as usize,
        })
    }
}

/// Parsed model files, all of one kind.
pub enum ExpertSource<'a> {
    /// One GGUF: the experts of a layer stacked in one tensor, or a dense model.
    Gguf(Gguf<'a>),
    /// One or more shards: one expert a tensor, or a dense model.
    Safetensors(Vec<SafeTensors<'a>>),
}

impl<'a> ExpertSource<'a> {
    /// Parses one file; its first bytes say which kind it is.
    ///
    /// # Errors
    /// [`ExpertError::Gguf`], [`ExpertError::Safetensors`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ExpertError> {
        if bytes.starts_with(&MAGIC) {
            return Ok(Self::Gguf(Gguf::parse(bytes)?));
        }
        Self::parse_shards([bytes])
    }

    /// Parses the shards of a safetensors model.
    ///
    /// # Errors
    /// [`ExpertError::Safetensors`] for the first that is none.
    pub fn parse_shards(shards: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ExpertError> {
        let shards = shards.into_iter().map(SafeTensors::deserialize);
        Ok(Self::Safetensors(shards.collect::<Result<_, _>>()?))
    }

    /// One expert as the chain keeps it: `[3F, H]`, rows of gate, of up, of down transposed, int8 in blocks of 32. A
    /// dense model needs the `recipe` that says which neurons of a layer are the expert's.
    ///
    /// # Errors
    /// What the file lacks, [`ExpertError::Shape`] if it has other shapes, [`ExpertError::Values`] for a value that
    /// is no finite number, [`ExpertError::NeedsRecipe`] and [`ExpertError::Recipe`].
    pub fn extract(
        &self,
        wanted: &Wanted,
        recipe: Option<&Recipe>,
    ) -> Result<TensorBuf, ExpertError> {
        let style = self
            .style(wanted)
            .ok_or_else(|| self.found_nothing(wanted))?;
        let [gate, up, down] = style.names(wanted).map(|name| self.require(&name));
        let matrices = [gate?, up?, down?];
        let selection = select::Selection::of(style.packing(), wanted, &matrices, recipe)?;
        let rows = selection.gather(&matrices, wanted.hidden)?;
        let quantised = TensorBuf::quantise_int8_blocks(3 * wanted.neurons, wanted.hidden, &rows);
        quantised.map_err(|why| ExpertError::Values {
            name: wanted.name,
            why,
        })
    }

    fn styles(&self) -> &'static [Style] {
        match self {
            Self::Gguf(_) => &style::GGUF,
            Self::Safetensors(_) => &style::SAFETENSORS,
        }
    }

    /// The first way of naming things of which this file has the gate.
    fn style(&self, wanted: &Wanted) -> Option<&'static Style> {
        let has_gate = |style: &&Style| self.holds(&style.names(wanted)[0]);
        self.styles().iter().find(has_gate)
    }

    fn found_nothing(&self, wanted: &Wanted) -> ExpertError {
        let names = self.styles().iter().map(|style| style.names(wanted));
        ExpertError::NotFound {
            name: wanted.name,
            looked_for: names.map(|[gate, ..]| gate).collect(),
        }
    }

    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Gguf(gguf) => gguf.tensor(name).is_ok(),
            Self::Safetensors(shards) => shards.iter().any(|shard| shard.tensor(name).is_ok()),
        }
    }

    fn require(&self, name: &str) -> Result<Matrix<'a>, ExpertError> {
        match self {
            Self::Gguf(gguf) => Ok(Matrix::of_gguf(*gguf.tensor(name)?)),
            Self::Safetensors(shards) => {
                let found = shards.iter().find_map(|shard| shard.tensor(name).ok());
                let view = found.ok_or_else(|| ExpertError::Missing(name.to_owned()))?;
                Matrix::of_safetensors(name, &view)
            }
        }
    }
}
