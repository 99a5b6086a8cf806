//! From a spec to the core's arena.

use std::{collections::HashMap, sync::Arc};

use crate::{
    SpecError,
    core::{Core, Ix},
    gate::GateControl,
    spec::{AnyWorker, Member},
};

/// Puts the members of a spec into the core and hands out their gates.
pub(crate) struct Planter<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) gates: &'a mut HashMap<Ix, Arc<dyn GateControl>>,
    pub(crate) workers: &'a mut HashMap<Ix, Arc<dyn AnyWorker>>,
}

impl Planter<'_> {
    pub(crate) fn plant_all(&mut self, ix: Ix, members: Vec<Member>) -> Result<(), SpecError> {
        members
            .into_iter()
            .try_for_each(|member| self.plant(ix, member))
    }

    fn plant(&mut self, parent: Ix, member: Member) -> Result<(), SpecError> {
        match member {
            Member::Worker(spec) => self.plant_worker(parent, spec),
            Member::Supervisor(spec) => {
                let ix = self.core.add_supervisor(
                    parent,
                    &spec.id,
                    spec.rules,
                    spec.strategy,
                    spec.window,
                );
                self.plant_all(ix, spec.members)
            }
        }
    }

    pub(crate) fn plant_worker(
        &mut self,
        parent: Ix,
        spec: Arc<dyn AnyWorker>,
    ) -> Result<(), SpecError> {
        let path = self.core.path_below(parent, spec.id());
        let gate = spec.gate();
        if !gate.place(&path) {
            let path = path.to_string();
            return Err(SpecError::BoundTwice { path });
        }
        let ix = self
            .core
            .add_worker(parent, spec.id(), spec.rules().clone());
        self.gates.insert(ix, gate);
        self.workers.insert(ix, spec);
        Ok(())
    }
}
