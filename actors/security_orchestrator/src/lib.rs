#![doc = include_str!("../README.md")]

mod actor;
pub mod audit;
mod config;
mod core;
mod effects;
mod error;
mod handle;
mod metrics;
mod ports;
mod view;

pub use actor::SecurityOrchestrator;
pub use config::SecurityConfig;
pub use core::{
    Alert, Component, Decided, Decision, Effect, Indicator, IndicatorState, NODE, Orchestrator,
    Order, Quarantine, Refusal, Report, Rules, Standing, Standings, Step, Verdict,
};
pub use error::SecurityError;
pub use handle::{ComponentStatus, Dashboard, SecurityEvent, SecurityHandle};
pub use metrics::describe_metrics;
pub use ports::{AlertSink, AnchorSink, Components, PortError, Ports};
