//! What an import does to a model file: written by a fit, committed, and read again.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blyan_formats::ContentHash;
use blyan_formats::block::TIMESTAMP_MS_MAX;
use blyan_formats::bodies::{Decimal, ExpertShape};
use ndarray::Array2;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ModelError;

/// Longest recipe in bytes.
pub const RECIPE_LEN_MAX: u64 = 64 << 20;

/// Version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipeFormat {
    /// The first.
    #[serde(rename = "blyan-recipe/1")]
    V1,
}

/// How to split a model file into experts, and everything else that decides the bytes of an import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version.
    pub format: RecipeFormat,
    /// The one model file that this is for.
    pub source: Source,
    /// What the architecture block calls the model.
    pub model: ModelRecord,
    /// Timestamp of every imported block, in ms since 1970-01-01 UTC.
    pub timestamp_ms: u64,
    /// Experts of a layer.
    pub experts: ExpertShape,
    /// Where the numbers come from; nothing of it enters a block.
    pub fit: FitRecord,
    /// One entry per layer.
    pub layers: Vec<LayerSplit>,
}

/// A model's name and licence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// For people, for instance `SmolLM2-135M-Instruct`.
    pub name: String,
    /// SPDX expression.
    pub license: String,
}

/// A model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name, for people.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its SHA-256.
    pub sha256: ContentHash,
}

/// How a recipe was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitRecord {
    /// The rule that grouped the neurons.
    pub grouping: Grouping,
    /// Seed of everything random.
    pub seed: u64,
    /// Tokens of the texts that were used.
    pub tokens: usize,
    /// Penalty of the ridge regression, in mean variances of an input.
    pub ridge_penalty: Decimal,
    /// The texts.
    pub texts: Vec<TextRecord>,
}

/// A text that a model was fitted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// Its file's name.
    pub file: String,
    /// Its file's SHA-256.
    pub sha256: ContentHash,
}

/// Which neurons of a layer go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// The neurons with most energy are always on; the others stand with those that act at the same time.
    CoActivation,
    /// In file order; a yardstick for the others.
    Contiguous,
    /// By chance; a yardstick for the others.
    Random,
}

/// One layer's experts and router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSplit {
    /// Per expert its neurons, ascending; the always-on experts come first.
    pub experts: Vec<Vec<u16>>,
    /// `[routed, H + 1]`, the bias in the last column; row r scores expert `always_on` + r.
    pub router: RouterWeights,
}

/// fp32 values, in the recipe as base64 of their little-endian bytes, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterWeights(pub Vec<f32>);

impl From<Array2<f32>> for RouterWeights {
    fn from(weights: Array2<f32>) -> Self {
        Self(weights.into_iter().collect())
    }
}

impl Serialize for RouterWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for RouterWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let bytes = BASE64
            .decode(String::deserialize(deserializer)?)
            .map_err(D::Error::custom)?;
        let (weights, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(D::Error::custom("router weights are not whole fp32 values"));
        }
        Ok(Self(
            weights.iter().map(|w| f32::from_le_bytes(*w)).collect(),
        ))
    }
}

impl Recipe {
    /// Reads a recipe from a file and validates it.
    ///
    /// # Errors
    /// [`ModelError::Unreadable`], [`ModelError::TooLong`], [`ModelError::Recipe`].
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::parse(&read_bounded(path, RECIPE_LEN_MAX)?)
    }

    /// Reads a recipe from JSON and validates it.
    ///
    /// # Errors
    /// [`ModelError::Recipe`] with the first fault.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let recipe: Self =
            serde_json::from_slice(json).map_err(|error| ModelError::Recipe(error.to_string()))?;
        recipe.validate().map_err(ModelError::Recipe)?;
        Ok(recipe)
    }

    /// The recipe as JSON: one line per layer, so that a change of one layer reads as one.
    ///
    /// # Errors
    /// [`ModelError::Recipe`] if it is not valid.
    pub fn to_json(&self) -> Result<String, ModelError> {
        self.validate().map_err(ModelError::Recipe)?;
        let fail = |error: serde_json::Error| ModelError::Recipe(error.to_string());
        let head = serde_json::to_string_pretty(&Self {
            layers: Vec::new(),
            ..self.clone()
        })
        .map_err(fail)?;
        let layers = self
            .layers
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        let layers = format!("\"layers\": [\n    {}\n  ]", layers.join(",\n    "));
        Ok(head.replace("\"layers\": []", &layers) + "\n")
    }

    fn validate(&self) -> Result<(), String> {
        if self.timestamp_ms > TIMESTAMP_MS_MAX {
            return Err("the timestamp lies after the year 9999".into());
        }
        if self.experts.always_on >= self.experts.per_layer {
            return Err("no expert is left to be routed".into());
        }
        for (number, layer) in self.layers.iter().enumerate() {
            layer
                .validate(&self.experts)
                .map_err(|why| format!("layer {number}: {why}"))?;
        }
        Ok(())
    }
}

impl LayerSplit {
    fn validate(&self, shape: &ExpertShape) -> Result<(), String> {
        let neurons = shape.neurons as usize;
        if self.experts.len() != usize::from(shape.per_layer) {
            return Err(format!(
                "{} experts instead of {}",
                self.experts.len(),
                shape.per_layer
            ));
        }
        if let Some(number) = self
            .experts
            .iter()
            .position(|expert| expert.len() != neurons)
        {
            return Err(format!("expert {number} has not {neurons} neurons"));
        }
        let mut seen = vec![false; neurons * self.experts.len()];
        for neuron in self.experts.iter().flatten() {
            match seen.get_mut(usize::from(*neuron)) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(format!("neuron {neuron} stands twice or does not exist")),
            }
        }
        if self.router.0.iter().any(|weight| !weight.is_finite()) {
            return Err("a router weight is not finite".into());
        }
        Ok(())
    }
}

/// A whole file of at most `len_max` bytes.
pub(crate) fn read_bounded(path: &Path, len_max: u64) -> Result<Vec<u8>, ModelError> {
    let unreadable = |why| ModelError::Unreadable {
        path: path.into(),
        why,
    };
    let file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let too_long = |len| ModelError::TooLong {
        path: path.into(),
        len,
        len_max,
    };
    if len > len_max {
        return Err(too_long(len));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(len_max + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > len_max {
        return Err(too_long(bytes.len() as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blyan_formats::bodies::Routing;

    fn recipe() -> Recipe {
        Recipe {
            format: RecipeFormat::V1,
            source: Source {
                file: "model.gguf".into(),
                len: 7,
                sha256: ContentHash::of(b"a model"),
            },
            model: ModelRecord {
                name: "model".into(),
                license: "MIT".into(),
            },
            timestamp_ms: 1_700_000_000_000,
            experts: ExpertShape {
                per_layer: 2,
                always_on: 1,
                neurons: 2,
                routing: Routing::TopScoresUnitWeight,
            },
            fit: FitRecord {
                grouping: Grouping::CoActivation,
                seed: 1,
                tokens: 12,
                ridge_penalty: "0.01".parse().unwrap(),
                texts: vec![TextRecord {
                    file: "text.txt".into(),
                    sha256: ContentHash::of(b"a text"),
                }],
            },
            layers: vec![
                LayerSplit {
                    experts: vec![vec![0, 3], vec![1, 2]],
                    router: RouterWeights(vec![0.5, -1.25, 1e-30]),
                },
                LayerSplit {
                    experts: vec![vec![1, 2], vec![0, 3]],
                    router: RouterWeights(vec![0.0, f32::MIN, 3.0]),
                },
            ],
        }
    }

    #[test]
    fn json_round_trips_with_one_line_per_layer() {
        let json = recipe().to_json().unwrap();
        assert_eq!(Recipe::parse(json.as_bytes()).unwrap(), recipe());
        assert_eq!(
            json.lines()
                .filter(|line| line.contains("\"router\""))
                .count(),
            2
        );
    }

    #[test]
    fn maps_that_are_no_permutation_are_refused() {
        let refused = |change: fn(&mut Recipe)| {
            let mut recipe = recipe();
            change(&mut recipe);
            recipe.to_json().unwrap_err().to_string()
        };
        assert!(refused(|r| r.layers[1].experts[0][0] = 3).contains("layer 1: neuron 3"));
        assert!(refused(|r| r.layers[0].experts[1][1] = 4).contains("layer 0: neuron 4"));
        assert!(refused(|r| r.layers[0].experts[1].push(4)).contains("expert 1"));
        assert!(refused(|r| r.layers[0].experts.truncate(1)).contains("1 experts instead of 2"));
        assert!(refused(|r| r.layers[0].router.0[1] = f32::NAN).contains("finite"));
        assert!(refused(|r| r.timestamp_ms = u64::MAX).contains("9999"));
    }

    #[test]
    fn unknown_fields_and_versions_are_refused() {
        let json = recipe().to_json().unwrap();
        for (from, to) in [
            ("blyan-recipe/1", "blyan-recipe/2"),
            ("\"seed\"", "\"sead\""),
            ("{", "{\"more\": 1,"),
        ] {
            assert!(
                Recipe::parse(json.replacen(from, to, 1).as_bytes()).is_err(),
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn long_files_are_refused_before_they_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(RECIPE_LEN_MAX + 1).unwrap();
        assert!(matches!(
            Recipe::read(file.path()),
            Err(ModelError::TooLong { .. })
        ));
        assert!(matches!(
            Recipe::read(Path::new("/no/such/recipe")),
            Err(ModelError::Unreadable { .. })
        ));
    }
}
