//! The way in for faults in tests.

/// Called by actors at named points. A test's probe may panic, block or return; production has [`NoProbe`].
pub trait Probe: Send + Sync {
    /// `point` names the place, such as `chain` or `inference-1`.
    fn hit(&self, point: &str);
}

/// The probe that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    fn hit(&self, _point: &str) {}
}
