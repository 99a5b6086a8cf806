//! Names of the tensors of a model, as blocks and manifests use them (CHAIN-09).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

use crate::block::BlockType;

/// A text that names no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tensor name: {0:?}")]
pub struct NameError(String);

/// Longest text quoted in a [`NameError`], in characters.
const QUOTED_MAX: usize = 64;

/// Which weights of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerPart {
    AttnNorm,
    AttnQkv,
    AttnOutput,
    FfnNorm,
    Router,
    Expert(u16),
}

/// The name of one tensor: `layer<N>.expert<M>`, `layer<N>.router`, `layer<N>.attn_norm`, `layer<N>.attn_qkv`,
/// `layer<N>.attn_output`, `layer<N>.ffn_norm`, `embedding`, `output_norm`. Numbers are written without leading
/// zeros; one name has one text. The order is numeric: embedding, then layer by layer, then the output norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorName {
    Embedding,
    Layer { layer: u16, part: LayerPart },
    OutputNorm,
}

impl TensorName {
    #[must_use]
    pub const fn layer_part(layer: u16, part: LayerPart) -> Self {
        Self::Layer { layer, part }
    }

    #[must_use]
    pub const fn expert_of(layer: u16, expert: u16) -> Self {
        Self::layer_part(layer, LayerPart::Expert(expert))
    }

    /// The layer, unless the tensor stands outside of all layers.
    #[must_use]
    pub const fn layer(&self) -> Option<u16> {
        match self {
            Self::Layer { layer, .. } => Some(*layer),
            Self::Embedding | Self::OutputNorm => None,
        }
    }

    /// The expert's number within its layer, if the tensor is an expert.
    #[must_use]
    pub const fn expert(&self) -> Option<u16> {
        match self {
            Self::Layer {
                part: LayerPart::Expert(expert),
                ..
            } => Some(*expert),
            _ => None,
        }
    }

    /// The type of the block that carries this tensor.
    #[must_use]
    pub const fn block_type(&self) -> BlockType {
        match self {
            Self::Layer {
                part: LayerPart::Expert(_),
                ..
            } => BlockType::Expert,
            Self::Layer {
                part: LayerPart::Router,
                ..
            } => BlockType::Router,
            _ => BlockType::SharedWeights,
        }
    }
}

impl fmt::Display for LayerPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttnNorm => f.write_str("attn_norm"),
            Self::AttnQkv => f.write_str("attn_qkv"),
            Self::AttnOutput => f.write_str("attn_output"),
            Self::FfnNorm => f.write_str("ffn_norm"),
            Self::Router => f.write_str("router"),
            Self::Expert(number) => write!(f, "expert{number}"),
        }
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::OutputNorm => f.write_str("output_norm"),
            Self::Layer { layer, part } => write!(f, "layer{layer}.{part}"),
        }
    }
}

impl FromStr for TensorName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_name(text).ok_or_else(|| NameError(text.chars().take(QUOTED_MAX).collect()))
    }
}

fn parse_name(text: &str) -> Option<TensorName> {
    match text {
        "embedding" => return Some(TensorName::Embedding),
        "output_norm" => return Some(TensorName::OutputNorm),
        _ => {}
    }
    let (layer, part) = text.strip_prefix("layer")?.split_once('.')?;
    Some(TensorName::layer_part(
        parse_number(layer)?,
        parse_part(part)?,
    ))
}

fn parse_part(text: &str) -> Option<LayerPart> {
    Some(match text {
        "attn_norm" => LayerPart::AttnNorm,
        "attn_qkv" => LayerPart::AttnQkv,
        "attn_output" => LayerPart::AttnOutput,
        "ffn_norm" => LayerPart::FfnNorm,
        "router" => LayerPart::Router,
        _ => LayerPart::Expert(parse_number(text.strip_prefix("expert")?)?),
    })
}

/// A decimal number as it is printed: digits only, no leading zero.
fn parse_number(text: &str) -> Option<u16> {
    let printed =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    printed.then(|| text.parse().ok())?
}

impl Serialize for TensorName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TensorName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::hash::deserialize_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "embedding",
            "output_norm",
            "layer0.attn_norm",
            "layer7.attn_qkv",
            "layer7.attn_output",
            "layer65535.ffn_norm",
            "layer4.router",
            "layer4.expert15",
            "layer0.expert0",
        ] {
            assert_eq!(text.parse::<TensorName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "layer",
            "layer1",
            "layer1.",
            "layer01.router",
            "layer+1.router",
            "layer65536.router",
            "layer1.expert",
            "layer1.expert01",
            "layer1.expert-1",
            "layer1.expert1 ",
            "Layer1.router",
            "layer1.router.x",
            "layer1.expert1#0/2",
            "layer٣.router",
        ] {
            assert!(text.parse::<TensorName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn parts_are_readable() {
        let name: TensorName = "layer3.expert12".parse().unwrap();
        assert_eq!(
            (name.layer(), name.expert(), name.block_type()),
            (Some(3), Some(12), BlockType::Expert)
        );
        let name: TensorName = "layer3.router".parse().unwrap();
        assert_eq!(
            (name.layer(), name.expert(), name.block_type()),
            (Some(3), None, BlockType::Router)
        );
        assert_eq!(TensorName::Embedding.block_type(), BlockType::SharedWeights);
        assert!(TensorName::expert_of(2, 9) < TensorName::expert_of(2, 10));
    }
}
