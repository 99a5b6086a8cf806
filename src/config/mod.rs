//! The node's configuration: built-in defaults, a file, the environment, the command line, in this order.

mod layers;
mod sections;

pub use layers::{ConfigError, Overrides, Sources};
pub use sections::{
    AlertsConfig, ChatConfig, Config, EdgeConfig, ModelConfig, NodeConfig, PricingConfig,
    RuntimeConfig, SupervisionConfig,
};

/// The defaults, with every key and its meaning.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
