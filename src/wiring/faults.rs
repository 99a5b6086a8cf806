//! The way in for faults: nothing in `blyan`, a real probe in `blyan-faultnode`.

use std::sync::Arc;

use blyan_supervisors::{NoProbe, Probe};

/// Lets the actor behind a fault point handle a message.
pub type Poke = Arc<dyn Fn(&str) + Send + Sync>;

/// The faults of a process.
pub struct Faults {
    /// Passed to every part.
    pub probe: Arc<dyn Probe>,
    /// Called once the node runs.
    pub driver: Option<Box<dyn FnOnce(Poke)>>,
}

impl Faults {
    /// None.
    pub fn none() -> Self {
        Self {
            probe: Arc::new(NoProbe),
            driver: None,
        }
    }
}
