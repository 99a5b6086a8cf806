//! The way in for faults: nothing in `blyan`, real ones in `blyan-faultnode`.

use std::sync::Arc;

use blyan_inference::step::StepEngine;
use blyan_supervisors::{NoProbe, Probe};

/// Lets the actor behind a fault point handle a message.
pub type Poke = Arc<dyn Fn(&str) + Send + Sync>;

/// Puts something between the replicas and their engine.
pub type AroundEngine = Arc<dyn Fn(Arc<dyn StepEngine>) -> Arc<dyn StepEngine> + Send + Sync>;

/// Where faults get into the parts of a node.
#[derive(Clone)]
pub struct Seams {
    /// Hit at named points.
    pub probe: Arc<dyn Probe>,
    /// Sees each step with the tokens of its rows.
    pub around_engine: AroundEngine,
}

/// The faults of a process.
pub struct Faults {
    /// Passed to every part.
    pub seams: Seams,
    /// Called once the node runs.
    pub driver: Option<Box<dyn FnOnce(Poke)>>,
}

impl Faults {
    /// None.
    pub fn none() -> Self {
        Self {
            seams: Seams {
                probe: Arc::new(NoProbe),
                around_engine: Arc::new(|engine| engine),
            },
            driver: None,
        }
    }
}
